// The operators of the domain edge_runtime.amx, as ONNX Runtime finds them when it loads this library:
//
//   MatMulInt4 (x, codes, scales, bias?)                attributes K, N, block_size; see int4.hpp
//   MatMulFloat16 (x, weight, bias?)                    attributes K, N; see float16.hpp
//   AddRmsNorm (x, scale, residual?) to (normed, sum?)  attribute epsilon; see rows.hpp
//   GateSilu (gate and up, side by side)
//   CausalAttention (qkv, past_key, past_value, seqlens_k, total_sequence_length, cos, sin) to
//   (context, present_key, present_value)               attributes num_heads, kv_num_heads; see attention.hpp
//
// x is float32 (..., K), a bias float32 (N), what comes out float32 (..., N). Attention's tensors are as those of ONNX
// Runtime's GroupQueryAttention, but for keys and values, which are float16.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention.hpp"
#include "float16.hpp"
#include "int4.hpp"
#include "operator.hpp"
#include "rows.hpp"
#include "scratch.hpp"

namespace {

using namespace amx;
using ort::kFloat, ort::kFloat16, ort::kInt32, ort::kUint8, ort::product;

constexpr size_t kChunks = 64;         // of a product of one row, so that no thread waits long for another
constexpr size_t kChunkColumns = 256;  // of a product of many rows, all of which are read once for a chunk
constexpr size_t kLargestHead = 512;   // numbers
constexpr const char* kOtherSize = "an input whose size is not the node's";

inline size_t chunks_of(size_t whole, size_t chunk) { return (whole + chunk - 1) / chunk; }

// The matrix of a node, and the rows that meet it.
struct Matrix {
  ort::Api api;
  size_t k, n;
  std::shared_ptr<Pool> pool = Pool::shared();

  Matrix(ort::Api api, const ort::KernelInfo* info, size_t step)
      : api(api), k(ort::attribute(api, info, "K")), n(ort::attribute(api, info, "N")) {
    ort::require(api, k % step == 0 && n % kPairColumns == 0, "a matrix that is not made of whole tiles");
  }

  size_t rows_of(const ort::Sizes& x) const {
    ort::require(api, !x.empty() && x.back() == static_cast<int64_t>(k), kOtherSize);
    return ort::product(x) / k;
  }

  ort::Sizes product_of(ort::Sizes x) const {
    x.back() = static_cast<int64_t>(n);
    return x;
  }
};

struct MatMulInt4 : Matrix {
  static constexpr const char* kName = "MatMulInt4";
  static constexpr ort::ElementType kInputs[] = {kFloat, kUint8, kFloat16, kFloat}, kOutputs[] = {kFloat};
  static constexpr size_t kRequired = 3;

  size_t block;

  MatMulInt4(ort::Api api, const ort::KernelInfo* info)
      : Matrix(api, info, 64), block(ort::attribute(api, info, "block_size")) {
    ort::require(api, (block == 64 || block == 128) && k % block == 0, "blocks that are not of 64 or 128 weights");
  }

  void operator()(ort::Context* context) const {
    const ort::Run run(api, context);
    const ort::Sizes sizes = run.sizes(0);
    const int4::Shape shape{rows_of(sizes), k, n, block};
    const bool is_whole = product(run.sizes(1)) == n * k / 2 && product(run.sizes(2)) == n * shape.blocks();
    ort::require(api, is_whole && run.is_absent_or(3, n), kOtherSize);
    const auto *const x = run.input<float>(0), *const bias = run.input<float>(3);
    const auto* const codes = run.input<uint8_t>(1);
    const auto* const scales = run.input<uint16_t>(2);
    auto* const y = run.output<float>(0, product_of(sizes));

    const size_t numbers = shape.padded_rows() * shape.blocks();
    const Scratch room(*pool, shape.padded_rows() * k + 8 * numbers);
    const int4::Rounded rounded{room.at<int8_t>(8 * numbers), room.at<float>(), room.at<int32_t>(4 * numbers)};
    run.parallel_for(shape.padded_rows() / kTileRows, [&](size_t tile) { round_tile(x, shape, tile, rounded); });
    if (shape.rows == 1) {
      const size_t chunk = round_up(chunks_of(n, kChunks), 16);
      run.parallel_for(chunks_of(n, chunk), [&](size_t i) {
        multiply_row(rounded, shape, codes, scales, bias, i * chunk, std::min(n, (i + 1) * chunk), y);
      });
    } else if (shape.rows) {
      run.parallel_for(chunks_of(n, kChunkColumns), [&](size_t i) {
        const Scratch sums(*pool, shape.padded_rows() * int4::kGroup * sizeof(float));
        const size_t first = i * kChunkColumns, end = std::min(n, first + kChunkColumns);
        multiply_rows(rounded, shape, codes, scales, bias, first, end, y, sums.at<float>());
      });
    }
  }
};

struct MatMulFloat16 : Matrix {
  static constexpr const char* kName = "MatMulFloat16";
  static constexpr ort::ElementType kInputs[] = {kFloat, kFloat16, kFloat}, kOutputs[] = {kFloat};
  static constexpr size_t kRequired = 2;

  MatMulFloat16(ort::Api api, const ort::KernelInfo* info) : Matrix(api, info, 32) {}

  void operator()(ort::Context* context) const {
    const ort::Run run(api, context);
    const ort::Sizes sizes = run.sizes(0);
    const float16::Shape shape{rows_of(sizes), k, n};
    ort::require(api, product(run.sizes(1)) == n * k && run.is_absent_or(2, n), kOtherSize);
    const auto *const x = run.input<float>(0), *const bias = run.input<float>(2);
    const auto* const weights = run.input<uint16_t>(1);
    auto* const y = run.output<float>(0, product_of(sizes));

    const Scratch room(*pool, 4 * shape.padded_rows() * k);
    auto* const parts = room.at<uint16_t>();
    run.parallel_for(shape.padded_rows() / kTileRows, [&](size_t tile) { split_tile(x, shape, tile, parts); });
    run.parallel_for(shape.rows ? chunks_of(n, kChunkColumns) : 0, [&](size_t i) {
      const size_t first = i * kChunkColumns, end = std::min(n, first + kChunkColumns);
      multiply_rows(parts, shape, weights, bias, first, end, y);
    });
  }
};

struct CausalAttention {
  static constexpr const char* kName = "CausalAttention";
  static constexpr ort::ElementType kInputs[] = {kFloat, kFloat16, kFloat16, kInt32, kInt32, kFloat, kFloat};
  static constexpr ort::ElementType kOutputs[] = {kFloat, kFloat16, kFloat16};
  static constexpr size_t kRequired = 7;

  ort::Api api;
  size_t heads, kv_heads;
  std::shared_ptr<Pool> pool = Pool::shared();

  CausalAttention(ort::Api api, const ort::KernelInfo* info)
      : api(api), heads(ort::attribute(api, info, "num_heads")), kv_heads(ort::attribute(api, info, "kv_num_heads")) {
    ort::require(api, heads % kv_heads == 0, "heads that cannot share keys and values evenly");
  }

  void operator()(ort::Context* context) const {
    const ort::Run run(api, context);
    const ort::Sizes qkv = run.sizes(0), cache = run.sizes(1), table = run.sizes(5);
    const bool is_known = qkv.size() == 3 && cache.size() == 4 && table.size() == 2 && run.sizes(2) == cache &&
                          run.sizes(6) == table && product(run.sizes(4)) == 1;
    ort::require(api, is_known, "an input that has not the node's dimensions");
    const size_t rows = qkv[1], width = qkv[2], capacity = cache[2], size = cache[3], positions = table[0];
    const bool is_head = size && size % kPairColumns == 0 && size <= kLargestHead;
    const bool is_whole = is_head && qkv[0] == 1 && width == (heads + 2 * kv_heads) * size && cache[0] == 1 &&
                          cache[1] == static_cast<int64_t>(kv_heads) && table[1] == static_cast<int64_t>(size / 2);
    ort::require(api, is_whole, kOtherSize);
    const auto present = static_cast<size_t>(*run.input<int32_t>(4));
    ort::require(api, rows <= present && present <= std::min(capacity, positions),
                 "more tokens than the cache or the positions have room for");
    const auto *const x = run.input<float>(0), *const cos = run.input<float>(5), *const sin = run.input<float>(6);
    auto* const y = run.output<float>(0, {1, qkv[1], static_cast<int64_t>(heads * size)});
    uint16_t* const keys = appended(run, 1, cache);
    uint16_t* const values = appended(run, 2, cache);
    if (!rows) return;

    const Scratch room(*pool, rows * heads * size * sizeof(float));
    auto* const queries = room.at<float>();
    run.parallel_for(rows, [&](size_t row) {
      const size_t position = present - rows + row;
      const float *const row_cos = cos + position * size / 2, *const row_sin = sin + position * size / 2;
      const float scale = 1.0f / std::sqrt(static_cast<float>(size));
      const float* from = x + row * width;
      for (size_t head = 0; head < heads; ++head, from += size)
        attention::rotate(from, row_cos, row_sin, size, scale, queries + (row * heads + head) * size);
      for (size_t head = 0; head < kv_heads; ++head, from += size) {
        const size_t place = (head * capacity + position) * size;
        float rotated[kLargestHead];
        attention::rotate(from, row_cos, row_sin, size, 1.0f, rotated);
        attention::narrow(rotated, size, keys + place);
        attention::narrow(from + kv_heads * size, size, values + place);
      }
    });
    run.parallel_for(kv_heads, [&](size_t head) {
      const size_t shared = heads / kv_heads, first = head * shared * size, place = head * capacity * size;
      const attention::Group group{queries + first, keys + place, values + place, y + first, shared, size, heads * size,
                                   rows,            present - rows};
      const Scratch own(*pool, attention::scratch_bytes(group));
      attention::attend(group, own.at<void>());
    });
  }

 private:
  // The present of the past that is input `index`: bound to the same memory, as in flight, or a copy.
  static uint16_t* appended(const ort::Run& run, size_t index, const ort::Sizes& sizes) {
    const auto* const past = run.input<uint16_t>(index);
    auto* const present = run.output<uint16_t>(index, sizes);
    if (present != past) std::memcpy(present, past, product(sizes) * sizeof(uint16_t));
    return present;
  }
};

// Rows of `parts` parts that are equally wide.
struct Rows {
  size_t count, width;

  Rows(ort::Api api, const ort::Sizes& sizes, size_t parts) {
    ort::require(api, !sizes.empty() && sizes.back() && sizes.back() % parts == 0, kOtherSize);
    width = static_cast<size_t>(sizes.back()) / parts;
    count = product(sizes) / width / parts;
  }
};

struct AddRmsNorm {
  static constexpr const char* kName = "AddRmsNorm";
  static constexpr ort::ElementType kInputs[] = {kFloat, kFloat, kFloat}, kOutputs[] = {kFloat, kFloat};
  static constexpr size_t kRequired = 2;

  ort::Api api;
  float epsilon;

  AddRmsNorm(ort::Api api, const ort::KernelInfo* info) : api(api) {
    ort::check(api.attribute(info, "epsilon", &epsilon));
  }

  void operator()(ort::Context* context) const {
    const ort::Run run(api, context);
    const ort::Sizes sizes = run.sizes(0);
    const Rows rows(api, sizes, 1);
    const auto *const x = run.input<float>(0), *const scale = run.input<float>(1);
    const auto* const residual = run.input<float>(2);
    ort::require(api, product(run.sizes(1)) == rows.width && (!residual || run.sizes(2) == sizes), kOtherSize);
    auto* const normed = run.output<float>(0, sizes);
    auto* const sum = residual ? run.output<float>(1, sizes) : nullptr;
    run.parallel_for(rows.count, [&](size_t row) {
      const size_t at = row * rows.width;
      if (residual) add(x + at, residual + at, rows.width, sum + at);
      rms_norm((residual ? sum : x) + at, scale, epsilon, rows.width, normed + at);
    });
  }
};

struct GateSilu {
  static constexpr const char* kName = "GateSilu";
  static constexpr ort::ElementType kInputs[] = {kFloat}, kOutputs[] = {kFloat};
  static constexpr size_t kRequired = 1;

  ort::Api api;

  GateSilu(ort::Api api, const ort::KernelInfo*) : api(api) {}

  void operator()(ort::Context* context) const {
    const ort::Run run(api, context);
    ort::Sizes sizes = run.sizes(0);
    const Rows rows(api, sizes, 2);
    const auto* const x = run.input<float>(0);
    sizes.back() /= 2;
    auto* const y = run.output<float>(0, sizes);
    run.parallel_for(rows.count, [&](size_t row) {
      const float* const gate = x + 2 * row * rows.width;
      gate_silu(gate, gate + rows.width, rows.width, y + row * rows.width);
    });
  }
};

}  // namespace

// What this was compiled of: a hash of all sources beside this one.
extern "C" __attribute__((visibility("default"))) const char edge_runtime_sources[] = SOURCES;

// Found by name.
extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                                  const ort::ApiBase* base) {
  static const ort::OperatorOf<MatMulInt4> matmul_int4;
  static const ort::OperatorOf<MatMulFloat16> matmul_float16;
  static const ort::OperatorOf<CausalAttention> causal_attention;
  static const ort::OperatorOf<AddRmsNorm> add_rms_norm;
  static const ort::OperatorOf<GateSilu> gate_silu;
  const void* const table = base->get_api(ort::kVersion);
  if (!table) return nullptr;  // a library that is too old says then that it does not know the operators
  const ort::Api api(table);
  return guarded(api, [&] {
    static ort::Domain* const domain = [&] {  // kept with the process, as sessions hold on to it
      ort::Domain* made = nullptr;
      ort::check(api.new_domain("edge_runtime.amx", &made));
      const ort::Operator* const all[] = {&matmul_int4, &matmul_float16, &causal_attention, &add_rms_norm, &gate_silu};
      for (const ort::Operator* const one : all) ort::check(api.add(made, one));
      return made;
    }();
    ort::check(api.add(options, domain));
  });
}
