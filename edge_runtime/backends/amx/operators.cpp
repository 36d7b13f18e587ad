// The operators of the domain edge_runtime.amx, as ONNX Runtime finds them when it loads this library:
//
//   MatMulInt4 (x, codes, scales, bias?)  attributes K, N, block_size; see int4.hpp
//   MatMulFloat16 (x, weight, bias?)      attributes K, N; see float16.hpp
//
// x is float32 (..., K), the bias float32 (N), the result float32 (..., N).
//
//   AddRmsNorm (x, scale, residual?) to (normed, sum?)  attribute epsilon
//   GateSilu (gate and up, side by side)                see rows.hpp
//   CausalAttention (qkv, past_key, past_value, seqlens_k, total_sequence_length, cos, sin) to
//   (context, present_key, present_value)  attributes num_heads, kv_num_heads; see attention.hpp
//
// These are as those of ONNX Runtime's GroupQueryAttention, but for keys and values, which are float16.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <vector>

#include "attention.hpp"
#include "float16.hpp"
#include "int4.hpp"
#include "onnxruntime_abi.hpp"
#include "rows.hpp"

namespace {

using namespace amx;

constexpr size_t kChunks = 64;         // that a product of one row is cut into, so that no thread waits long for another
constexpr size_t kChunkColumns = 256;  // of a product of many rows, all of which are read once for a chunk
constexpr size_t kLargestHead = 512;   // numbers

struct Failure {
  ort::Status* status;
};

void check(ort::Status* status) {
  if (status) throw Failure{status};
}

// Memory for one call, of a pool that all sessions and threads share: they come one after another, and the largest
// pieces soon serve all.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    const std::lock_guard guard(lock_);
    if (!pool_.empty()) {
      piece_ = pool_.back();
      pool_.pop_back();
    }
    if (piece_.bytes < bytes) {
      std::free(piece_.data);
      piece_ = {std::aligned_alloc(4096, round_up(bytes, 4096)), bytes};
      if (!piece_.data) throw std::bad_alloc();
    }
  }
  ~Scratch() {
    const std::lock_guard guard(lock_);
    pool_.push_back(piece_);
  }
  Scratch(const Scratch&) = delete;

  template <typename T>
  T* at(size_t offset = 0) const {
    return reinterpret_cast<T*>(static_cast<char*>(piece_.data) + offset);
  }

 private:
  struct Piece {
    void* data = nullptr;
    size_t bytes = 0;
  } piece_;
  static inline std::mutex lock_;
  static inline std::vector<Piece> pool_;
};

// One run of a node.
class Run {
 public:
  Run(ort::Api api, ort::Context* context) : api_(api), context_(context) {}

  template <typename T>
  const T* input(size_t index) const {
    const ort::Value* value = nullptr;
    check(api_.input(context_, index, &value));
    return value ? static_cast<const T*>(data(value)) : nullptr;
  }

  // The sizes of input `index`.
  std::vector<int64_t> sizes(size_t index) const {
    const ort::Value* value = nullptr;
    ort::ShapeInfo* shape = nullptr;
    check(api_.input(context_, index, &value));
    check(api_.shape(value, &shape));
    size_t rank = 0;
    ort::Status* failed = api_.rank(shape, &rank);
    std::vector<int64_t> sizes(rank);
    if (!failed) failed = api_.sizes(shape, sizes.data(), rank);
    api_.release(shape);
    check(failed);
    return sizes;
  }

  template <typename T>
  T* output(size_t index, const std::vector<int64_t>& sizes) const {
    ort::Value* value = nullptr;
    check(api_.output(context_, index, sizes.data(), sizes.size(), &value));
    return static_cast<T*>(data(value));
  }

  template <typename Call>
  void parallel_for(size_t count, Call call) const {
    if (count == 1) return call(0);
    check(api_.parallel_for(context_, [](void* it, size_t i) { (*static_cast<Call*>(it))(i); }, count, &call));
  }

 private:
  void* data(const ort::Value* value) const {
    void* data = nullptr;
    check(api_.data(value, &data));
    return data;
  }

  ort::Api api_;
  ort::Context* context_;
};

size_t attribute(ort::Api api, const ort::KernelInfo* info, const char* name) {
  int64_t value = 0;
  check(api.attribute(info, name, &value));
  return static_cast<size_t>(value);
}

struct Sizes {
  size_t k, n, block;

  Sizes(ort::Api api, const ort::KernelInfo* info, bool has_blocks)
      : k(attribute(api, info, "K")), n(attribute(api, info, "N")), block(has_blocks ? attribute(api, info, "block_size") : 32) {
    if (n % kPairColumns || k % 32 || block % 32 || k % block)
      throw Failure{api.error(ort::kInvalidArgument, "a matrix that is not made of whole tiles")};
  }
};

size_t product(const std::vector<int64_t>& sizes) {
  size_t count = 1;
  for (const int64_t size : sizes) count *= static_cast<size_t>(size);
  return count;
}

struct MatMulInt4 {
  static constexpr const char* kName = "MatMulInt4";
  static constexpr size_t kInputs = 4, kOptional = 1, kOutputs = 1;
  static constexpr ort::ElementType kTypes[kInputs] = {ort::kFloat, ort::kUint8, ort::kFloat16, ort::kFloat};
  static constexpr ort::ElementType kOutputTypes[kOutputs] = {ort::kFloat};

  ort::Api api;
  Sizes sizes;

  MatMulInt4(ort::Api api, const ort::KernelInfo* info) : api(api), sizes(api, info, true) {
    if (sizes.block != 64 && sizes.block != 128)
      throw Failure{api.error(ort::kInvalidArgument, "blocks that are neither of 64 nor of 128 weights")};
  }

  void operator()(ort::Context* context) const {
    const Run run(api, context);
    std::vector<int64_t> shape_of_x = run.sizes(0);
    const int4::Shape shape{product(shape_of_x) / sizes.k, sizes.k, sizes.n, sizes.block};
    if (shape_of_x.empty() || static_cast<size_t>(shape_of_x.back()) != sizes.k ||
        product(run.sizes(1)) != sizes.n * sizes.k / 2 || product(run.sizes(2)) != sizes.n * shape.blocks())
      throw Failure{api.error(ort::kInvalidArgument, "an input whose size is not the node's")};
    shape_of_x.back() = static_cast<int64_t>(sizes.n);
    const float* const x = run.input<float>(0);
    const auto* const codes = run.input<uint8_t>(1);
    const auto* const scales = run.input<uint16_t>(2);
    const float* const bias = run.input<float>(3);
    float* const y = run.output<float>(0, shape_of_x);
    if (!shape.rows) return;

    const size_t numbers = shape.padded_rows() * shape.blocks();
    const Scratch room(shape.padded_rows() * shape.k + 8 * numbers);
    const int4::Rounded rounded{room.at<int8_t>(8 * numbers), room.at<float>(), room.at<int32_t>(4 * numbers)};
    run.parallel_for(shape.padded_rows() / kTileRows, [&](size_t tile) { int4::round_tile(x, shape, tile, rounded); });
    const bool is_one = shape.rows == 1;
    const size_t chunk = is_one ? round_up((shape.n + kChunks - 1) / kChunks, 16) : kChunkColumns;
    run.parallel_for((shape.n + chunk - 1) / chunk, [&](size_t i) {
      const size_t first = i * chunk, end = std::min(shape.n, first + chunk);
      if (is_one) return int4::multiply_row(rounded, shape, codes, scales, bias, first, end, y);
      const Scratch sums(shape.padded_rows() * int4::kGroup * sizeof(float));
      int4::multiply_rows(rounded, shape, codes, scales, bias, first, end, y, sums.at<float>());
    });
  }
};

struct MatMulFloat16 {
  static constexpr const char* kName = "MatMulFloat16";
  static constexpr size_t kInputs = 3, kOptional = 1, kOutputs = 1;
  static constexpr ort::ElementType kTypes[kInputs] = {ort::kFloat, ort::kFloat16, ort::kFloat};
  static constexpr ort::ElementType kOutputTypes[kOutputs] = {ort::kFloat};

  ort::Api api;
  Sizes sizes;

  MatMulFloat16(ort::Api api, const ort::KernelInfo* info) : api(api), sizes(api, info, false) {}

  void operator()(ort::Context* context) const {
    const Run run(api, context);
    std::vector<int64_t> shape_of_x = run.sizes(0);
    const float16::Shape shape{product(shape_of_x) / sizes.k, sizes.k, sizes.n};
    if (shape_of_x.empty() || static_cast<size_t>(shape_of_x.back()) != sizes.k ||
        product(run.sizes(1)) != sizes.n * sizes.k)
      throw Failure{api.error(ort::kInvalidArgument, "an input whose size is not the node's")};
    shape_of_x.back() = static_cast<int64_t>(sizes.n);
    const float* const x = run.input<float>(0);
    const auto* const weights = run.input<uint16_t>(1);
    const float* const bias = run.input<float>(2);
    float* const y = run.output<float>(0, shape_of_x);
    if (!shape.rows) return;

    const Scratch room(4 * shape.padded_rows() * shape.k);
    auto* const parts = room.at<uint16_t>();
    run.parallel_for(shape.padded_rows() / kTileRows, [&](size_t tile) { float16::split_tile(x, shape, tile, parts); });
    run.parallel_for((shape.n + kChunkColumns - 1) / kChunkColumns, [&](size_t i) {
      float16::multiply_rows(parts, shape, weights, bias, i * kChunkColumns, std::min(shape.n, (i + 1) * kChunkColumns), y);
    });
  }
};

struct CausalAttention {
  static constexpr const char* kName = "CausalAttention";
  static constexpr size_t kInputs = 7, kOptional = 0, kOutputs = 3;
  static constexpr ort::ElementType kTypes[kInputs] = {ort::kFloat, ort::kFloat16, ort::kFloat16, ort::kInt32,
                                                       ort::kInt32, ort::kFloat,   ort::kFloat};
  static constexpr ort::ElementType kOutputTypes[kOutputs] = {ort::kFloat, ort::kFloat16, ort::kFloat16};

  ort::Api api;
  size_t heads, kv_heads;

  CausalAttention(ort::Api api, const ort::KernelInfo* info)
      : api(api), heads(attribute(api, info, "num_heads")), kv_heads(attribute(api, info, "kv_num_heads")) {}

  void operator()(ort::Context* context) const {
    const Run run(api, context);
    const std::vector<int64_t> qkv = run.sizes(0), cache = run.sizes(1), table = run.sizes(5);
    if (qkv.size() != 3 || cache.size() != 4 || table.size() != 2)
      throw Failure{api.error(ort::kInvalidArgument, "an input that has not the node's dimensions")};
    const size_t rows = qkv[1], width = qkv[2], capacity = cache[2], size = cache[3];
    const size_t present = static_cast<size_t>(*run.input<int32_t>(4)), past = present - rows;
    if (qkv[0] != 1 || width != (heads + 2 * kv_heads) * size || size % kPairColumns || size > kLargestHead ||
        static_cast<size_t>(cache[1]) != kv_heads || run.sizes(2) != cache || heads % kv_heads ||
        static_cast<size_t>(table[1]) != size / 2 || run.sizes(6) != table)
      throw Failure{api.error(ort::kInvalidArgument, "an input whose size is not the node's")};
    if (present < rows || present > capacity || present > static_cast<size_t>(table[0]))
      throw Failure{api.error(ort::kInvalidArgument, "more tokens than the cache or the positions have room for")};
    float* const y = run.output<float>(0, {1, qkv[1], static_cast<int64_t>(heads * size)});
    uint16_t* const keys = appended(run, 1, cache);
    uint16_t* const values = appended(run, 2, cache);
    const float *const x = run.input<float>(0), *const cos = run.input<float>(5), *const sin = run.input<float>(6);

    const Scratch room(rows * heads * size * sizeof(float));
    float* const queries = room.at<float>();
    run.parallel_for(rows, [&](size_t row) {
      const size_t position = past + row;
      const float* from = x + row * width;
      const float *const row_cos = cos + position * size / 2, *const row_sin = sin + position * size / 2;
      const float scale = 1.0f / std::sqrt(static_cast<float>(size));
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
    const size_t group_width = heads / kv_heads * size;
    run.parallel_for(kv_heads, [&](size_t head) {
      const attention::Group group{queries + head * group_width,
                                   keys + head * capacity * size,
                                   values + head * capacity * size,
                                   y + head * group_width,
                                   heads / kv_heads,
                                   size,
                                   heads * size,
                                   rows,
                                   past};
      const Scratch own(attention::scratch_bytes(group));
      attention::attend(group, own.at<void>());
    });
  }

 private:
  // The present of the past that is input `index`: bound to the same memory, as in flight, or a copy.
  static uint16_t* appended(const Run& run, size_t index, const std::vector<int64_t>& sizes) {
    const auto* const past = run.input<uint16_t>(index);
    auto* const present = run.output<uint16_t>(index, sizes);
    if (present != past) std::memcpy(present, past, product(sizes) * sizeof(uint16_t));
    return present;
  }
};

// The last dimension of `sizes`, which rows have, in `parts`; the other dimensions are rows.
size_t width_of(ort::Api api, const std::vector<int64_t>& sizes, size_t parts) {
  if (sizes.empty() || sizes.back() <= 0 || static_cast<size_t>(sizes.back()) % parts)
    throw Failure{api.error(ort::kInvalidArgument, "rows of a width that has not as many parts")};
  return static_cast<size_t>(sizes.back()) / parts;
}

struct AddRmsNorm {
  static constexpr const char* kName = "AddRmsNorm";
  static constexpr size_t kInputs = 3, kOptional = 1, kOutputs = 2;
  static constexpr ort::ElementType kTypes[kInputs] = {ort::kFloat, ort::kFloat, ort::kFloat};
  static constexpr ort::ElementType kOutputTypes[kOutputs] = {ort::kFloat, ort::kFloat};

  ort::Api api;
  float epsilon;

  AddRmsNorm(ort::Api api, const ort::KernelInfo* info) : api(api) { check(api.attribute(info, "epsilon", &epsilon)); }

  void operator()(ort::Context* context) const {
    const Run run(api, context);
    const std::vector<int64_t> sizes = run.sizes(0);
    const size_t width = width_of(api, sizes, 1);
    const auto *const x = run.input<float>(0), *const scale = run.input<float>(1), *const residual = run.input<float>(2);
    if (product(run.sizes(1)) != width || (residual && run.sizes(2) != sizes))
      throw Failure{api.error(ort::kInvalidArgument, "an input whose size is not the row's")};
    float* const normed = run.output<float>(0, sizes);
    float* const sum = residual ? run.output<float>(1, sizes) : nullptr;
    run.parallel_for(product(sizes) / width, [&](size_t row) {
      const size_t at = row * width;
      add_rms_norm(x + at, residual ? residual + at : nullptr, scale, epsilon, width, sum + at, normed + at);
    });
  }
};

struct GateSilu {
  static constexpr const char* kName = "GateSilu";
  static constexpr size_t kInputs = 1, kOptional = 0, kOutputs = 1;
  static constexpr ort::ElementType kTypes[kInputs] = {ort::kFloat};
  static constexpr ort::ElementType kOutputTypes[kOutputs] = {ort::kFloat};

  ort::Api api;

  GateSilu(ort::Api api, const ort::KernelInfo*) : api(api) {}

  void operator()(ort::Context* context) const {
    const Run run(api, context);
    std::vector<int64_t> sizes = run.sizes(0);
    const size_t width = width_of(api, sizes, 2), rows = product(sizes) / width / 2;
    sizes.back() = static_cast<int64_t>(width);
    const auto* const x = run.input<float>(0);
    float* const y = run.output<float>(0, sizes);
    run.parallel_for(rows, [&](size_t row) {
      gate_silu(x + 2 * row * width, x + (2 * row + 1) * width, width, y + row * width);
    });
  }
};

// `call`'s exceptions as the library's own.
template <typename Call>
ort::Status* guarded(ort::Api api, Call call) {
  try {
    call();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::exception& error) {
    return api.error(ort::kRuntimeException, error.what());
  }
}

template <typename Kernel>
struct OperatorOf : ort::Operator {
  OperatorOf() {
    name = [](const Operator*) { return Kernel::kName; };
    input_count = [](const Operator*) { return Kernel::kInputs; };
    input_type = [](const Operator*, size_t i) { return Kernel::kTypes[i]; };
    input_presence = [](const Operator*, size_t i) {
      return i + Kernel::kOptional == Kernel::kInputs ? ort::kOptional : ort::kRequired;
    };
    output_type = [](const Operator*, size_t i) { return Kernel::kOutputTypes[i]; };
    output_count = [](const Operator*) { return Kernel::kOutputs; };
    output_presence = [](const Operator*, size_t i) { return i && Kernel::kOptional ? ort::kOptional : ort::kRequired; };
    create_kernel_2 = [](const Operator*, const void* table, const ort::KernelInfo* info, void** kernel) {
      const ort::Api api(table);
      return guarded(api, [&] { *kernel = new Kernel(api, info); });
    };
    compute_2 = [](void* kernel, ort::Context* context) {
      const auto& it = *static_cast<Kernel*>(kernel);
      return guarded(it.api, [&] { it(context); });
    };
    destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
};

}  // namespace

// Found by name.
extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                                  const ort::ApiBase* base) {
  static const OperatorOf<MatMulInt4> matmul_int4;
  static const OperatorOf<MatMulFloat16> matmul_float16;
  static const OperatorOf<CausalAttention> causal_attention;
  static const OperatorOf<AddRmsNorm> add_rms_norm;
  static const OperatorOf<GateSilu> gate_silu;
  const ort::Api api(base->get_api(ort::kVersion));
  return guarded(api, [&] {
    ort::Domain* domain = nullptr;  // kept with the process, as sessions hold on to it
    check(api.new_domain("edge_runtime.amx", &domain));
    const ort::Operator* const all[] = {&matmul_int4, &matmul_float16, &causal_attention, &add_rms_norm, &gate_silu};
    for (const ort::Operator* const one : all) check(api.add(domain, one));
    check(api.add(options, domain));
  });
}
