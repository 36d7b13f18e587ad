// See float16.hpp.
#include "float16.hpp"

#include <algorithm>

#include "parts.hpp"

namespace amx::float16 {
namespace {

constexpr size_t kSpan = 512;  // weights of a column that are taken apart at once: rows stay in the cache meanwhile

inline void unpack(const uint16_t* weights, uint16_t* to) {
  for (size_t i = 0; i < kNumbers; i += 32) {
    const Parts parts = split(widened(weights + i), widened(weights + i + 16));
    _mm_prefetch(reinterpret_cast<const char*>(weights + i + 1024), _MM_HINT_T0);
    _mm512_store_si512(to + i, parts.high);
    _mm512_store_si512(to + kNumbers + i, parts.low);
  }
}

}  // namespace

void split_tile(const float* x, const Shape& shape, size_t tile, uint16_t* to) {
  const size_t first = tile * kTileRows, steps = shape.k / kStep;
  uint16_t* const tiles = to + tile * steps * kParts;
  for (size_t row = 0; row < std::min<size_t>(kTileRows, shape.rows - first); ++row) {
    const float* from = x + (first + row) * shape.k;
    for (size_t step = 0; step < steps; ++step, from += kStep) {
      const Parts parts = split(_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16));
      uint16_t* const place = tiles + step * kParts + row * kStep;
      _mm512_store_si512(place, parts.high);
      _mm512_store_si512(place + kNumbers, parts.low);
    }
  }
}

void multiply_rows(const uint16_t* x, const Shape& shape, const uint16_t* weights, const float* bias, size_t first,
                   size_t end, float* y) {
  const size_t all_steps = shape.k / kStep, tiles = shape.padded_rows() / kTileRows;
  const size_t rest = shape.rows % (2 * kTileRows);  // of the last pair of tiles, where it is not whole
  alignas(64) uint16_t unpacked[2][kSpan / kStep * kParts];
  for (size_t row = 0; row < shape.rows; ++row)
    for (size_t column = first; column < end; column += 16)
      _mm512_storeu_ps(y + row * shape.n + column, bias ? _mm512_loadu_ps(bias + column) : _mm512_setzero_ps());
  Tiles configured;
  for (size_t begin = 0; begin < all_steps; begin += kSpan / kStep) {
    const size_t steps = std::min(kSpan / kStep, all_steps - begin);
    for (size_t column = first; column < end; column += kPairColumns) {
      for (size_t side = 0; side < 2; ++side)
        for (size_t step = 0; step < steps; ++step)
          unpack(weights + ((column / kTileRows + side) * all_steps + begin + step) * kNumbers,
                 unpacked[side] + step * kParts);
      finish_stores();
      for (size_t tile = 0; tile < tiles; tile += 2) {
        const uint16_t* const upper = x + (tile * all_steps + begin) * kParts;
        const uint16_t* const lower = upper + all_steps * kParts;
        float* const to = y + tile * kTileRows * shape.n + column;
        const bool is_last = rest && tile + 2 >= tiles, both = tile + 1 < tiles;
        if (is_last)
          configured.configure(std::min<int>(rest, kTileRows), both ? static_cast<int>(rest) - kTileRows : kTileRows);
        const auto multiply = both ? multiply_parts<true> : multiply_parts<false>;
        multiply(upper, lower, unpacked[0], unpacked[1], steps, to, shape.n);
        if (is_last) configured.configure(kTileRows, kTileRows);
      }
    }
  }
}

}  // namespace amx::float16
