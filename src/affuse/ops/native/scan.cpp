// The selective scan: chooses the instance for this processor, and spreads blocks of channels and rows over threads.
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

thread_local Scratch shared_scratch, own_scratch;

// Threads share the blocks of channels, so that one of them sums the gradient of its A over all rows; where there are fewer
// blocks than threads, they share the rows of the batch too. Twice as many parts as threads, lest one wait for another.
struct Split {
  int64_t rows, groups, b, blocks;
  Split(const ScanShape& s, int64_t threads) : rows(1), groups(1), b(s.b), blocks(s.blocks()) {
    if (threads <= 1) return;
    groups = blocks < 2 * threads ? (blocks < 1 ? 1 : blocks) : 2 * threads;
    if (blocks < threads) rows = b < threads ? (b < 1 ? 1 : b) : threads;
  }
  int64_t tasks() const { return rows * groups; }
  int64_t largest() const { return (blocks + groups - 1) / groups; }
  ScanPart part(int64_t task) const {
    const int64_t share = task / groups, group = task % groups;
    return {share, share * b / rows, (share + 1) * b / rows, group, group * blocks / groups, (group + 1) * blocks / groups};
  }
};

// The arguments of one call, all of them as 64-bit numbers in one array: each argument of its own costs the caller more than
// a short scan's arithmetic.
class Arguments {
 public:
  explicit Arguments(const int64_t* all) : next_(all) {}
  int64_t number() { return *next_++; }
  float* pointer() { return reinterpret_cast<float*>(static_cast<uintptr_t>(*next_++)); }
  Strided strided() {
    const float* data = pointer();
    const int64_t batch = number();
    return {data, batch, number()};
  }
  ScanInputs inputs() {  // b t d n chunk reverse; u, delta, B, C: pointer, strides of batch and step; A D state
    ScanInputs in{};
    ScanShape& s = in.shape;
    for (int64_t* each : {&s.b, &s.t, &s.d, &s.n, &s.chunk, &s.reverse}) *each = number();
    s.width = instance().width;
    for (Strided* each : {&in.u, &in.delta, &in.B, &in.C}) *each = strided();
    in.A = pointer(), in.D = pointer(), in.state = pointer();
    return in;
  }

 private:
  const int64_t* next_;
};

}  // namespace
}  // namespace affuse

using namespace affuse;

// Number of groups that affuse_scan_backward splits channels into: grad_B and grad_C must hold as many parts.
AFFUSE_EXPORT int64_t affuse_scan_groups(int64_t b, int64_t d, int64_t threads) {
  const ScanShape shape{b, 0, d, 0, 1, 0, instance().width};
  return Split(shape, threads).groups;
}

// Arguments: threads; inputs; y, last, starts. Pointers of what may be absent (scan.h) are 0. Returns 0, or 1 where memory
// ran out.
AFFUSE_EXPORT int64_t affuse_scan_forward(const int64_t* all) {
  const ScanInstance& with = instance();
  Arguments arguments(all);
  const int64_t threads = arguments.number();
  ScanForward a{arguments.inputs()};
  a.y = arguments.pointer(), a.last = arguments.pointer(), a.starts = arguments.pointer();
  const Split split(a.shape, threads);
  std::atomic<int64_t> failed{0};
  parallel(split.tasks(), threads, [&](int64_t task) {
    float* scratch = own_scratch.of(with.forward_scratch(a.shape, split.largest()));
    if (scratch == nullptr && a.shape.d * a.shape.n > 0)
      failed = 1;
    else
      with.forward(a, split.part(task), scratch);
  });
  own_scratch.trim(kept);
  return failed;
}

// Arguments: threads; inputs; grad_y with its strides; starts, grad_last; gradients of u, delta, A, B, C, D, state. Those of
// B and C are (group, b, t, n), see affuse_scan_groups.
AFFUSE_EXPORT int64_t affuse_scan_backward(const int64_t* all) {
  const ScanInstance& with = instance();
  Arguments arguments(all);
  const int64_t threads = arguments.number();
  ScanBackward a{arguments.inputs()};
  a.grad_y = arguments.strided(), a.starts = arguments.pointer(), a.grad_last = arguments.pointer();
  a.grad_u = arguments.pointer(), a.grad_delta = arguments.pointer();
  float* grad_A = arguments.pointer();
  a.grad_B = arguments.pointer(), a.grad_C = arguments.pointer();
  float* grad_D = arguments.pointer();
  a.grad_state = arguments.pointer();
  const int64_t d = a.shape.d, n = a.shape.n, lanes = a.shape.blocks() * with.width, panels = lanes * n;
  const Split split(a.shape, threads);
  a.grad_A = shared_scratch.of(split.rows * (panels + lanes));
  if (a.grad_A == nullptr && lanes > 0) return 1;
  a.grad_D = grad_D == nullptr ? nullptr : a.grad_A + split.rows * panels;
  std::atomic<int64_t> failed{0};
  parallel(split.tasks(), threads, [&](int64_t task) {
    float* scratch = own_scratch.of(with.backward_scratch(a.shape, split.largest()));
    if (scratch == nullptr && lanes > 0)
      failed = 1;
    else
      with.backward(a, split.part(task), scratch);
  });
  if (!failed) {  // sums over the shares of the batch, in their order whatever the threads did
    for (int64_t share = 1; share < split.rows; ++share) {
      for (int64_t i = 0; i < panels; ++i) a.grad_A[i] += a.grad_A[share * panels + i];
      for (int64_t i = 0; i < lanes && grad_D != nullptr; ++i) a.grad_D[i] += a.grad_D[share * lanes + i];
    }
    with.unpack(a.shape, a.grad_A, grad_A);
    for (int64_t channel = 0; channel < d && grad_D != nullptr; ++channel) grad_D[channel] = a.grad_D[channel];
  }
  shared_scratch.trim(kept), own_scratch.trim(kept);
  return failed;
}

// 12 multiply-adds of whole vectors a round, none waiting for another: the benchmark times them. Returns the lanes of a vector.
AFFUSE_EXPORT int64_t affuse_scan_multiply_add(int64_t rounds, float by) {
  static std::atomic<float> seen;
  seen = instance().multiply_add(rounds, by);
  return instance().width;
}
