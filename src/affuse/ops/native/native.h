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

namespace affuse {

// work(i) for every i in [0, tasks), on at most `threads` threads, this one included. Threads are made for the call and
// joined before it returns: nothing spins while another process wants the core, and forking stays safe. work must not
// throw. Making a thread takes some 20 microseconds, so callers ask for more than one only where there is far more to do.
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
