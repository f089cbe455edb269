#include "instructions.h"

#include <cstdlib>
#include <cstring>

#include "native.h"

namespace affuse {

static Instructions widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Instructions::plain;
  for (bool has : {__builtin_cpu_supports("avx512f") != 0, __builtin_cpu_supports("avx512cd") != 0,
                   __builtin_cpu_supports("avx512dq") != 0, __builtin_cpu_supports("avx512bw") != 0,
                   __builtin_cpu_supports("avx512vl") != 0})
    if (!has) return Instructions::avx2;
  return Instructions::avx512;
#else
  return Instructions::plain;
#endif
}

Instructions instructions() {
  static const Instructions supported = widest();
  const char* asked = std::getenv("AFFUSE_VECTORS");
  if (asked == nullptr) return supported;
  if (std::strcmp(asked, "plain") == 0) return Instructions::plain;
  if (std::strcmp(asked, "avx2") == 0 && supported == Instructions::avx512) return Instructions::avx2;
  return supported;
}

}  // namespace affuse

AFFUSE_EXPORT const char* affuse_instructions() {
  switch (affuse::instructions()) {
    case affuse::Instructions::avx512: return "avx512";
    case affuse::Instructions::avx2: return "avx2";
    default: return "plain";
  }
}
