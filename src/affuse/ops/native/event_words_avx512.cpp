// Single events of EVT3 in vectors of 16 words (AVX-512).
#if defined(__x86_64__)

#include <immintrin.h>

#include "event_words.h"

// All that follows may use these instructions; headers stay above, as in scan_avx512.cpp.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512cd,avx512dq,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512cd,avx512dq,avx512bw,avx512vl")
#endif

namespace affuse::event_words {
namespace {

// In each lane the value of the last lane up to it that is `here`; before the first of them, `carried`.
__m512i held(__m512i value, __mmask16 here, __m512i carried) {
  const __m512i up_to = _mm512_setr_epi32(0x1, 0x3, 0x7, 0xF, 0x1F, 0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF, 0x1FFF,
                                          0x3FFF, 0x7FFF, 0xFFFF);
  const __m512i those = _mm512_and_si512(_mm512_set1_epi32(here), up_to);
  const __m512i last = _mm512_sub_epi32(_mm512_set1_epi32(31), _mm512_lzcnt_epi32(those));
  return _mm512_mask_permutexvar_epi32(carried, _mm512_test_epi32_mask(those, those), last, value);
}

__m512i of_lane(__m512i value, int lane) { return _mm512_permutexvar_epi32(_mm512_set1_epi32(lane), value); }

int32_t first_of(__m512i value) { return _mm_cvtsi128_si32(_mm512_castsi512_si128(value)); }

}  // namespace

int64_t single_events_avx512(Words<uint16_t> words, int64_t i, int64_t n, State& s, Columns& out) {
  constexpr int LANES = 16;
  const int64_t base = s.high << 12;
  const int64_t since = s.latest < base ? 0 : s.latest - base;
  const __m512i width = _mm512_set1_epi32(static_cast<int32_t>(out.width));
  const __m512i height = _mm512_set1_epi32(static_cast<int32_t>(out.height));
  const __m512i base_wide = _mm512_set1_epi64(base);
  __m512i row = _mm512_set1_epi32(static_cast<int32_t>(s.row)), low = _mm512_set1_epi32(static_cast<int32_t>(s.low));
  __m512i before = _mm512_set1_epi32(since < 4096 ? static_cast<int32_t>(since) : 4096);  // no time may be below
  __m512i most_x = _mm512_setzero_si512(), most_y = most_x;
  const int64_t had = out.count;
  int lanes = LANES;
  while (lanes == LANES && n - i >= LANES && out.capacity - out.count >= LANES) {
    const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words.bytes + 2 * i));
    const __m512i word = _mm512_cvtepu16_epi32(packed);
    const __m512i kind = _mm512_srli_epi32(word, 12), value = _mm512_and_si512(word, _mm512_set1_epi32(0xFFF));
    const __m512i column = _mm512_and_si512(word, _mm512_set1_epi32(0x7FF));
    const __mmask16 rows = _mm512_testn_epi32_mask(kind, kind), lows = _mm512_cmpeq_epi32_mask(kind, _mm512_set1_epi32(6));
    const __mmask16 singles = _mm512_cmpeq_epi32_mask(kind, _mm512_set1_epi32(2));
    lanes = __builtin_ctz(~static_cast<uint32_t>(rows | lows | singles) | 1u << LANES);
    if (lanes == 0) break;
    const uint32_t known = (1u << lanes) - 1;
    const __m512i row_now = held(column, rows, row), low_now = held(value, lows, low);
    const __m512i low_then = _mm512_alignr_epi32(low_now, before, LANES - 1);
    const __mmask16 outside = _mm512_cmpge_epi32_mask(column, width) | _mm512_cmpge_epi32_mask(row_now, height);
    if (known & (_mm512_cmplt_epi32_mask(low_now, low_then) | (outside & singles))) break;
    const __mmask16 taken = static_cast<__mmask16>(singles & known);
    const __m512i time = _mm512_maskz_compress_epi32(taken, low_now), sign = _mm512_srli_epi32(value, 11);
    const __m512i early = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(time));
    const __m512i late = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(time, 1));
    const __m512i polarity = _mm512_sub_epi32(_mm512_add_epi32(sign, sign), _mm512_set1_epi32(1));
    _mm512_storeu_si512(out.t_us + out.count, _mm512_add_epi64(early, base_wide));
    _mm512_storeu_si512(out.t_us + out.count + LANES / 2, _mm512_add_epi64(late, base_wide));
    _mm512_storeu_si512(out.x + out.count, _mm512_maskz_compress_epi32(taken, column));
    _mm512_storeu_si512(out.y + out.count, _mm512_maskz_compress_epi32(taken, row_now));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.p + out.count),
                     _mm512_cvtepi32_epi8(_mm512_maskz_compress_epi32(taken, polarity)));
    most_x = _mm512_mask_max_epi32(most_x, taken, most_x, column);
    most_y = _mm512_mask_max_epi32(most_y, taken, most_y, row_now);
    row = of_lane(row_now, lanes - 1), before = low = of_lane(low_now, lanes - 1);
    out.count += __builtin_popcount(taken), i += lanes;
  }
  s.row = first_of(row), s.low = first_of(low);
  if (out.count > had) {
    const int64_t x = _mm512_reduce_max_epi32(most_x), y = _mm512_reduce_max_epi32(most_y);
    s.most_x = s.most_x < x ? x : s.most_x, s.most_y = s.most_y < y ? y : s.most_y;
    s.events += out.count - had, s.latest = out.t_us[out.count - 1];
  }
  return i;
}

}  // namespace affuse::event_words

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
