// The selective scan in vectors of 8 (AVX2 and FMA).
#if defined(__x86_64__)

#include <immintrin.h>

#include "scan.h"

// Headers stay above: see scan_avx512.cpp.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

namespace affuse {
namespace {

template <int N>
struct Size {
  static constexpr int value = N;
};

struct V {
  using type = __m256;
  static constexpr int W = 8, FORWARD = 8, BACKWARD = 4;
  static __m256i mask(int lanes) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static type load(const float* p) { return _mm256_loadu_ps(p); }
  static type load_some(const float* p, int lanes) { return _mm256_maskload_ps(p, mask(lanes)); }
  static void store(float* p, type x) { _mm256_storeu_ps(p, x); }
  static void store_some(float* p, type x, int lanes) { _mm256_maskstore_ps(p, mask(lanes), x); }
  static type set1(float x) { return _mm256_set1_ps(x); }
  static type zero() { return _mm256_setzero_ps(); }
  static type mul(type a, type b) { return _mm256_mul_ps(a, b); }
  static type add(type a, type b) { return _mm256_add_ps(a, b); }
  static type fma(type a, type b, type c) { return _mm256_fmadd_ps(a, b, c); }
  static void riffle(type a, type b, type& first, type& second) {  // a0 b0 a1 b1 ... a7 b7
    const type low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    first = _mm256_permute2f128_ps(low, high, 0x20), second = _mm256_permute2f128_ps(low, high, 0x31);
  }
  static float sum(type x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
  }
  // Adding 1.5 * 2^23 + 127 rounds to a whole number and leaves it, plus the bias of an exponent, in the lowest bits; at
  // -127 that is the exponent of 0, at 128 that of infinity. A NaN passes both bounds, which return their second operand.
  static type exp2(type z) {
    z = _mm256_min_ps(set1(128.0f), _mm256_max_ps(set1(-127.0f), z));
    const type shift = set1(12582912.0f + 127.0f);
    const type shifted = add(z, shift);
    const type f = _mm256_sub_ps(z, _mm256_sub_ps(shifted, shift));
    type p = set1(exp2_coefficients[4]);
    for (int i = 3; i >= 0; --i) p = fma(p, f, set1(exp2_coefficients[i]));
    return mul(fma(p, f, set1(1.0f)), _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
  }
};

#include "scan_kernel.h"

}  // namespace

const ScanInstance scan_avx2 = {V::W, forward_scratch, backward_scratch, forward, backward, unpack_all, multiply_add};

}  // namespace affuse

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
