// The selective scan: what the dispatcher (scan.cpp) hands to the instance for one vector width (scan_*.cpp).
#pragma once

#include <cstdint>

namespace affuse {

// Shapes: u, delta, y (b, t, d); A (d, n); B, C (b, t, n); D (d); state, last (b, d, n). Channels (B, C: states) are
// contiguous; u, delta, B, C and grad_y have strides of their own between batches and between steps.
struct ScanShape {
  int64_t b, t, d, n;
  int64_t chunk;    // steps between two kept states
  int64_t reverse;  // 1: from the last step to the first
  int64_t width;    // channels side by side in one vector
  int64_t blocks() const { return (d + width - 1) / width; }
  int64_t chunks() const { return (t + chunk - 1) / chunk; }
};

struct Strided {
  const float* data;
  int64_t batch, step;
};

struct ScanInputs {
  ScanShape shape;
  Strided u, delta, B, C;
  const float* A;
  const float *D, *state;  // may be null; no state: zeros
};

struct ScanForward : ScanInputs {
  float *y, *last;
  float* starts;  // (chunk - 1, b, block, n, width), the state before each chunk but the first; may be null: not kept
};

struct ScanBackward : ScanInputs {
  Strided grad_y;
  const float* grad_last;  // may be null: zeros
  const float* starts;
  float *grad_u, *grad_delta;
  float* grad_state;       // may be null
  float *grad_B, *grad_C;  // (group, b, t, n): each group of channels adds its part
  float *grad_A;           // (rows, block, n, width): each share of the batch adds its part
  float *grad_D;           // (rows, block, width); may be null
};

// Rows [first_row, last_row) of the batch, which are share number `rows` of it; blocks [first, last), which are `group`.
struct ScanPart {
  int64_t rows, first_row, last_row, group, first, last;
};

struct ScanInstance {
  int64_t width;
  int64_t (*forward_scratch)(const ScanShape&, int64_t blocks);   // floats
  int64_t (*backward_scratch)(const ScanShape&, int64_t blocks);  // floats
  void (*forward)(const ScanForward&, const ScanPart&, float* scratch);
  void (*backward)(const ScanBackward&, const ScanPart&, float* scratch);
  void (*unpack)(const ScanShape&, const float* packed, float* rows);  // from (block, n, width) to (d, n)
  float (*multiply_add)(int64_t rounds, float by);  // 12 independent multiply-adds a round: what the benchmark calls peak
};

extern const ScanInstance scan_plain;
#if defined(__x86_64__)
extern const ScanInstance scan_avx2, scan_avx512;
#endif

constexpr float log2_e = 1.44269504088896341f;

// 2^f for |f| <= 1/2 is 1 + f (c1 + f (c2 + ...)): largest relative error 9.2e-8, none at 0 (minimax, solved as a linear
// programme). Exact at 0, so that a slow decay is not biased over many steps.
constexpr float exp2_coefficients[5] = {0x1.62e42ap-1f, 0x1.ebf9bcp-3f, 0x1.c6b752p-5f, 0x1.3cea88p-7f, 0x1.5bba14p-10f};

}  // namespace affuse
