// Leaky integrate-and-fire neurons over time: ops/lif.py has the equations, and its reference the same values bit for bit.
// Neurons do not meet, so a block of them goes through all steps while its potentials stay in the cache. Backward, the
// potentials are computed once more from the inputs instead of being kept.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "instructions.h"
#include "native.h"

// Each step is rounded as written: a fused multiply-add would move a potential across the threshold.
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

// Vectors are passed between inlined functions only, so no call depends on how.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

enum Surrogate { triangle = 0, sigmoid = 1, arctan = 2 };

struct Neuron {
  float tau, threshold, alpha;
  bool soft, detach;
  int64_t surrogate;
};

constexpr int64_t forward_block = 2048;    // neurons whose potentials are held: 8 KiB
constexpr int64_t backward_holds = 16384;  // potentials (steps x neurons) that are held: 64 KiB
constexpr int64_t task_elements = 1 << 17; // steps x neurons of one task of a thread
constexpr int64_t uncached_bytes = 8 << 20; // what is as large as this has left the cache before anyone reads it

// Vectors of `lanes` floats, loaded and stored whole, or `count` of them at the end of a row.
template <int lanes>
struct Vectors {
  typedef float F __attribute__((vector_size(lanes * 4)));
  typedef int32_t I __attribute__((vector_size(lanes * 4)));
  static constexpr int64_t width = lanes;

  static INLINE F all(float value) { return F{} + value; }
  static INLINE F load(const float* from, int64_t count) {
    F value{};
    if (count >= lanes)
      std::memcpy(&value, from, sizeof value);
    else
      std::memcpy(&value, from, static_cast<size_t>(count) * sizeof(float));
    return value;
  }
  static INLINE void store(float* to, const F& value, int64_t count) {
    if (count >= lanes)
      std::memcpy(to, &value, sizeof value);
    else
      std::memcpy(to, &value, static_cast<size_t>(count) * sizeof(float));
  }
  // Past the cache, which would first read the memory that is written over. `to` is aligned to the vector's size.
  static INLINE void store_uncached(float* to, const F& value) {
#if defined(__x86_64__)
    if constexpr (lanes == 4)
      asm volatile("movntps %1, %0" : "=m"(*reinterpret_cast<F*>(to)) : "x"(value));
    else
      asm volatile("vmovntps %1, %0" : "=m"(*reinterpret_cast<F*>(to)) : "v"(value));
#else
    std::memcpy(to, &value, sizeof value);
#endif
  }
  static INLINE F keep(const I& where, const F& value) { return (F)(where & (I)value); }  // value, else 0
  static INLINE F magnitude(const F& value) { return (F)((I)value & 0x7fffffff); }

  // exp(x) for x <= 0, relative error below 3e-7: 2^k times a polynomial of what is left.
  static INLINE F exp_of_negative(F x) {
    x = x < all(-87.0f) ? all(-87.0f) : x;
    const F shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
    const F k = shifted - 12582912.0f;
    const F r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    F p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (F)(((I)shifted + 127) << 23);  // the low bits of `shifted` are k
  }

  template <int surrogate>
  static INLINE F slope(const F& z, float alpha) {
    if (surrogate == triangle) {
      const F inside = alpha - magnitude(z);
      return keep(inside > 0.0f, inside) * (1.0f / (alpha * alpha));
    }
    if (surrogate == sigmoid) {  // symmetric: on the negative side nothing is lost next to 1
      const F e = exp_of_negative(magnitude(z) * -alpha);
      const F spread = e / (1.0f + e);
      return (spread - spread * spread) * alpha;
    }
    const F scaled = z * (1.57079633f * alpha);
    return (0.5f * alpha) / (1.0f + scaled * scaled);
  }

  // v after the reset. u (1 - s), not a choice of u or 0: so that what is not finite stays so, as in the reference.
  template <bool soft>
  static INLINE F reset(const F& u, const I& fired, float threshold) {
    return soft ? u - keep(fired, all(threshold)) : u * keep(~fired, all(1.0f));
  }
};

struct Forward {
  const float* x;
  const float* start;  // null for zeros, as is grad_last below
  float* v;
  float* spikes;
  int64_t steps, n;
  bool uncached;  // whether spikes are stored past the cache, as grad_x below
  Neuron cell;
};

struct Backward {
  const float* grad_spikes;
  const float* grad_last;
  const float* x;
  const float* start;
  float* grad_x;
  float* grad_start;  // null where nobody asks
  int64_t steps, n;
  bool uncached;
  Neuron cell;
};

template <class V, bool soft, bool uncached>
INLINE void forward_part(const Forward& job, int64_t from, int64_t to) {
  using F = typename V::F;
  const float tau = job.cell.tau, threshold = job.cell.threshold;
  for (int64_t begin = from; begin < to; begin += forward_block) {
    const int64_t end = std::min(begin + forward_block, to);
    for (int64_t t = 0; t < job.steps; ++t) {
      const float* x = job.x + t * job.n;
      float* spikes = job.spikes + t * job.n;
      const float* before = t ? job.v : job.start;
      const auto step = [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        const F v = before ? V::load(before + i, count) : F{};
        const F u = v * tau + V::load(x + i, count);
        const typename V::I fired = u > threshold;
        if (uncached)  // then rows are whole vectors
          V::store_uncached(spikes + i, V::keep(fired, V::all(1.0f)));
        else
          V::store(spikes + i, V::keep(fired, V::all(1.0f)), count);
        V::store(job.v + i, V::template reset<soft>(u, fired, threshold), count);
      };
      int64_t i = begin;
      for (; i + V::width <= end; i += V::width) step(i, V::width);
      if (i < end) step(i, end - i);
    }
  }
}

template <class V, bool soft, bool detach, int surrogate>
INLINE void backward_part(const Backward& job, int64_t from, int64_t to, float* held, int64_t block) {
  using F = typename V::F;
  float* grads = held + job.steps * block;  // of v after the step: the block's last row
  const float tau = job.cell.tau, threshold = job.cell.threshold, alpha = job.cell.alpha;
  for (int64_t begin = from; begin < to; begin += block) {
    const int64_t end = std::min(begin + block, to);
    for (int64_t t = 0; t < job.steps; ++t) {
      const float* x = job.x + t * job.n;
      float* potential = held + t * block - begin;
      const float* before = t ? potential - block : job.start;
      const auto step = [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        F v = before ? V::load(before + i, count) : F{};
        if (t) v = V::template reset<soft>(v, v > threshold, threshold);
        V::store(potential + i, v * tau + V::load(x + i, count), count);
      };
      int64_t i = begin;
      for (; i + V::width <= end; i += V::width) step(i, V::width);
      if (i < end) step(i, end - i);
    }
    for (int64_t t = job.steps - 1; t >= 0; --t) {
      const float* direct = job.grad_spikes + t * job.n;
      const float* potential = held + t * block - begin;
      float* grad_x = job.grad_x + t * job.n;
      const float* later = t + 1 < job.steps ? grads - begin : job.grad_last;
      float* earlier = t ? grads - begin : job.grad_start;
      const auto step = [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        const F u = V::load(potential + i, count);
        const F rise = V::template slope<surrogate>(u - threshold, alpha);
        F kept = soft ? V::all(1.0f) : V::keep(u <= threshold, V::all(1.0f));  // dv/du
        if (!detach) kept -= (soft ? V::all(threshold) : u) * rise;
        const F grad = V::load(direct + i, count) * rise + (later ? V::load(later + i, count) * kept : F{});
        if (job.uncached)
          V::store_uncached(grad_x + i, grad);
        else
          V::store(grad_x + i, grad, count);
        if (earlier) V::store(earlier + i, grad * tau, count);
      };
      int64_t i = begin;
      for (; i + V::width <= end; i += V::width) step(i, V::width);
      if (i < end) step(i, end - i);
    }
  }
}

template <class V>
INLINE void any_forward(const Forward& job, int64_t from, int64_t to) {
  if (job.cell.soft)
    return job.uncached ? forward_part<V, true, true>(job, from, to) : forward_part<V, true, false>(job, from, to);
  return job.uncached ? forward_part<V, false, true>(job, from, to) : forward_part<V, false, false>(job, from, to);
}

template <class V, bool soft, bool detach>
INLINE void some_backward(const Backward& job, int64_t from, int64_t to, float* held, int64_t block) {
  switch (job.cell.surrogate) {
    case triangle: return backward_part<V, soft, detach, triangle>(job, from, to, held, block);
    case sigmoid: return backward_part<V, soft, detach, sigmoid>(job, from, to, held, block);
    default: return backward_part<V, soft, detach, arctan>(job, from, to, held, block);
  }
}

template <class V>
INLINE void any_backward(const Backward& job, int64_t from, int64_t to, float* held, int64_t block) {
  if (job.cell.soft && job.cell.detach) return some_backward<V, true, true>(job, from, to, held, block);
  if (job.cell.soft) return some_backward<V, true, false>(job, from, to, held, block);
  if (job.cell.detach) return some_backward<V, false, true>(job, from, to, held, block);
  return some_backward<V, false, false>(job, from, to, held, block);
}

// One instance for each width of vectors.
using ForwardPart = void (*)(const Forward&, int64_t, int64_t);
using BackwardPart = void (*)(const Backward&, int64_t, int64_t, float*, int64_t);

void forward_plain(const Forward& job, int64_t from, int64_t to) { any_forward<Vectors<4>>(job, from, to); }
void backward_plain(const Backward& job, int64_t from, int64_t to, float* held, int64_t block) {
  any_backward<Vectors<4>>(job, from, to, held, block);
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) void forward_avx2(const Forward& job, int64_t from, int64_t to) {
  any_forward<Vectors<8>>(job, from, to);
}
__attribute__((target("avx2"))) void backward_avx2(const Backward& job, int64_t from, int64_t to, float* held,
                                                   int64_t block) {
  any_backward<Vectors<8>>(job, from, to, held, block);
}
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) void forward_avx512(const Forward& job, int64_t from,
                                                                                int64_t to) {
  any_forward<Vectors<16>>(job, from, to);
}
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) void backward_avx512(const Backward& job, int64_t from,
                                                                                 int64_t to, float* held,
                                                                                 int64_t block) {
  any_backward<Vectors<16>>(job, from, to, held, block);
}
#endif

ForwardPart forward_here() {
#if defined(__x86_64__)
  if (affuse::instructions() == affuse::Instructions::avx512) return forward_avx512;
  if (affuse::instructions() == affuse::Instructions::avx2) return forward_avx2;
#endif
  return forward_plain;
}

BackwardPart backward_here() {
#if defined(__x86_64__)
  if (affuse::instructions() == affuse::Instructions::avx512) return backward_avx512;
  if (affuse::instructions() == affuse::Instructions::avx2) return backward_avx2;
#endif
  return backward_plain;
}

// Neurons of one task: whole cache lines, so that no two threads write to the same one.
int64_t task_width(int64_t steps, int64_t n, int64_t threads) {
  if (threads <= 1) return std::max<int64_t>(n, 1);
  return std::max<int64_t>(forward_block, task_elements / std::max<int64_t>(steps, 1) / forward_block * forward_block);
}

// Whether rows of whole aligned vectors are stored past the cache.
bool is_uncached(const float* to, int64_t steps, int64_t n) {
  const bool aligned = reinterpret_cast<uintptr_t>(to) % 64 == 0 && n % 16 == 0;
  return aligned && steps * n * static_cast<int64_t>(sizeof(float)) >= uncached_bytes;
}

// Before another thread reads what went past the cache.
void finish_uncached() {
#if defined(__x86_64__)
  asm volatile("sfence" ::: "memory");
#endif
}

}  // namespace

// x and spikes (steps, n), at least one step; start and v, the last state, (n). start may be null: zeros.
AFFUSE_EXPORT void affuse_lif_forward(const float* x, const float* start, float* v, float* spikes, int64_t steps,
                                      int64_t n, float tau, float threshold, int64_t soft, int64_t threads) {
  const Forward job{x, start, v, spikes, steps, n, is_uncached(spikes, steps, n), {tau, threshold, 1.0f, soft != 0, false, 0}};
  const ForwardPart part = forward_here();
  const int64_t width = task_width(steps, n, threads);
  affuse::parallel((n + width - 1) / width, threads, [&](int64_t task) {
    part(job, task * width, std::min((task + 1) * width, n));
    if (job.uncached) finish_uncached();
  });
}

// grad_spikes, x and grad_x (steps, n), at least one step; grad_last, start and grad_start (n): these may be null, for zeros
// and for what nobody asks. surrogate: 0 triangle, 1 sigmoid, 2 arctan. Returns 1, or 0 where no memory was to be had.
AFFUSE_EXPORT int64_t affuse_lif_backward(const float* grad_spikes, const float* grad_last, const float* x,
                                          const float* start, float* grad_x, float* grad_start, int64_t steps,
                                          int64_t n, float tau, float threshold, int64_t soft, int64_t surrogate,
                                          float alpha, int64_t detach, int64_t threads) {
  const Backward job{grad_spikes, grad_last, x, start, grad_x, grad_start, steps, n,
                     is_uncached(grad_x, steps, n), {tau, threshold, alpha, soft != 0, detach != 0, surrogate}};
  const BackwardPart part = backward_here();
  const int64_t block = std::max<int64_t>(64, std::min<int64_t>(1024, backward_holds / steps / 16 * 16));
  const int64_t width = task_width(steps, n, threads);
  std::atomic<bool> enough{true};
  affuse::parallel((n + width - 1) / width, threads, [&](int64_t task) {
    const std::unique_ptr<float[]> held(new (std::nothrow) float[static_cast<size_t>((steps + 1) * block)]);
    if (held)
      part(job, task * width, std::min((task + 1) * width, n), held.get(), block);
    else
      enough = false;
    if (job.uncached) finish_uncached();
  });
  return enough;
}
