// What every source of the extension shares: how a function is exported, and how work is spread over threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#if defined(_WIN32)
#define AFFUSE_EXPORT extern "C" __declspec(dllexport)
#else
#define AFFUSE_EXPORT extern "C" __attribute__((visibility("default")))
#endif

#if defined(__GNUC__)
#define AFFUSE_INLINE inline __attribute__((always_inline))  // into an instance for each width of vectors
#else
#define AFFUSE_INLINE inline
#endif

namespace affuse {

// A team of threads as OpenMP's GNU runtime starts one: GOMP_parallel(task, argument, threads, flags).
using StartTeam = void (*)(void (*)(void*), void*, unsigned, unsigned);

// PyTorch's own, where its runtime is that one and this process is not a fork of another (whose threads it would wait for);
// else null.
StartTeam team();

// work(i) for every i in [0, tasks), on at most `threads` threads, this one included. They are PyTorch's where `team` has them:
// after an operator of PyTorch they spin for some milliseconds, and threads of our own would have to share the cores with them.
// Else they are made for the call, which takes some 20 microseconds, and joined before it returns. work must not throw.
template <class Work>
void parallel(int64_t tasks, int64_t threads, Work work) {
  if (threads > tasks) threads = tasks;
  if (threads <= 1) {
    for (int64_t i = 0; i < tasks; ++i) work(i);
    return;
  }
  std::atomic<int64_t> next{0};
  auto run = [&] {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) work(i);
  };
  if (const StartTeam start = team()) {
    start([](void* all) { (*static_cast<decltype(run)*>(all))(); }, &run, static_cast<unsigned>(threads), 0);
    return;
  }
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(threads - 1));
  try {
    for (int64_t k = 1; k < threads; ++k) others.emplace_back(run);
  } catch (const std::system_error&) {
    // No further thread is to be had; those that run, and this one, do all of it.
  }
  run();
  for (auto& other : others) other.join();
}

}  // namespace affuse
