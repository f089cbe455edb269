// What the parts of the decoder of event files share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "native.h"

namespace affuse::event_words {

constexpr int BLOCK = 32;  // events that are decoded at once where nothing stands between them

// Words of a file stand wherever its header ends, so at any address.
template <class Word>
struct Words {
  const char* bytes;
  AFFUSE_INLINE Word operator[](int64_t i) const {
    Word word;
    std::memcpy(&word, bytes + i * static_cast<int64_t>(sizeof word), sizeof word);
    return word;
  }
};

// What a decoder knows between two calls; the order is that of event_words.STATE.
struct State {
  int64_t timed, high, low;         // whether a time came yet; its upper bits, with overflows counted in; its lower bits
  int64_t row, based, column, sign; // EVT3: row or -1; whether a first column came; column of the next vector; its polarity
  int64_t latest;                   // time of the last sound event
  int64_t events, untimed, lost;    // events seen; those before the first time; words that are nothing known
  int64_t bad, first, first_t, first_x, first_y, first_outside;  // events left out; the first of them
  int64_t most_x, most_y;           // largest coordinates seen
  int64_t words;                    // words decoded in this call
};

// Counts an event that is left out, before it is counted as seen.
AFFUSE_INLINE void note_bad(State& s, int64_t t, int64_t column, int64_t row, bool outside) {
  if (s.bad++ == 0) s.first = s.events, s.first_t = t, s.first_x = column, s.first_y = row, s.first_outside = outside;
}

// Columns of sound events, of which `capacity` fit.
struct Columns {
  int64_t* t_us;
  int32_t* x;
  int32_t* y;
  int8_t* p;
  int64_t capacity, width, height, count = 0;

  AFFUSE_INLINE void take(State& s, int64_t t, int64_t column, int64_t row, bool positive) {
    s.most_x = std::max(s.most_x, column), s.most_y = std::max(s.most_y, row);
    const bool outside = column >= width || row >= height;
    t_us[count] = t, x[count] = static_cast<int32_t>(column), y[count] = static_cast<int32_t>(row);
    p[count] = positive ? 1 : -1;
    if (!outside && t >= s.latest) {
      s.latest = t;
      ++count;
    } else {
      note_bad(s, t, column, row, outside);
    }
    ++s.events;
  }

  // BLOCK events at once, at base + since[i], if every one is sound; else nothing is done, and false comes back.
  AFFUSE_INLINE bool take_block(State& s, int64_t base, const uint32_t* __restrict since, const int32_t* __restrict column,
                                const int32_t* __restrict row, const uint32_t* __restrict positive) {
    const int32_t columns = static_cast<int32_t>(width), rows = static_cast<int32_t>(height);
    uint32_t wrong = 0;
    for (int i = 0; i < BLOCK; ++i) wrong |= (column[i] >= columns) | (row[i] >= rows);
    for (int i = 1; i < BLOCK; ++i) wrong |= since[i] < since[i - 1];
    if (wrong || base + since[0] < s.latest || capacity - count < BLOCK) return false;
    int64_t* __restrict const t_to = t_us + count;
    int32_t* __restrict const x_to = x + count;
    int32_t* __restrict const y_to = y + count;
    int8_t* __restrict const p_to = p + count;
    int32_t most_x = 0, most_y = 0;
    for (int i = 0; i < BLOCK; ++i) t_to[i] = base + since[i];
    for (int i = 0; i < BLOCK; ++i) x_to[i] = column[i], most_x = std::max(most_x, column[i]);
    for (int i = 0; i < BLOCK; ++i) y_to[i] = row[i], most_y = std::max(most_y, row[i]);
    for (int i = 0; i < BLOCK; ++i) p_to[i] = positive[i] ? 1 : -1;
    s.most_x = std::max<int64_t>(s.most_x, most_x), s.most_y = std::max<int64_t>(s.most_y, most_y);
    s.latest = base + since[BLOCK - 1];
    s.events += BLOCK, count += BLOCK;
    return true;
  }
};

#if defined(__x86_64__)
// `single_events` of event_words.cpp in vectors of 16 words (AVX-512); may also end before a word or an event that it does not
// take, for that to go on.
int64_t single_events_avx512(Words<uint16_t> words, int64_t i, int64_t n, State& s, Columns& out);
#endif

}  // namespace affuse::event_words
