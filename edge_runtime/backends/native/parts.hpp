// Numbers as the sum of two bfloat16 each, and products of such, by tiles.
//
// A float16 is exactly the sum of two bfloat16, the second being what the first leaves over. So is a float32, but for
// its last 8 bits. Of the four products of two such sums three are computed, and summed in float32: what is left out is
// a 2^-16 of the factors' magnitudes at most, where float16 itself rounds by 2^-11. Infinity, and what
// rounds to it as bfloat16, becomes NaN.
#pragma once
#include "tiles.hpp"

namespace amx {

constexpr size_t kStep = 32;             // numbers along K in one tile
constexpr size_t kNumbers = 512;         // of a tile
constexpr size_t kParts = 2 * kNumbers;  // the high parts of a tile, and then what they leave over

struct Parts {
  __m512i high, low;
};

// 32 numbers as two bfloat16 each.
inline Parts split(__m512 first, __m512 second) {
  const __m512i high = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  const auto widened = [](__m256i half) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  };
  const __m512 first_rest = _mm512_sub_ps(first, widened(_mm512_castsi512_si256(high)));
  const __m512 second_rest = _mm512_sub_ps(second, widened(_mm512_extracti64x4_epi64(high, 1)));
  return {high, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second_rest, first_rest))};
}

inline __m512 widened(const uint16_t* float16) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(float16)));
}

// `steps` steps of one or two tiles of rows by two of columns, added to what `y` (rows, stride) holds. `upper` and
// `lower` are parts (steps, 2, 16 rows, 32), `left` and `right` (steps, 2, 16, 32) with two neighbours along K beside
// those of the next column.
template <bool kBoth>
inline void multiply_parts(const uint16_t* upper, const uint16_t* lower, const uint16_t* left, const uint16_t* right,
                           size_t steps, float* y, size_t stride) {
  const size_t row_bytes = stride * sizeof(float);
  float* const below = y + kTileRows * stride;
  _tile_loadd(0, y, row_bytes);
  _tile_loadd(1, y + 16, row_bytes);
  if (kBoth) {
    _tile_loadd(2, below, row_bytes);
    _tile_loadd(3, below + 16, row_bytes);
  }
  for (size_t at = 0; at < steps * kParts; at += kParts) {
    _tile_loadd(4, upper + at, kTileBytes);
    _tile_loadd(6, left + at + kNumbers, kTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, right + at + kNumbers, kTileBytes);
    _tile_dpbf16ps(1, 4, 7);
    if (kBoth) {
      _tile_loadd(5, lower + at, kTileBytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_loadd(6, left + at, kTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, right + at, kTileBytes);
    _tile_dpbf16ps(1, 4, 7);
    if (kBoth) {
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_loadd(4, upper + at + kNumbers, kTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (kBoth) {
      _tile_loadd(5, lower + at + kNumbers, kTileBytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, y, row_bytes);
  _tile_stored(1, y + 16, row_bytes);
  if (kBoth) {
    _tile_stored(2, below, row_bytes);
    _tile_stored(3, below + 16, row_bytes);
  }
}

}  // namespace amx
