// Where `parallel` gets its threads from.
#include <atomic>

#include "native.h"

#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace affuse {
namespace {

int64_t process() {
#if defined(_WIN32)
  return 0;
#else
  return getpid();
#endif
}

std::atomic<StartTeam> given{nullptr};
std::atomic<int64_t> given_in{0};

}  // namespace

StartTeam team() { return given_in == process() ? given.load() : nullptr; }

}  // namespace affuse

// start: GOMP_parallel of the runtime that PyTorch uses, or null for threads of our own.
AFFUSE_EXPORT void affuse_use_team(void* start) {
  affuse::given = reinterpret_cast<affuse::StartTeam>(start);
  affuse::given_in = affuse::process();
}
