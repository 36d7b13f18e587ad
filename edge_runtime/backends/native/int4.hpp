// Rows of float32 by a matrix of 4-bit codes, in integers; knows no thread and no ONNX Runtime.
//
// A matrix (N, K) lies as it is multiplied, so that it can be mapped from its file and never be copied:
//   codes   uint8 (N / 16, K / 64, 8, 64): of 16 columns of the product and 64 of their weights, byte [i][4 n + j]
//           holds those of column n: 4 i + j in its low nibble, and 32 + 4 i + j in its high one; 8 stands for 0
//   scales  float16 (N / 16, K / block, 16)
// A block is 64 or 128 weights. Rows are rounded to 8 bits, a scale a block: a sum of a block is exact in 32 bits.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tiles.hpp"

namespace amx::int4 {

constexpr size_t kGroup = 64;  // columns that are computed before the next: rows are read once for all of them

struct Shape {
  size_t rows, k, n, block;
  size_t blocks() const { return k / block; }
  size_t padded_rows() const { return round_up(rows, kTileRows); }
};

// Rows as they are multiplied: codes by tiles (rows / 16, K / 64, 16, 64), or one row as it is; scales, and sums of
// codes, (padded rows, blocks).
struct Rounded {
  int8_t* codes;
  float* scales;
  int32_t* sums;
};

// Round rows [16 tile, 16 tile + 16) of `x` (rows, K). A row with NaN or infinity becomes NaN.
void round_tile(const float* x, const Shape& shape, size_t tile, const Rounded& to);

// Columns [first, end) of the product, both multiples of 16; `bias` (N) may be null. For one row.
void multiply_row(const Rounded& x, const Shape& shape, const uint8_t* codes, const uint16_t* scales, const float* bias,
                  size_t first, size_t end, float* y);

// The same for many rows; [first, end) are multiples of 32. `sums` is scratch (padded rows, kGroup).
void multiply_rows(const Rounded& x, const Shape& shape, const uint8_t* codes, const uint16_t* scales,
                   const float* bias, size_t first, size_t end, float* y, float* sums);

}  // namespace amx::int4
