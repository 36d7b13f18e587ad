// See float16.hpp.
#include "float16.hpp"

#include <algorithm>
#include <cstring>

namespace amx::float16 {
namespace {

constexpr size_t kStep = 32;         // weights of a column in one tile
constexpr size_t kSpan = 512;        // weights of a column that are taken apart at once: rows stay in the cache meanwhile
constexpr size_t kNumbers = 512;     // of a tile
constexpr size_t kSplit = 2 * kNumbers;  // the high parts of a tile, and then what they leave over

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

inline __m512 widened(const uint16_t* numbers) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers)));
}

inline void unpack(const uint16_t* weights, uint16_t* to) {
  for (size_t i = 0; i < kNumbers; i += 32) {
    const Parts parts = split(widened(weights + i), widened(weights + i + 16));
    _mm_prefetch(reinterpret_cast<const char*>(weights + i + 1024), _MM_HINT_T0);
    _mm512_store_si512(to + i, parts.high);
    _mm512_store_si512(to + kNumbers + i, parts.low);
  }
}

// `steps` steps of one or two tiles of rows by two of columns, added to what `y` (rows, stride) holds.
template <bool kBoth>
inline void multiply(const uint16_t* upper, const uint16_t* lower, const uint16_t* left, const uint16_t* right,
                     size_t steps, float* y, size_t stride) {
  const size_t row_bytes = stride * sizeof(float);
  float* const below = y + kTileRows * stride;
  _tile_loadd(0, y, row_bytes);
  _tile_loadd(1, y + 16, row_bytes);
  if (kBoth) {
    _tile_loadd(2, below, row_bytes);
    _tile_loadd(3, below + 16, row_bytes);
  }
  for (size_t at = 0; at < steps * kSplit; at += kSplit) {
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

}  // namespace

void split_tile(const float* x, const Shape& shape, size_t tile, uint16_t* to) {
  const size_t first = tile * kTileRows, steps = shape.k / kStep;
  uint16_t* const tiles = to + tile * steps * kSplit;
  for (size_t row = 0; row < std::min<size_t>(kTileRows, shape.rows - first); ++row) {
    const float* from = x + (first + row) * shape.k;
    for (size_t step = 0; step < steps; ++step, from += kStep) {
      const Parts parts = split(_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16));
      uint16_t* const place = tiles + step * kSplit + row * kStep;
      _mm512_store_si512(place, parts.high);
      _mm512_store_si512(place + kNumbers, parts.low);
    }
  }
}

void multiply_rows(const uint16_t* x, const Shape& shape, const uint16_t* weights, const float* bias, size_t first,
                   size_t end, float* y) {
  const size_t all_steps = shape.k / kStep, tiles = shape.padded_rows() / kTileRows;
  const size_t rest = shape.rows % (2 * kTileRows);  // of the last pair of tiles, where it is not whole
  alignas(64) uint16_t unpacked[2][kSpan / kStep * kSplit];
  for (size_t row = 0; row < shape.rows; ++row)
    for (size_t column = first; column < end; column += 16)
      _mm512_storeu_ps(y + row * shape.n + column, bias ? _mm512_loadu_ps(bias + column) : _mm512_setzero_ps());
  Tiles configured;
  for (size_t begin = 0; begin < all_steps; begin += kSpan / kStep) {
    const size_t steps = std::min(kSpan / kStep, all_steps - begin);
    for (size_t column = first; column < end; column += kPairColumns) {
      for (size_t side = 0; side < 2; ++side)
        for (size_t step = 0; step < steps; ++step)
          unpack(weights + ((column / 16 + side) * all_steps + begin + step) * kNumbers, unpacked[side] + step * kSplit);
      finish_stores();
      for (size_t tile = 0; tile < tiles; tile += 2) {
        const uint16_t* const upper = x + (tile * all_steps + begin) * kSplit;
        const uint16_t* const lower = upper + all_steps * kSplit;
        float* const to = y + tile * kTileRows * shape.n + column;
        const bool is_last = rest && tile + 2 >= tiles, both = tile + 1 < tiles;
        if (is_last)
          configured.configure(std::min<int>(rest, kTileRows), both ? static_cast<int>(rest) - kTileRows : kTileRows);
        (both ? multiply<true> : multiply<false>)(upper, lower, unpacked[0], unpacked[1], steps, to, shape.n);
        if (is_last) configured.configure(kTileRows, kTileRows);
      }
    }
  }
}

}  // namespace amx::float16
