// Events as images in one pass: ops/events.py says what they mean. An event that is not allowed (outside of the sensor or
// the window, a polarity other than -1 and +1) ends the pass; the caller then finds the words for it.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "instructions.h"
#include "native.h"

namespace {

// Columns of n events. Coordinates are int16, int32 or int64 (their size in bytes says which), times int64, polarity one
// byte: -1 and 1, or where `boolean` 0 and 1.
struct Columns {
  const void* x;
  const void* y;
  const int8_t* p;
  int64_t n, boolean, height, width;
};

// Microseconds from a to b, a <= b: as unsigned numbers, so that no clock overflows.
inline double elapsed(int64_t a, int64_t b) { return static_cast<double>(static_cast<uint64_t>(b) - static_cast<uint64_t>(a)); }

// each(i, pixel, positive) for every event in order; false as soon as one is not allowed or `each` says so.
template <class Coordinate, class Each>
inline bool over_events(const Columns& events, const Each& each) {
  const Coordinate* x = static_cast<const Coordinate*>(events.x);
  const Coordinate* y = static_cast<const Coordinate*>(events.y);
  const uint64_t width = static_cast<uint64_t>(events.width), height = static_cast<uint64_t>(events.height);
  const int8_t least = events.boolean ? 0 : -1;
  for (int64_t i = 0; i < events.n; ++i) {
    // A negative coordinate turns into a very large one.
    const uint64_t column = static_cast<uint64_t>(static_cast<int64_t>(x[i]));
    const uint64_t row = static_cast<uint64_t>(static_cast<int64_t>(y[i]));
    const int8_t p = events.p[i];
    if (column >= width || row >= height || (p != 1 && p != least)) return false;
    if (!each(i, row * width + column, p == 1)) return false;
  }
  return true;
}

template <class Each>
inline bool any_events(const Columns& events, int64_t coordinate_bytes, const Each& each) {
  switch (coordinate_bytes) {
    case 2: return over_events<int16_t>(events, each);
    case 4: return over_events<int32_t>(events, each);
    default: return over_events<int64_t>(events, each);
  }
}

// Voxel grids of events that are sorted by time, in whole numbers.
//
// What an event gives to the bins left and right of it follows from its polarity, and its polarity times its share of the
// right. In a window of W microseconds the share is a whole number of W-ths, so both sums are whole numbers, and stand in one
// of 64 bits: the sum of polarities above, the sum of shares below. An event is one addition at one place in memory, and
// exact; sorted events need the sums of one gap between bins at a time, which stay in the cache.
constexpr int64_t BLOCK = 512;                 // events whose places and addends are found at once, by vector instructions
constexpr int64_t LINE = 64;                   // events whose polarities fill a line of the cache
constexpr int64_t LONGEST = int64_t{1} << 30;  // window, microseconds: 2^15 events and more fit between two flushes

struct Gap {  // what places the events between two bins
  uint64_t start;
  uint32_t span, first, length;  // the window; where in it the gap starts, and how long it is
  uint32_t steps;                // share in W-ths: (t - start) * steps - base
  uint64_t base;
  int shift;  // bits of the sum of shares
};

struct Judged {
  bool fine, in_gap;
};

template <class Coordinate>
AFFUSE_INLINE Judged place_block(const int64_t* __restrict t_us, const Coordinate* __restrict x,
                                 const Coordinate* __restrict y, const int8_t* __restrict p, int64_t count,
                                 const Columns& events, const Gap& gap, uint32_t* __restrict pixel,
                                 int64_t* __restrict addend) {
  const uint32_t width = static_cast<uint32_t>(events.width), height = static_cast<uint32_t>(events.height);
  const int8_t least = events.boolean ? 0 : -1;
  uint64_t far = 0;  // has an upper bit where a number needs more than 32
  uint32_t wrong = 0, elsewhere = 0;
  for (int64_t i = 0; i < count; ++i) {
    // A negative number turns into a very large one.
    const uint64_t elapsed = static_cast<uint64_t>(t_us[i]) - gap.start;
    far |= elapsed;
    if (sizeof(Coordinate) == 8) far |= static_cast<uint64_t>(x[i]) | static_cast<uint64_t>(y[i]);
    const uint32_t since = static_cast<uint32_t>(elapsed);
    const uint32_t column = static_cast<uint32_t>(x[i]), row = static_cast<uint32_t>(y[i]);
    wrong |= (column >= width) | (row >= height) | (since >= gap.span) | ((p[i] != 1) & (p[i] != least));
    elsewhere |= since - gap.first >= gap.length;
    pixel[i] = row * width + column;
    const int64_t sign = p[i] == 1 ? 0 : -1;
    const int64_t both = static_cast<int64_t>((uint64_t{1} << gap.shift) + uint64_t{since} * gap.steps - gap.base);
    addend[i] = (both ^ sign) - sign;
  }
  return {wrong == 0 && (far >> 32) == 0, elsewhere == 0};
}

// Adds what the sums hold to the bins left of the gap and right of it (null where there is one bin), and clears them.
AFFUSE_INLINE void flush_gap(int64_t* __restrict sums, float* __restrict left, float* __restrict right, int64_t pixels,
                             const Gap& gap) {
  const uint64_t half = uint64_t{1} << (gap.shift - 1), mask = 2 * half - 1, top = uint64_t{1} << 63;
  const uint64_t offset = uint64_t{1} << (63 - gap.shift);
  const double each = 1.0 / gap.span;
  const auto real = [](uint64_t whole) {  // below 2^51, as a double, by instructions that every vector unit has
    const uint64_t bits = whole + 0x4338000000000000u;
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value - 6755399441055744.0;
  };
  for (int64_t i = 0; i < pixels; ++i) {
    const uint64_t both = static_cast<uint64_t>(sums[i]) + half + top;  // not below zero, so that shifts take it apart
    const double share = real((both & mask) - half) * each;
    left[i] += static_cast<float>(real((both >> gap.shift) - offset) - share);
    if (right != nullptr) right[i] += static_cast<float>(share);
    sums[i] = 0;
  }
}

// Asks for LINE events that are needed a block later. They come from memory, which is idle while sums are added to, and a
// processor's own look-ahead ends with a page: that is, with a block of times.
template <class Coordinate>
AFFUSE_INLINE void fetch_ahead(const int64_t* t_us, const Coordinate* x, const Coordinate* y, const int8_t* p) {
#if defined(__GNUC__)
  constexpr int64_t bytes = 64;
  const auto fetch = [](const void* from, int64_t size) {
    for (int64_t at = 0; at < size; at += bytes) __builtin_prefetch(static_cast<const char*>(from) + at);
  };
  fetch(t_us, LINE * 8), fetch(x, LINE * static_cast<int64_t>(sizeof *x)), fetch(y, LINE * static_cast<int64_t>(sizeof *y));
  fetch(p, LINE);
#endif
}

// As affuse_voxels.
template <class Coordinate>
AFFUSE_INLINE int64_t sorted_voxels(const int64_t* t_us, const Columns& events, float* grid, int64_t* sums, int64_t bins,
                                    int64_t start, int64_t stop) {
  const Coordinate* x = static_cast<const Coordinate*>(events.x);
  const Coordinate* y = static_cast<const Coordinate*>(events.y);
  const int64_t pixels = events.height * events.width, gaps = std::max<int64_t>(bins - 1, 1), span = stop - start;
  int bits = 0;
  while (span >> bits) ++bits;
  const int room = (62 - bits) / 2;  // fewer than 2^room events fit between two flushes, whatever they are
  Gap gap{};
  gap.start = static_cast<uint64_t>(start), gap.span = static_cast<uint32_t>(span);
  gap.steps = static_cast<uint32_t>(bins - 1), gap.shift = 63 - room;
  uint32_t pixel[BLOCK];
  int64_t addend[BLOCK];
  int64_t current = 0, jumps = 0, held = 0;
  const auto edge = [&](int64_t k) { return static_cast<uint32_t>((k * span + gaps - 1) / gaps); };  // first of gap k
  const auto enter = [&](int64_t next) {
    current = next;
    gap.first = edge(next), gap.length = edge(next + 1) - gap.first;
    gap.base = bins > 1 ? static_cast<uint64_t>(next * span) : 0;
  };
  const auto flush = [&] {
    if (held > 0) flush_gap(sums, grid + current * pixels, bins > 1 ? grid + (current + 1) * pixels : nullptr, pixels, gap);
    held = 0;
  };
  std::memset(sums, 0, static_cast<size_t>(pixels) * sizeof(int64_t));
  std::memset(grid, 0, static_cast<size_t>(bins * pixels) * sizeof(float));
  enter(0);
  for (int64_t i = 0, count; i < events.n; i += count) {
    count = std::min(BLOCK, events.n - i);
    const Judged judged =
        place_block(t_us + i, x + i, y + i, events.p + i, count, events, gap, pixel, addend);
    if (!judged.fine) return 0;
    if (!judged.in_gap) {
      const auto inside = [&](int64_t t) { return static_cast<uint32_t>(t - start) - gap.first < gap.length; };
      for (count = 0; inside(t_us[i + count]);) ++count;
      if (count == 0) {
        if (++jumps > 2 * gaps) return 2;
        flush();
        enter((t_us[i] - start) * (bins - 1) / span);
        continue;
      }
    }
    if (held + count >= int64_t{1} << room) flush();
    held += count;
    for (int64_t k = 0; k < count; k += LINE) {
      const int64_t ahead = i + k + BLOCK;
      if (ahead < events.n) fetch_ahead(t_us + ahead, x + ahead, y + ahead, events.p + ahead);
      for (int64_t e = k, end = std::min(count, k + LINE); e < end; ++e) sums[pixel[e]] += addend[e];
    }
  }
  flush();
  return 1;
}

template <class Coordinate>
int64_t sorted_plain(const int64_t* t_us, const Columns& events, float* grid, int64_t* sums, int64_t bins, int64_t start,
                     int64_t stop) {
  return sorted_voxels<Coordinate>(t_us, events, grid, sums, bins, start, stop);
}
#if defined(__x86_64__)
template <class Coordinate>
__attribute__((target("avx2"))) int64_t sorted_avx2(const int64_t* t_us, const Columns& events, float* grid, int64_t* sums,
                                                    int64_t bins, int64_t start, int64_t stop) {
  return sorted_voxels<Coordinate>(t_us, events, grid, sums, bins, start, stop);
}
template <class Coordinate>
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) int64_t sorted_avx512(const int64_t* t_us,
                                                                                   const Columns& events, float* grid,
                                                                                   int64_t* sums, int64_t bins,
                                                                                   int64_t start, int64_t stop) {
  return sorted_voxels<Coordinate>(t_us, events, grid, sums, bins, start, stop);
}
#endif

using SortedVoxels = int64_t (*)(const int64_t*, const Columns&, float*, int64_t*, int64_t, int64_t, int64_t);

template <class Coordinate>
SortedVoxels sorted_here() {
#if defined(__x86_64__)
  if (affuse::instructions() == affuse::Instructions::avx512) return sorted_avx512<Coordinate>;
  if (affuse::instructions() == affuse::Instructions::avx2) return sorted_avx2<Coordinate>;
#endif
  return sorted_plain<Coordinate>;
}

// Voxel grids of any events, in double: sums hold, for every gap and pixel, the sums of polarities and of shares.
int64_t unsorted_voxels(const int64_t* t_us, const Columns& events, int64_t coordinate_bytes, float* grid, double* sums,
                        int64_t bins, int64_t start, int64_t stop) {
  const int64_t pixels = events.height * events.width, gaps = std::max<int64_t>(bins - 1, 1);
  std::memset(sums, 0, static_cast<size_t>(2 * gaps * pixels) * sizeof(double));
  const double scale = static_cast<double>(bins - 1) / elapsed(start, stop);
  const bool fine = any_events(events, coordinate_bytes, [&](int64_t i, uint64_t pixel, bool positive) {
    const int64_t t = t_us[i];
    if (t < start || t >= stop) return false;
    const double position = elapsed(start, t) * scale;
    const int64_t left = std::min(static_cast<int64_t>(position), gaps - 1);
    const double share = position - static_cast<double>(left), sign = positive ? 1.0 : -1.0;
    double* pair = sums + 2 * (left * pixels + static_cast<int64_t>(pixel));
    pair[0] += sign;
    pair[1] += sign * share;
    return true;
  });
  if (!fine) return 0;
  std::memset(grid, 0, static_cast<size_t>(bins * pixels) * sizeof(float));
  for (int64_t gap = 0; gap < gaps; ++gap)
    for (int64_t i = 0; i < pixels; ++i) {
      const double* pair = sums + 2 * (gap * pixels + i);
      grid[gap * pixels + i] += static_cast<float>(pair[0] - pair[1]);
      if (bins > 1) grid[(gap + 1) * pixels + i] += static_cast<float>(pair[1]);
    }
  return 1;
}

}  // namespace

// grid (bins, height, width) float. sums: room for height * width numbers of 64 bits, or, where `whole`, for
// 2 * max(bins - 1, 1) times as many. Returns 1, 0 at an event that is not allowed, or 2 where it should be called again with
// room for the whole: events that jump much between bins, or a window or sensor too large for whole numbers.
AFFUSE_EXPORT int64_t affuse_voxels(const int64_t* t_us, const void* x, const void* y, const int8_t* p, float* grid,
                                    void* sums, int64_t n, int64_t coordinate_bytes, int64_t boolean, int64_t bins,
                                    int64_t height, int64_t width, int64_t start, int64_t stop, int64_t whole) {
  const Columns events{x, y, p, n, boolean, height, width};
  if (whole) return unsorted_voxels(t_us, events, coordinate_bytes, grid, static_cast<double*>(sums), bins, start, stop);
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  const uint64_t span = static_cast<uint64_t>(stop) - static_cast<uint64_t>(start);
  if (span > LONGEST || bins > most || height > most || width > most / height) return 2;
  SortedVoxels sorted = coordinate_bytes == 2   ? sorted_here<int16_t>()
                        : coordinate_bytes == 4 ? sorted_here<int32_t>()
                                                : sorted_here<int64_t>();
  return sorted(t_us, events, grid, static_cast<int64_t*>(sums), bins, start, stop);
}

// counts (2, height, width), negative events before positive ones; fewer than 2^31 events. Returns as above.
AFFUSE_EXPORT int64_t affuse_count_events(const void* x, const void* y, const int8_t* p, int32_t* counts, int64_t n,
                                          int64_t coordinate_bytes, int64_t boolean, int64_t height, int64_t width) {
  const int64_t pixels = height * width;
  std::memset(counts, 0, static_cast<size_t>(2 * pixels) * sizeof(int32_t));
  return any_events({x, y, p, n, boolean, height, width}, coordinate_bytes, [=](int64_t, uint64_t pixel, bool positive) {
    ++counts[(positive ? pixels : 0) + static_cast<int64_t>(pixel)];
    return true;
  });
}

// ages (2, height, width): microseconds from the pixel's last event to stop, infinite where there was none. Returns as above.
AFFUSE_EXPORT int64_t affuse_event_ages(const int64_t* t_us, const void* x, const void* y, const int8_t* p, double* ages,
                                        int64_t n, int64_t coordinate_bytes, int64_t boolean, int64_t height,
                                        int64_t width, int64_t stop) {
  const int64_t pixels = height * width;
  std::fill(ages, ages + 2 * pixels, std::numeric_limits<double>::infinity());
  return any_events({x, y, p, n, boolean, height, width}, coordinate_bytes,
                    [=](int64_t i, uint64_t pixel, bool positive) {
                      if (t_us[i] > stop) return false;
                      const double age = elapsed(t_us[i], stop);
                      double& least = ages[(positive ? pixels : 0) + static_cast<int64_t>(pixel)];
                      least = std::min(least, age);
                      return true;
                    });
}
