// What is computed of one row at a time, number by number; knows no thread and no ONNX Runtime.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstddef>

namespace amx {

constexpr size_t kLanes = 16;  // of float32

inline __mmask16 first_lanes(size_t count) {
  return count >= kLanes ? 0xFFFF : static_cast<__mmask16>((1u << count) - 1);
}

// exp(x) to 5e-7 of it, and 0 below -104: 2^n times a Taylor series of half a power of two at most. The logarithm of 2
// is taken off in two parts, the first of few bits, so that large n leave no error.
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);  // in this order NaN stays
  const __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
  const __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
  rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
  __m512 sum = _mm512_set1_ps(1.0f / 720);
  for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1.0f, 1.0f})
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
  return _mm512_scalef_ps(sum, whole);
}

// The sum of two rows (count).
inline void add(const float* row, const float* other, size_t count, float* sum) {
  for (size_t i = 0; i < count; i += kLanes) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 x = _mm512_maskz_loadu_ps(lanes, row + i);
    _mm512_mask_storeu_ps(sum + i, lanes, _mm512_add_ps(x, _mm512_maskz_loadu_ps(lanes, other + i)));
  }
}

// A row (count) over its root mean square, times `scale`: RMSNorm (Zhang and Sennrich 2019).
inline void rms_norm(const float* row, const float* scale, float epsilon, size_t count, float* normed) {
  __m512 squares = _mm512_setzero_ps();
  for (size_t i = 0; i < count; i += kLanes) {
    const __m512 x = _mm512_maskz_loadu_ps(first_lanes(count - i), row + i);
    squares = _mm512_fmadd_ps(x, x, squares);
  }
  const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(count);
  const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(mean + epsilon));
  for (size_t i = 0; i < count; i += kLanes) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, row + i), factor);
    _mm512_mask_storeu_ps(normed + i, lanes, _mm512_mul_ps(x, _mm512_maskz_loadu_ps(lanes, scale + i)));
  }
}

// `gate` (count) by its own sigmoid, times `up`: SwiGLU (Shazeer 2020).
inline void gate_silu(const float* gate, const float* up, size_t count, float* y) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (size_t i = 0; i < count; i += kLanes) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 x = _mm512_maskz_loadu_ps(lanes, gate + i);
    const __m512 below = _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x)));
    const __m512 factor = _mm512_maskz_loadu_ps(lanes, up + i);
    _mm512_mask_storeu_ps(y + i, lanes, _mm512_mul_ps(_mm512_div_ps(x, below), factor));
  }
}

}  // namespace amx
