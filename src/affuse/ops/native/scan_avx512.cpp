// The selective scan in vectors of 16 (AVX-512).
#if defined(__x86_64__)

#include <immintrin.h>

#include "scan.h"

// All that follows may use these instructions. Headers stay above: an inline function of theirs, compiled here, could
// replace the same function elsewhere when the parts are linked, and then fail on a processor without them.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif

namespace affuse {
namespace {

template <int N>
struct Size {
  static constexpr int value = N;
};

struct V {
  using type = __m512;
  static constexpr int W = 16, FORWARD = 8, BACKWARD = 8;
  static __mmask16 mask(int lanes) { return static_cast<__mmask16>((1u << lanes) - 1u); }
  static type load(const float* p) { return _mm512_loadu_ps(p); }
  static type load_some(const float* p, int lanes) { return _mm512_maskz_loadu_ps(mask(lanes), p); }
  static void store(float* p, type x) { _mm512_storeu_ps(p, x); }
  static void store_some(float* p, type x, int lanes) { _mm512_mask_storeu_ps(p, mask(lanes), x); }
  static type set1(float x) { return _mm512_set1_ps(x); }
  static type zero() { return _mm512_setzero_ps(); }
  static type mul(type a, type b) { return _mm512_mul_ps(a, b); }
  static type add(type a, type b) { return _mm512_add_ps(a, b); }
  static type fma(type a, type b, type c) { return _mm512_fmadd_ps(a, b, c); }
  static void riffle(type a, type b, type& first, type& second) {  // a0 b0 a1 b1 ... a15 b15
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    first = _mm512_permutex2var_ps(a, low, b);
    second = _mm512_permutex2var_ps(a, _mm512_add_epi32(low, _mm512_set1_epi32(8)), b);
  }
  static float sum(type x) { return _mm512_reduce_add_ps(x); }
  static type exp2(type z) {  // vscalefps gives 0 and infinity where they are due
    const type whole = _mm512_roundscale_ps(z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const type f = _mm512_sub_ps(z, whole);
    type p = set1(exp2_coefficients[4]);
    for (int i = 3; i >= 0; --i) p = fma(p, f, set1(exp2_coefficients[i]));
    return _mm512_scalef_ps(fma(p, f, set1(1.0f)), whole);
  }
};

#include "scan_kernel.h"

}  // namespace

const ScanInstance scan_avx512 = {V::W, forward_scratch, backward_scratch, forward, backward, unpack_all, multiply_add};

}  // namespace affuse

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
