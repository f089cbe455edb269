// Decoding of Prophesee's EVT2, EVT3 and DAT, words of a file to columns of events: signals/event_words.py says what they
// mean, and has the same in NumPy. One pass decodes and judges; nothing here allocates.
#include "event_words.h"

#include "instructions.h"

namespace {

using namespace affuse::event_words;

// The counter `sent` of so many bits as one that goes on counting: a fall by more than half of its range is an overflow.
AFFUSE_INLINE void follow(State& s, int64_t sent, int bits) {
  const int64_t range = int64_t{1} << bits, before = s.high & (range - 1);
  s.high += sent - before + (s.timed && sent - before < -range / 2 ? range : 0);
  s.timed = 1;
}

// What follows works on copies: what it writes to columns cannot be what it knows, so that stays in registers.
AFFUSE_INLINE void decode_evt2(const Words<uint32_t> words, int64_t n, State& state, Columns& columns) {
  State s = state;
  Columns out = columns;
  uint32_t since[BLOCK], positive[BLOCK];
  int32_t column[BLOCK], row[BLOCK];
  int64_t i = 0, again = 0;  // no block is tried before word `again`
  while (i < n && out.count < out.capacity) {
    if (i >= again && s.timed && n - i >= BLOCK) {
      uint32_t other = 0;
      for (int k = 0; k < BLOCK; ++k) {
        const uint32_t word = words[i + k];
        other |= word >> 29;
        since[k] = word >> 22 & 0x3F, positive[k] = word >> 28;
        column[k] = static_cast<int32_t>(word >> 11 & 0x7FF), row[k] = static_cast<int32_t>(word & 0x7FF);
      }
      if (!other && out.take_block(s, s.high << 6, since, column, row, positive)) {
        i += BLOCK;
        continue;
      }
      again = i + BLOCK;
    }
    const uint32_t word = words[i++], kind = word >> 28;
    if (kind <= 1) {
      if (s.timed)
        out.take(s, s.high << 6 | (word >> 22 & 0x3F), word >> 11 & 0x7FF, word & 0x7FF, kind == 1);
      else
        ++s.untimed;
      continue;
    }
    again = i;  // after the time, events come in a row again
    if (kind == 8)
      follow(s, word & 0xFFFFFFF, 28);
    else
      s.lost += kind != 0xA && kind != 0xE && kind != 0xF;
  }
  s.words = i;
  state = s, columns = out;
}

// Rows, single events and lower bits of time come in no order that a processor could foresee, so these do without branches:
// every word is written as an event, and counted if it is one. Ends before any other word and before a bad event.
AFFUSE_INLINE int64_t single_events(const Words<uint16_t> words, int64_t i, int64_t n, State& s, Columns& out) {
  int64_t* __restrict t_to = out.t_us + out.count;
  int32_t* __restrict x_to = out.x + out.count;
  int32_t* __restrict y_to = out.y + out.count;
  int8_t* __restrict p_to = out.p + out.count;
  const int32_t width = static_cast<int32_t>(out.width), height = static_cast<int32_t>(out.height);
  const int64_t base = s.high << 12, room = out.capacity - out.count;
  int64_t latest = s.latest, count = 0;
  int32_t row = static_cast<int32_t>(s.row), most_x = 0, most_y = 0;
  uint32_t low = static_cast<uint32_t>(s.low);
  for (; i < n && count < room; ++i) {
    const uint32_t word = words[i], kind = word >> 12, value = word & 0xFFF;
    const int32_t column = static_cast<int32_t>(value & 0x7FF);
    row = kind == 0 ? column : row;
    low = kind == 6 ? value : low;
    const int64_t t = base | low;
    const bool single = kind == 2, good = (column < width) & (row < height) & (t >= latest);
    if (!((kind == 0) | (kind == 6) | (single & good))) break;
    t_to[count] = t, x_to[count] = column, y_to[count] = row;
    p_to[count] = static_cast<int8_t>(static_cast<int32_t>(value >> 11 << 1) - 1);
    latest = single ? t : latest;
    most_x = std::max(most_x, single ? column : 0), most_y = std::max(most_y, single ? row : 0);
    count += single;
  }
  s.row = row, s.low = low, s.latest = latest;
  s.most_x = std::max<int64_t>(s.most_x, most_x), s.most_y = std::max<int64_t>(s.most_y, most_y);
  s.events += count, out.count += count;
  return i;
}

template <class Singles>
AFFUSE_INLINE void decode_evt3(const Words<uint16_t> words, int64_t n, State& state, Columns& columns_of, Singles singles) {
  constexpr int64_t vector = 12;  // events of one word
  State s = state;
  Columns out = columns_of;
  int64_t i = 0;
  for (; i < n && out.count + vector <= out.capacity; ++i) {
    if (s.timed && s.row >= 0) i = singles(words, i, n, s, out);
    if (i == n || out.count + vector > out.capacity) break;
    const uint32_t word = words[i], kind = word >> 12, value = word & 0xFFF;
    switch (kind) {
      case 0: s.row = value & 0x7FF; break;
      case 2:
        if (s.timed && s.row >= 0)
          out.take(s, s.high << 12 | s.low, value & 0x7FF, s.row, value >> 11);
        else
          ++s.untimed;
        break;
      case 6: s.low = value; break;
      case 3: s.based = 1, s.column = value & 0x7FF, s.sign = value >> 11; break;
      case 4:
      case 5: {
        const int64_t columns = kind == 4 ? 12 : 8;
        int64_t column = s.column;
        uint32_t bits = value & ((1u << columns) - 1);
        const int64_t t = s.high << 12 | s.low;
        if (s.timed && s.based && s.row >= 0 && s.row < out.height && column + vector <= out.width && t >= s.latest && bits) {
          const int64_t before = out.count;  // all are sound: no branch for each bit
          for (int64_t bit = 0; bit < vector; ++bit) {
            out.t_us[out.count] = t, out.x[out.count] = static_cast<int32_t>(column + bit);
            out.y[out.count] = static_cast<int32_t>(s.row), out.p[out.count] = s.sign ? 1 : -1;
            out.count += bits >> bit & 1;
          }
          s.events += out.count - before, s.latest = t;
          s.most_x = std::max<int64_t>(s.most_x, out.x[out.count - 1]), s.most_y = std::max(s.most_y, s.row);
          bits = 0;
        }
        for (; bits != 0; bits >>= 1, ++column) {
          if ((bits & 1) == 0) continue;
          if (s.timed && s.row >= 0 && s.based)
            out.take(s, s.high << 12 | s.low, column, s.row, s.sign);
          else
            ++s.untimed;
        }
        s.column += columns;
        break;
      }
      case 8: {
        const int64_t before = s.high, timed = s.timed;
        follow(s, value, 12);
        if (!timed || s.high != before) s.low = 0;
        break;
      }
      case 7:
      case 0xA:
      case 0xE:
      case 0xF: break;
      default: ++s.lost;
    }
  }
  s.words = i;
  state = s, columns_of = out;
}

AFFUSE_INLINE void decode_dat(const Words<uint32_t> words, int64_t n, State& state, Columns& columns) {
  State s = state;
  Columns out = columns;
  uint32_t since[BLOCK], positive[BLOCK];
  int32_t column[BLOCK], row[BLOCK];
  int64_t i = 0, again = 0;
  while (i < n && out.count < out.capacity) {
    if (i >= again && s.timed && n - i >= BLOCK) {
      for (int k = 0; k < BLOCK; ++k) {
        const uint32_t where = words[2 * (i + k) + 1];
        since[k] = words[2 * (i + k)], positive[k] = where >> 28;
        column[k] = static_cast<int32_t>(where & 0x3FFF), row[k] = static_cast<int32_t>(where >> 14 & 0x3FFF);
      }
      const int64_t before = s.high & 0xFFFFFFFF, base = s.high - before;
      if (since[0] >= before && out.take_block(s, base, since, column, row, positive)) {
        s.high = base + since[BLOCK - 1];
        i += BLOCK;
        continue;
      }
      again = i + BLOCK;
    }
    const uint32_t where = words[2 * i + 1];
    follow(s, words[2 * i++], 32);
    out.take(s, s.high, where & 0x3FFF, where >> 14 & 0x3FFF, where >> 28 != 0);
  }
  s.words = i;
  state = s, columns = out;
}

template <class Singles>
AFFUSE_INLINE void decode(int64_t encoding, const char* words, int64_t n, State& state, Columns& out, Singles singles) {
  if (encoding == 2)
    decode_evt2({words}, n, state, out);
  else if (encoding == 3)
    decode_evt3({words}, n, state, out, singles);
  else
    decode_dat({words}, n, state, out);
}

struct OneByOne {
  AFFUSE_INLINE int64_t operator()(const Words<uint16_t> words, int64_t i, int64_t n, State& s, Columns& out) const {
    return single_events(words, i, n, s, out);
  }
};

#if defined(__x86_64__)
struct InVectors {
  AFFUSE_INLINE int64_t operator()(const Words<uint16_t> words, int64_t i, int64_t n, State& s, Columns& out) const {
    i = single_events_avx512(words, i, n, s, out);
    return single_events(words, i, n, s, out);
  }
};
#endif

// One instance for each width of vectors.
void decode_plain(int64_t encoding, const char* words, int64_t n, State& s, Columns& out) {
  decode(encoding, words, n, s, out, OneByOne());
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) void decode_avx2(int64_t encoding, const char* words, int64_t n, State& s, Columns& out) {
  decode(encoding, words, n, s, out, OneByOne());
}
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) void decode_avx512(int64_t encoding, const char* words,
                                                                               int64_t n, State& s, Columns& out) {
  decode(encoding, words, n, s, out, InVectors());
}
#endif

using Decode = void (*)(int64_t, const char*, int64_t, State&, Columns&);

Decode decode_here() {
#if defined(__x86_64__)
  if (affuse::instructions() == affuse::Instructions::avx512) return decode_avx512;
  if (affuse::instructions() == affuse::Instructions::avx2) return decode_avx2;
#endif
  return decode_plain;
}

}  // namespace

// n words (of DAT: pairs) from where `state` left off into columns with room for `capacity` events; those outside of the
// sensor or back in time are counted and left out. encoding: 2, 3, or 0 for DAT. Returns how many events were written.
AFFUSE_EXPORT int64_t affuse_decode_events(int64_t encoding, const char* words, int64_t n, int64_t* state, int64_t* t_us,
                                           int32_t* x, int32_t* y, int8_t* p, int64_t capacity, int64_t width,
                                           int64_t height) {
  State s;
  int64_t* const fields[] = {&s.timed, &s.high, &s.low, &s.row, &s.based, &s.column, &s.sign, &s.latest, &s.events,
                             &s.untimed, &s.lost, &s.bad, &s.first, &s.first_t, &s.first_x, &s.first_y,
                             &s.first_outside, &s.most_x, &s.most_y, &s.words};
  constexpr int64_t size = sizeof fields / sizeof *fields;
  for (int64_t i = 0; i < size; ++i) *fields[i] = state[i];
  Columns out{t_us, x, y, p, capacity, width, height};
  decode_here()(encoding, words, n, s, out);
  for (int64_t i = 0; i < size; ++i) state[i] = *fields[i];
  return out.count;
}

// How many events n words of EVT3 hold at most.
AFFUSE_EXPORT int64_t affuse_count_evt3(const char* bytes, int64_t n) {
  const Words<uint16_t> words{bytes};
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t kind = words[i] >> 12, kept = kind == 4 ? 0xFFF : kind == 5 ? 0xFF : 0;
    uint32_t bits = words[i] & kept;  // counted in pairs, in fours, then all
    bits -= bits >> 1 & 0x555;
    bits = (bits & 0x333) + (bits >> 2 & 0x333);
    count += ((bits + (bits >> 4)) & 0xF) + (bits >> 8) + (kind == 2);
  }
  return count;
}
