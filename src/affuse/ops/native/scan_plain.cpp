// The selective scan in vectors of 4, in whatever instructions the platform has (SSE2, NEON).
#include <cstring>

#include "scan.h"

namespace affuse {
namespace {

template <int N>
struct Size {
  static constexpr int value = N;
};

struct V {
  typedef float type __attribute__((vector_size(16)));
  typedef int32_t whole __attribute__((vector_size(16)));
  static constexpr int W = 4, FORWARD = 4, BACKWARD = 4;
  static type load(const float* p) {
    type x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static type load_some(const float* p, int lanes) {
    type x = zero();
    for (int i = 0; i < lanes; ++i) x[i] = p[i];
    return x;
  }
  static void store(float* p, type x) { std::memcpy(p, &x, sizeof x); }
  static void store_some(float* p, type x, int lanes) {
    for (int i = 0; i < lanes; ++i) p[i] = x[i];
  }
  static type set1(float x) { return type{x, x, x, x}; }
  static type zero() { return type{}; }
  static type mul(type a, type b) { return a * b; }
  static type add(type a, type b) { return a + b; }
  static type fma(type a, type b, type c) { return a * b + c; }
  static void riffle(type a, type b, type& first, type& second) {
    first = type{a[0], b[0], a[1], b[1]}, second = type{a[2], b[2], a[3], b[3]};
  }
  static float sum(type x) { return (x[0] + x[2]) + (x[1] + x[3]); }
  static type exp2(type z) {  // as in scan_avx2.cpp
    z = z < set1(-127.0f) ? set1(-127.0f) : z;
    z = z > set1(128.0f) ? set1(128.0f) : z;
    const type shift = set1(12582912.0f + 127.0f);
    const type shifted = z + shift;
    const type f = z - (shifted - shift);
    type p = set1(exp2_coefficients[4]);
    for (int i = 3; i >= 0; --i) p = fma(p, f, set1(exp2_coefficients[i]));
    whole bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits <<= 23;
    type scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return fma(p, f, set1(1.0f)) * scale;
  }
};

#include "scan_kernel.h"

}  // namespace

const ScanInstance scan_plain = {V::W, forward_scratch, backward_scratch, forward, backward, unpack_all, multiply_add};

}  // namespace affuse
