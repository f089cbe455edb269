// Events as images in one pass: ops/events.py says what they mean. An event that is not allowed (outside of the sensor or
// the window, a polarity other than -1 and +1) ends the pass; the caller then finds the words for it.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

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

}  // namespace

// grid (bins, height, width) float. sums: room for height * width pairs of doubles where the events are sorted by time, for
// max(bins - 1, 1) times as many where `whole`. Returns 1, 0 at an event that is not allowed, or 2 where events jump so much
// between bins that it should be called again with room for the whole.
//
// Between two bins, what an event gives to the left one and to the right one follows from its polarity and its polarity times
// its share of the right: these two stand side by side, so that an event touches one place in memory and not two. Sorted
// events need the sums of one gap between bins at a time, which stay in the cache.
AFFUSE_EXPORT int64_t affuse_voxels(const int64_t* t_us, const void* x, const void* y, const int8_t* p, float* grid,
                                        double* sums, int64_t n, int64_t coordinate_bytes, int64_t boolean, int64_t bins,
                                        int64_t height, int64_t width, int64_t start, int64_t stop, int64_t whole) {
  const int64_t pixels = height * width, gaps = std::max<int64_t>(bins - 1, 1);
  std::memset(sums, 0, static_cast<size_t>(2 * (whole ? gaps : 1) * pixels) * sizeof(double));
  std::memset(grid, 0, static_cast<size_t>(bins * pixels) * sizeof(float));
  const auto flush = [=](double* pairs, int64_t gap) {
    float* left = grid + gap * pixels;
    float* right = bins > 1 ? left + pixels : nullptr;
    for (int64_t i = 0; i < pixels; ++i) {
      left[i] += static_cast<float>(pairs[2 * i] - pairs[2 * i + 1]);
      if (right) right[i] += static_cast<float>(pairs[2 * i + 1]);
    }
  };
  const double scale = static_cast<double>(bins - 1) / elapsed(start, stop);
  int64_t current = 0, jumps = 0;
  bool jumping = false;
  const bool fine = any_events(
      {x, y, p, n, boolean, height, width}, coordinate_bytes, [&](int64_t i, uint64_t pixel, bool positive) {
        const int64_t t = t_us[i];
        if (t < start || t >= stop) return false;
        const double position = elapsed(start, t) * scale;
        const int64_t left = std::min(static_cast<int64_t>(position), gaps - 1);
        const double share = position - static_cast<double>(left), sign = positive ? 1.0 : -1.0;
        if (!whole && left != current) {
          if (++jumps > 2 * gaps) {
            jumping = true;
            return false;
          }
          flush(sums, current);
          std::memset(sums, 0, static_cast<size_t>(2 * pixels) * sizeof(double));
          current = left;
        }
        double* pair = sums + 2 * ((whole ? left * pixels : 0) + static_cast<int64_t>(pixel));
        const double right = pair[1] + sign * share;
        pair[0] += sign;
        pair[1] = right;
        return true;
      });
  if (!fine) return jumping ? 2 : 0;
  if (whole)
    for (int64_t gap = 0; gap < gaps; ++gap) flush(sums + 2 * gap * pixels, gap);
  else
    flush(sums, current);
  return 1;
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
