// See int4.hpp.
#include "int4.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace amx::int4 {
namespace {

constexpr size_t kStep = 64;           // weights of a column in one tile
constexpr size_t kPacked = 512;        // bytes of codes in a step
constexpr float kSmallest = 1e-37f;    // scale, whose inverse is a number too; what is smaller counts as zero
constexpr size_t kAhead = 3072;        // bytes to fetch before; 2 to 4 kB into the second cache read fastest

inline __m512 widened(const uint16_t* scales) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
}

inline __m512i low_nibbles(__m512i bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
inline __m512i high_nibbles(__m512i bytes) { return low_nibbles(_mm512_srli_epi16(bytes, 4)); }
inline __m512i load(const uint8_t* bytes) { return _mm512_loadu_si512(bytes); }
inline void prefetch(const uint8_t* bytes) { _mm_prefetch(reinterpret_cast<const char*>(bytes), _MM_HINT_T1); }

// 64 weights of 16 columns as the right operand of a product of tiles.
inline void unpack(const uint8_t* packed, int8_t* tile) {
  const __m512i zero = _mm512_set1_epi8(8);
  for (int i = 0; i < 8; ++i) {
    const __m512i bytes = load(packed + i * 64);
    prefetch(packed + i * 64 + kAhead);
    _mm512_store_si512(tile + i * 64, _mm512_sub_epi8(low_nibbles(bytes), zero));
    _mm512_store_si512(tile + (i + 8) * 64, _mm512_sub_epi8(high_nibbles(bytes), zero));
  }
}

// Adds the sums of a tile, of one block, to those of float32: `sums` (rows, kGroup).
inline void add(const int32_t* tile, int rows, const float* row_scales, size_t stride, __m512 scales, float* sums) {
  for (int row = 0; row < rows; ++row) {
    const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(row_scales[row * stride]), scales);
    float* to = sums + row * kGroup;
    const __m512 products = _mm512_cvtepi32_ps(_mm512_load_si512(tile + row * 16));
    _mm512_storeu_ps(to, _mm512_fmadd_ps(products, scale, _mm512_loadu_ps(to)));
  }
}

// `steps` steps of one or two tiles of rows by two of columns.
template <bool kBoth>
inline void multiply(const int8_t* upper, const int8_t* lower, const int8_t (*right)[2][kTileSize], size_t steps,
                     int32_t (*sums)[256]) {
  _tile_zero(0);
  _tile_zero(1);
  if (kBoth) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (size_t step = 0; step < steps; ++step) {
    _tile_loadd(4, upper + step * kTileSize, kTileBytes);
    _tile_loadd(6, right[0][step], kTileBytes);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, right[1][step], kTileBytes);
    _tile_dpbssd(1, 4, 7);
    if (kBoth) {
      _tile_loadd(5, lower + step * kTileSize, kTileBytes);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_stored(0, sums[0], kTileBytes);
  _tile_stored(1, sums[1], kTileBytes);
  if (kBoth) {
    _tile_stored(2, sums[2], kTileBytes);
    _tile_stored(3, sums[3], kTileBytes);
  }
}

}  // namespace

void round_tile(const float* x, const Shape& shape, size_t tile, const Rounded& to) {
  const size_t first = tile * kTileRows, steps = shape.k / kStep, blocks = shape.blocks();
  const size_t count = std::min<size_t>(kTileRows, shape.rows - first);
  int8_t* const codes = to.codes + tile * steps * kTileSize;
  const size_t row_stride = shape.rows == 1 ? kStep : kTileSize;  // from a step of a row to its next
  for (size_t row = 0; row < count; ++row) {
    for (size_t block = 0; block < blocks; ++block) {
      const float* from = x + (first + row) * shape.k + block * shape.block;
      __m512 largest = _mm512_setzero_ps();
      __mmask16 strange = 0;
      for (size_t i = 0; i < shape.block; i += 16) {
        const __m512 magnitudes = _mm512_abs_ps(_mm512_loadu_ps(from + i));
        strange |= _mm512_cmp_ps_mask(magnitudes, _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
        largest = _mm512_max_ps(largest, magnitudes);
      }
      const float scale = strange ? NAN : _mm512_reduce_max_ps(largest) / 127.0f;
      const __m512 inverse = _mm512_set1_ps(scale > kSmallest ? 1.0f / scale : 0.0f);
      __m512i sum = _mm512_setzero_si512();
      for (size_t i = 0; i < shape.block; i += 16) {
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from + i), inverse));
        sum = _mm512_add_epi32(sum, rounded);
        const size_t k = block * shape.block + i;
        int8_t* const place = codes + k / kStep * row_stride + row * kTileBytes + k % kStep;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(place), _mm512_cvtsepi32_epi8(rounded));
      }
      to.scales[(first + row) * blocks + block] = scale;
      to.sums[(first + row) * blocks + block] = strange ? 0 : _mm512_reduce_add_epi32(sum);
    }
  }
  for (size_t row = count; row < kTileRows && shape.rows > 1; ++row)  // whose products nobody reads
    std::memset(to.scales + (first + row) * blocks, 0, blocks * sizeof(float));
}

void multiply_row(const Rounded& x, const Shape& shape, const uint8_t* codes, const uint16_t* scales, const float* bias,
                  size_t first, size_t end, float* y) {
  const size_t steps = shape.block / kStep;
  for (size_t column = first; column < end; column += 16) {
    const uint8_t* packed = codes + column / 16 * (shape.k / kStep) * kPacked;
    const uint16_t* scale = scales + column * shape.blocks();
    __m512 total = bias ? _mm512_loadu_ps(bias + column) : _mm512_setzero_ps();
    const int8_t* row = x.codes;
    for (size_t block = 0; block < shape.blocks(); ++block, scale += 16) {
      // Codes count from 0 here, so 8 times the row's own sum is taken off first.
      __m512i sums[4] = {_mm512_set1_epi32(-8 * x.sums[block])};
      for (size_t step = 0; step < steps; ++step, packed += kPacked, row += kStep) {
        int32_t fours[16];  // 4 of the row's codes each
        std::memcpy(fours, row, sizeof fours);
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
          const __m512i bytes = load(packed + i * 64);
          prefetch(packed + i * 64 + kAhead);
          __m512i& low = sums[i % 2 * 2];
          __m512i& high = sums[i % 2 * 2 + 1];
          low = _mm512_dpbusd_epi32(low, low_nibbles(bytes), _mm512_set1_epi32(fours[i]));
          high = _mm512_dpbusd_epi32(high, high_nibbles(bytes), _mm512_set1_epi32(fours[i + 8]));
        }
      }
      const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3]));
      const __m512 both = _mm512_mul_ps(widened(scale), _mm512_set1_ps(x.scales[block]));
      total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), both, total);
    }
    _mm512_storeu_ps(y + column, total);
  }
}

void multiply_rows(const Rounded& x, const Shape& shape, const uint8_t* codes, const uint16_t* scales,
                   const float* bias, size_t first, size_t end, float* y, float* sums) {
  const size_t all_steps = shape.k / kStep, steps = shape.block / kStep, blocks = shape.blocks();
  const size_t tiles = shape.padded_rows() / kTileRows;
  alignas(64) int8_t right[kGroup / 16][2][kTileSize];
  alignas(64) int32_t products[4][256];
  const int upper_rows = std::min<int>(kTileRows, shape.rows);  // tiles of fewer rows take less time
  const Tiles configured(upper_rows);
  for (size_t group = first; group < end; group += kGroup) {
    const size_t columns = std::min(kGroup, end - group);
    std::memset(sums, 0, shape.padded_rows() * kGroup * sizeof(float));
    for (size_t block = 0; block < blocks; ++block) {
      __m512 column_scales[kGroup / 16];
      for (size_t i = 0; i < columns / 16; ++i) {
        const size_t slice = group / 16 + i;
        for (size_t step = 0; step < steps; ++step)
          unpack(codes + (slice * all_steps + block * steps + step) * kPacked, right[i][step]);
        column_scales[i] = widened(scales + (slice * blocks + block) * 16);
      }
      finish_stores();
      for (size_t tile = 0; tile < tiles; tile += 2) {
        const int8_t* const upper = x.codes + (tile * all_steps + block * steps) * kTileSize;
        const int8_t* const lower = upper + all_steps * kTileSize;
        const bool both = tile + 1 < tiles;
        for (size_t pair = 0; pair < columns / kPairColumns; ++pair) {
          (both ? multiply<true> : multiply<false>)(upper, lower, right + 2 * pair, steps, products);
          for (size_t i = 0; i < (both ? 4 : 2); ++i) {
            const size_t row = (tile + i / 2) * kTileRows, column = 2 * pair + i % 2;
            add(products[i], upper_rows, x.scales + row * blocks + block, blocks, column_scales[column],
                sums + row * kGroup + column * 16);
          }
        }
      }
    }
    for (size_t row = 0; row < shape.rows; ++row) {
      for (size_t i = 0; i < columns; i += 16) {
        const __m512 sum = _mm512_loadu_ps(sums + row * kGroup + i);
        const __m512 offset = bias ? _mm512_loadu_ps(bias + group + i) : _mm512_setzero_ps();
        _mm512_storeu_ps(y + row * shape.n + group + i, _mm512_add_ps(sum, offset));
      }
    }
  }
}

}  // namespace amx::int4
