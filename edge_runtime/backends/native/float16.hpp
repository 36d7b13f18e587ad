// Rows of float32 by a matrix of float16, as products of bfloat16 (parts.hpp); knows no thread and no ONNX Runtime.
//
// A matrix (N, K) lies as it is multiplied: float16 (N / 16, K / 32, 16, 32), where [i][2 n + j] is weight 2 i + j of
// column n. It is taken apart a few columns at a time, and so is held in memory once, as it is stored.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tiles.hpp"

namespace amx::float16 {

struct Shape {
  size_t rows, k, n;
  size_t padded_rows() const { return round_up(rows, kTileRows); }
};

// Take rows [16 tile, 16 tile + 16) of `x` (rows, K) apart: `to` is bfloat16 (rows / 16, K / 32, 2, 16, 32).
void split_tile(const float* x, const Shape& shape, size_t tile, uint16_t* to);

// Columns [first, end), multiples of 32, of the product; `bias` (N) may be null.
void multiply_rows(const uint16_t* x, const Shape& shape, const uint16_t* weights, const float* bias, size_t first,
                   size_t end, float* y);

}  // namespace amx::float16
