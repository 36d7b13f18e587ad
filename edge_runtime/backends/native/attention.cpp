// See attention.hpp.
#include "attention.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "float16.hpp"
#include "parts.hpp"
#include "rows.hpp"

namespace amx::attention {
namespace {

constexpr size_t kRows = 2 * kTileRows;  // that are computed at once
constexpr size_t kAhead = 3072;          // bytes to fetch before
constexpr size_t kFewRows = 8;           // and fewer, one after another: before tiles, keys and values are unpacked

// Scores (count) to shares that add up to 1, and zeros behind them up to `end`.
void softmax(float* scores, size_t count, size_t end) {
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 largest = lowest, sum = _mm512_setzero_ps();
  for (size_t i = 0; i < count; i += kLanes)
    largest = _mm512_max_ps(largest, _mm512_mask_loadu_ps(lowest, first_lanes(count - i), scores + i));
  largest = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
  for (size_t i = 0; i < count; i += kLanes) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 share = exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, scores + i), largest));
    sum = _mm512_mask_add_ps(sum, lanes, sum, share);
    _mm512_mask_storeu_ps(scores + i, lanes, share);
  }
  const __m512 inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
  for (size_t i = 0; i < count; i += kLanes) {
    const __mmask16 lanes = first_lanes(count - i);
    _mm512_mask_storeu_ps(scores + i, lanes, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, scores + i), inverse));
  }
  std::fill(scores + count, scores + end, 0.0f);
}

inline void prefetch(const uint16_t* numbers) {
  _mm_prefetch(reinterpret_cast<const char*>(numbers) + kAhead, _MM_HINT_T1);
}

// One row to the first `tokens`.
void attend_alone(const float* query, const Group& group, size_t tokens, float* scores, float* context) {
  const size_t size = group.size;
  for (size_t token = 0; token < tokens; ++token) {
    const uint16_t* const key = group.keys + token * size;
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (size_t i = 0; i < size; i += 2 * kLanes) {
      prefetch(key + i);
      even = _mm512_fmadd_ps(widened(key + i), _mm512_loadu_ps(query + i), even);
      odd = _mm512_fmadd_ps(widened(key + i + kLanes), _mm512_loadu_ps(query + i + kLanes), odd);
    }
    scores[token] = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
  }
  softmax(scores, tokens, tokens);
  for (size_t first = 0; first < size; first += 8 * kLanes) {  // of which the sums stay in registers
    const size_t parts = std::min<size_t>(8, (size - first) / kLanes);
    __m512 sums[8] = {};
    for (size_t token = 0; token < tokens; ++token) {
      const uint16_t* const value = group.values + token * size + first;
      for (size_t part = 0; part < parts; ++part) {
        if (part % 2 == 0) prefetch(value + part * kLanes);
        sums[part] = _mm512_fmadd_ps(widened(value + part * kLanes), _mm512_set1_ps(scores[token]), sums[part]);
      }
    }
    for (size_t part = 0; part < parts; ++part) _mm512_storeu_ps(context + first + part * kLanes, sums[part]);
  }
}

// Rows of 16 pairs to 16 rows of what was in one column.
inline void transpose(__m512i (&rows)[16]) {
  __m512i pairs[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      rows[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
      rows[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
    }
  }
  for (int i = 0; i < 4; ++i) {  // lanes of 4 pairs: rows 0 to 3, 4 to 7, 8 to 11 and 12 to 15
    const __m512i low = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    const __m512i high = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    const __m512i low_2 = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    const __m512i high_2 = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
    pairs[i] = _mm512_shuffle_i32x4(low, low_2, 0x88);
    pairs[i + 8] = _mm512_shuffle_i32x4(low, low_2, 0xdd);
    pairs[i + 4] = _mm512_shuffle_i32x4(high, high_2, 0x88);
    pairs[i + 12] = _mm512_shuffle_i32x4(high, high_2, 0xdd);
  }
  std::copy(pairs, pairs + 16, rows);
}

inline Parts parts_of(const uint16_t* float16) { return split(widened(float16), widened(float16 + kLanes)); }

// Keys as the right operand of queries by keys: (tokens / 16, size / 32) tiles of parts. Tokens that are not there are
// zeros.
void unpack_keys(const Group& group, uint16_t* to) {
  for (size_t first = 0; first < round_up(group.tokens(), kRows); first += kTileRows) {
    for (size_t i = 0; i < group.size; i += kStep, to += kParts) {
      __m512i high[16] = {}, low[16] = {};
      for (size_t j = 0; j < kTileRows && first + j < group.tokens(); ++j) {
        const Parts parts = parts_of(group.keys + (first + j) * group.size + i);
        high[j] = parts.high;
        low[j] = parts.low;
      }
      transpose(high);
      transpose(low);
      for (int row = 0; row < 16; ++row) {
        _mm512_store_si512(to + row * kStep, high[row]);
        _mm512_store_si512(to + kNumbers + row * kStep, low[row]);
      }
    }
  }
}

// Values as the right operand of shares by values: (size / 16, tokens / 32) tiles of parts.
void unpack_values(const Group& group, uint16_t* to) {
  const size_t steps = round_up(group.tokens(), kStep) / kStep;
  alignas(64) static const uint16_t kFirst[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                  8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i first_half = _mm512_load_si512(kFirst);
  const __m512i second_half = _mm512_add_epi16(first_half, _mm512_set1_epi16(16));
  for (size_t token = 0; token < steps * kStep; token += 2) {
    for (size_t i = 0; i < group.size; i += kStep) {
      const uint16_t* const values = group.values + token * group.size + i;
      const Parts none = {_mm512_setzero_si512(), _mm512_setzero_si512()};
      const Parts even = token < group.tokens() ? parts_of(values) : none;
      const Parts odd = token + 1 < group.tokens() ? parts_of(values + group.size) : none;
      uint16_t* const left = to + (i / 16 * steps + token / kStep) * kParts + token % kStep / 2 * kStep;
      uint16_t* const right = left + steps * kParts;
      _mm512_store_si512(left, _mm512_permutex2var_epi16(even.high, first_half, odd.high));
      _mm512_store_si512(left + kNumbers, _mm512_permutex2var_epi16(even.low, first_half, odd.low));
      _mm512_store_si512(right, _mm512_permutex2var_epi16(even.high, second_half, odd.high));
      _mm512_store_si512(right + kNumbers, _mm512_permutex2var_epi16(even.low, second_half, odd.low));
    }
  }
}

// One or two tiles of rows (rows, k) of `x` by `columns` of a right operand: `y` (rows, stride).
void multiply(const float* x, size_t rows, size_t k, uint16_t* parts, const uint16_t* right, size_t right_steps,
              size_t columns, float* y, size_t stride) {
  const float16::Shape shape{rows, k, columns};
  for (size_t tile = 0; tile < rows / kTileRows; ++tile) float16::split_tile(x, shape, tile, parts);
  for (size_t row = 0; row < rows; ++row) std::fill(y + row * stride, y + row * stride + columns, 0.0f);
  finish_stores();
  const size_t steps = k / kStep, slice = right_steps * kParts;
  for (size_t column = 0; column < columns; column += kPairColumns) {
    const uint16_t* const left = right + column / kTileRows * slice;
    const auto multiply_tiles = rows == kRows ? multiply_parts<true> : multiply_parts<false>;
    multiply_tiles(parts, parts + steps * kParts, left, left + slice, steps, y + column, stride);
  }
}

// Where `attend` keeps what it computes meanwhile: bytes from the beginning of its scratch.
struct Room {
  size_t tokens;  // rounded up to kRows
  size_t scores;  // float32 (kRows, tokens); of few rows (tokens)
  size_t rows;    // float32 (kRows, size): queries, then context
  size_t parts;   // of either
  size_t keys;    // parts
  size_t values;  // parts
  size_t end = 0;

  explicit Room(const Group& group) : tokens(round_up(group.tokens(), kRows)) {
    const size_t widest = std::max(tokens, group.size), many = group.rows > kFewRows;
    scores = take((many ? kRows : 1) * tokens * sizeof(float));
    rows = take(many * kRows * group.size * sizeof(float));
    parts = take(many * 2 * kRows * widest * sizeof(uint16_t));
    keys = take(many * 2 * tokens * group.size * sizeof(uint16_t));
    values = take(many * 2 * tokens * group.size * sizeof(uint16_t));
  }

 private:
  size_t take(size_t bytes) {
    const size_t taken = end;
    end += round_up(bytes, 64);
    return taken;
  }
};

}  // namespace

size_t scratch_bytes(const Group& group) { return Room(group).end; }

void attend(const Group& group, void* scratch) {
  const Room room(group);
  const auto at_byte = [scratch](size_t byte) { return static_cast<void*>(static_cast<char*>(scratch) + byte); };
  auto* const scores = static_cast<float*>(at_byte(room.scores));
  if (group.rows <= kFewRows) {
    for (size_t head = 0; head < group.heads; ++head) {
      for (size_t row = 0; row < group.rows; ++row) {
        const size_t at = row * group.stride + head * group.size;
        attend_alone(group.queries + at, group, group.past + row + 1, scores, group.context + at);
      }
    }
    return;
  }
  const size_t size = group.size;
  auto* const rows = static_cast<float*>(at_byte(room.rows));
  auto* const parts = static_cast<uint16_t*>(at_byte(room.parts));
  auto* const keys = static_cast<uint16_t*>(at_byte(room.keys));
  auto* const values = static_cast<uint16_t*>(at_byte(room.values));
  unpack_keys(group, keys);
  unpack_values(group, values);
  const Tiles configured;
  for (size_t head = 0; head < group.heads; ++head) {
    for (size_t first = 0; first < group.rows; first += kRows) {
      const size_t count = std::min(kRows, group.rows - first), at = first * group.stride + head * size;
      const size_t whole = round_up(count, kTileRows);
      const size_t reach = round_up(group.past + first + count, kRows);  // tokens that any of the rows attends to
      for (size_t row = 0; row < whole; ++row) {
        const float* const query = group.queries + at + row * group.stride;
        if (row < count) std::copy(query, query + size, rows + row * size);
        else std::fill(rows + row * size, rows + (row + 1) * size, 0.0f);
      }
      multiply(rows, whole, size, parts, keys, size / kStep, reach, scores, reach);
      for (size_t row = 0; row < count; ++row) softmax(scores + row * reach, group.past + first + row + 1, reach);
      multiply(scores, whole, reach, parts, values, room.tokens / kStep, size, rows, size);
      for (size_t row = 0; row < count; ++row)
        std::copy(rows + row * size, rows + (row + 1) * size, group.context + at + row * group.stride);
    }
  }
}

void rotate(const float* head, const float* cos, const float* sin, size_t size, float scale, float* to) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (size_t i = 0; i < size / 2; i += kLanes) {
    const __m512 first = _mm512_loadu_ps(head + i), second = _mm512_loadu_ps(head + size / 2 + i);
    const __m512 c = _mm512_mul_ps(_mm512_loadu_ps(cos + i), factor);
    const __m512 s = _mm512_mul_ps(_mm512_loadu_ps(sin + i), factor);
    _mm512_storeu_ps(to + i, _mm512_fmsub_ps(first, c, _mm512_mul_ps(second, s)));
    _mm512_storeu_ps(to + size / 2 + i, _mm512_fmadd_ps(second, c, _mm512_mul_ps(first, s)));
  }
}

void narrow(const float* numbers, size_t count, uint16_t* to) {
  for (size_t i = 0; i < count; i += kLanes) {
    const __m256i halves = _mm512_cvtps_ph(_mm512_loadu_ps(numbers + i), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), halves);
  }
}

}  // namespace amx::attention
