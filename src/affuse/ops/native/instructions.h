// Which vector instructions this process uses.
#pragma once

namespace affuse {

enum class Instructions { plain, avx2, avx512 };

// The widest that the processor and its operating system support, or what AFFUSE_VECTORS asks for if that is narrower.
// Read anew at each call, so that a test can change it.
Instructions instructions();

}  // namespace affuse
