// Causal attention over keys and values of float16; knows no thread and no ONNX Runtime.
//
// The cache takes half of what float32 would, and rounds as float16 does. What is computed of it is as exact as float32
// for a row alone, and to 2^-16 by tiles for many (parts.hpp).
#pragma once
#include <cstddef>
#include <cstdint>

#include "tiles.hpp"

namespace amx::attention {

// The query heads that share one head of keys and values.
struct Group {
  const float* queries;    // (rows, stride): rotated, times 1 / sqrt(size); one head after another
  const uint16_t* keys;    // float16 (tokens, size)
  const uint16_t* values;  // the same
  float* context;          // (rows, stride), as the queries
  size_t heads, size, stride, rows, past;  // row i attends to the first past + i + 1 tokens; `size` is a multiple of 32

  size_t tokens() const { return past + rows; }
};

// Bytes that `attend` writes to meanwhile.
size_t scratch_bytes(const Group& group);

void attend(const Group& group, void* scratch);

// Turn a head (size), halves side by side, to its position, and multiply it by `scale`: RoFormer (Su et al. 2021,
// section 3.2.2).
void rotate(const float* head, const float* cos, const float* sin, size_t size, float scale, float* to);

// `count` numbers, a multiple of 16, as float16; those beyond its largest as infinity.
void narrow(const float* numbers, size_t count, uint16_t* to);

}  // namespace amx::attention
