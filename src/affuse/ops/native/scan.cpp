// The selective scan: chooses the instance for this processor, packs A, spreads rows and blocks of channels over threads.
#include "scan.h"

#include <cstdlib>
#include <new>

#include "instructions.h"
#include "native.h"

namespace affuse {
namespace {

const ScanInstance& instance() {
#if defined(__x86_64__)
  switch (instructions()) {
    case Instructions::avx512: return scan_avx512;
    case Instructions::avx2: return scan_avx2;
    default: break;
  }
#endif
  return scan_plain;
}

// Memory that a thread keeps from call to call: fresh pages cost more than a short scan.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { release(); }
  float* of(int64_t floats) {
    if (floats > size_) {
      release();
      data_ = static_cast<float*>(::operator new(static_cast<size_t>(floats) * sizeof(float), alignment, std::nothrow));
      size_ = data_ == nullptr ? 0 : floats;
    }
    return data_;
  }
  // What one long scan needed is not kept for ever.
  void trim(int64_t floats) {
    if (size_ > floats) release();
  }

 private:
  static constexpr std::align_val_t alignment{64};
  void release() {
    if (data_ != nullptr) ::operator delete(data_, alignment);
    data_ = nullptr, size_ = 0;
  }
  float* data_ = nullptr;
  int64_t size_ = 0;
};

constexpr int64_t kept = int64_t(1) << 20;  // floats a thread keeps at most
constexpr float log2_e = 1.44269504088896341f;

thread_local Scratch shared_scratch, own_scratch;

struct Split {  // rows of the batch times groups of blocks
  int64_t rows, groups, blocks;
  Split(const ScanShape& s, int64_t threads) : rows(s.b), groups(1), blocks(s.blocks()) {
    if (threads > 1 && rows > 0 && rows % threads != 0) groups = (2 * threads + rows - 1) / rows;
    if (groups > blocks) groups = blocks;
  }
  int64_t tasks() const { return rows * groups; }
  int64_t largest() const { return (blocks + groups - 1) / groups; }
  ScanPart part(int64_t task) const {
    const int64_t group = task % groups;
    return {task / groups, group * blocks / groups, (group + 1) * blocks / groups, group};
  }
};

void pack(const float* A, const ScanShape& s, float scale, float* out) {
  for (int64_t block = 0; block < s.blocks(); ++block)
    for (int64_t k = 0; k < s.n; ++k)
      for (int64_t i = 0; i < s.width; ++i) {
        const int64_t channel = block * s.width + i;
        *out++ = channel < s.d ? A[channel * s.n + k] * scale : 0.0f;
      }
}

}  // namespace
}  // namespace affuse

using namespace affuse;

// Number of groups that affuse_scan_backward splits channels into: grad_B and grad_C must hold as many parts.
AFFUSE_EXPORT int64_t affuse_scan_groups(int64_t b, int64_t d, int64_t threads) {
  const ScanShape shape{b, 0, d, 0, 1, 0, instance().width};
  return Split(shape, threads).groups;
}

// Returns 0, or 1 where memory ran out. Strides are (batch, step) of u, delta, B, C; starts may be null.
AFFUSE_EXPORT int64_t affuse_scan_forward(int64_t b, int64_t t, int64_t d, int64_t n, int64_t chunk, int64_t reverse,
                                          const float* u, const float* delta, const float* A, const float* B,
                                          const float* C, const float* D, const float* state, const int64_t* strides,
                                          float* y, float* last, float* starts, int64_t threads) {
  const ScanInstance& with = instance();
  ScanForward a{};
  a.shape = {b, t, d, n, chunk, reverse, with.width};
  const int64_t panels = a.shape.blocks() * n * with.width;
  float* packed = shared_scratch.of(panels);
  if (packed == nullptr && panels > 0) return 1;
  pack(A, a.shape, log2_e, packed);
  a.u = {u, strides[0], strides[1]}, a.delta = {delta, strides[2], strides[3]};
  a.B = {B, strides[4], strides[5]}, a.C = {C, strides[6], strides[7]};
  a.A = packed, a.D = D, a.state = state, a.y = y, a.last = last, a.starts = starts;
  const Split split(a.shape, threads);
  std::atomic<int64_t> failed{0};
  parallel(split.tasks(), threads, [&](int64_t task) {
    float* scratch = own_scratch.of(with.forward_scratch(a.shape, split.largest()));
    if (scratch == nullptr)
      failed = 1;
    else
      with.forward(a, split.part(task), scratch);
  });
  shared_scratch.trim(kept), own_scratch.trim(kept);
  return failed;
}

// As above; grad_last may be null; grad_B and grad_C are (group, b, t, n), see affuse_scan_groups.
AFFUSE_EXPORT int64_t affuse_scan_backward(int64_t b, int64_t t, int64_t d, int64_t n, int64_t chunk, int64_t reverse,
                                           const float* u, const float* delta, const float* A, const float* B,
                                           const float* C, const float* D, const float* starts, const float* grad_y,
                                           const float* grad_last, const int64_t* strides, float* grad_u,
                                           float* grad_delta, float* grad_A, float* grad_B, float* grad_C, float* grad_D,
                                           float* grad_state, int64_t threads) {
  const ScanInstance& with = instance();
  ScanBackward a{};
  a.shape = {b, t, d, n, chunk, reverse, with.width};
  const int64_t blocks = a.shape.blocks(), panels = blocks * n * with.width, lanes = blocks * with.width;
  float* packed = shared_scratch.of(2 * panels + b * (panels + lanes));
  if (packed == nullptr && panels > 0) return 1;
  pack(A, a.shape, log2_e, packed), pack(A, a.shape, 1.0f, packed + panels);
  a.u = {u, strides[0], strides[1]}, a.delta = {delta, strides[2], strides[3]};
  a.B = {B, strides[4], strides[5]}, a.C = {C, strides[6], strides[7]};
  a.grad_y = {grad_y, strides[8], strides[9]};
  a.A = packed, a.A_plain = packed + panels, a.D = D, a.starts = starts, a.grad_last = grad_last;
  a.grad_u = grad_u, a.grad_delta = grad_delta, a.grad_state = grad_state, a.grad_B = grad_B, a.grad_C = grad_C;
  a.grad_A = packed + 2 * panels, a.grad_D = grad_D == nullptr ? nullptr : a.grad_A + b * panels;
  const Split split(a.shape, threads);
  std::atomic<int64_t> failed{0};
  parallel(split.tasks(), threads, [&](int64_t task) {
    float* scratch = own_scratch.of(with.backward_scratch(a.shape, split.largest()));
    if (scratch == nullptr)
      failed = 1;
    else
      with.backward(a, split.part(task), scratch);
  });
  if (!failed) {  // sums over the batch, in the order of its rows whatever the threads did
    for (int64_t row = 1; row < b; ++row)
      for (int64_t i = 0; i < panels; ++i) a.grad_A[i] += a.grad_A[row * panels + i];
    for (int64_t channel = 0; channel < d; ++channel)
      for (int64_t k = 0; k < n; ++k)
        grad_A[channel * n + k] =
            b == 0 ? 0.0f : a.grad_A[(channel / with.width * n + k) * with.width + channel % with.width];
    if (grad_D != nullptr)
      for (int64_t channel = 0; channel < d; ++channel) {
        float sum = 0.0f;
        for (int64_t row = 0; row < b; ++row) sum += a.grad_D[row * lanes + channel];
        grad_D[channel] = sum;
      }
  }
  shared_scratch.trim(kept), own_scratch.trim(kept);
  return failed;
}
