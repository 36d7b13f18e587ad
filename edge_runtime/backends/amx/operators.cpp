// The operators of the domain edge_runtime.amx, as ONNX Runtime finds them when it loads this library:
//
//   MatMulInt4 (x, codes, scales, bias?)  attributes K, N, block_size; see int4.hpp
//   MatMulFloat16 (x, weight, bias?)      attributes K, N; see float16.hpp
//
// x is float32 (..., K), the bias float32 (N), the result float32 (..., N).
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <new>
#include <vector>

#include "float16.hpp"
#include "int4.hpp"
#include "onnxruntime_abi.hpp"

namespace {

using namespace amx;

constexpr size_t kChunks = 16;       // that a product of one row is cut into, so that no thread waits long for another
constexpr size_t kChunkColumns = 256;  // of a product of many rows, all of which are read once for a chunk
constexpr size_t kLargestRank = 8;

struct Failure {
  ort::Status* status;
};

void check(ort::Status* status) {
  if (status) throw Failure{status};
}

// Memory for a product's rows, kept for the next one: a session's products come one after another.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  void* at_least(size_t bytes) {
    if (bytes > bytes_) {
      std::free(data_);
      bytes_ = round_up(bytes, 4096);
      data_ = std::aligned_alloc(64, bytes_);
      if (!data_) {
        bytes_ = 0;
        throw std::bad_alloc();
      }
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

thread_local Scratch scratch;

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

  float* output(const std::vector<int64_t>& sizes) const {
    ort::Value* value = nullptr;
    check(api_.output(context_, 0, sizes.data(), sizes.size(), &value));
    return static_cast<float*>(data(value));
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

struct Sizes {
  size_t k, n, block;

  Sizes(ort::Api api, const ort::KernelInfo* info, bool has_blocks) {
    const auto attribute = [&](const char* name) {
      int64_t value = 0;
      check(api.attribute(info, name, &value));
      return static_cast<size_t>(value);
    };
    k = attribute("K");
    n = attribute("N");
    block = has_blocks ? attribute("block_size") : 32;
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
  static constexpr size_t kInputs = 4;
  static constexpr ort::ElementType kTypes[kInputs] = {ort::kFloat, ort::kUint8, ort::kFloat16, ort::kFloat};

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
    float* const y = run.output(shape_of_x);
    if (!shape.rows) return;

    const size_t numbers = shape.padded_rows() * shape.blocks();
    char* const room = static_cast<char*>(scratch.at_least(shape.padded_rows() * shape.k + 8 * numbers));
    const int4::Rounded rounded{reinterpret_cast<int8_t*>(room + 8 * numbers), reinterpret_cast<float*>(room),
                                reinterpret_cast<int32_t*>(room + 4 * numbers)};
    run.parallel_for(shape.padded_rows() / kTileRows, [&](size_t tile) { int4::round_tile(x, shape, tile, rounded); });
    const bool is_one = shape.rows == 1;
    const size_t chunk = is_one ? round_up((shape.n + kChunks - 1) / kChunks, 16) : kChunkColumns;
    run.parallel_for((shape.n + chunk - 1) / chunk, [&](size_t i) {
      (is_one ? int4::multiply_row : int4::multiply_rows)(rounded, shape, codes, scales, bias, i * chunk,
                                                          std::min(shape.n, (i + 1) * chunk), y);
    });
  }
};

struct MatMulFloat16 {
  static constexpr const char* kName = "MatMulFloat16";
  static constexpr size_t kInputs = 3;
  static constexpr ort::ElementType kTypes[kInputs] = {ort::kFloat, ort::kFloat16, ort::kFloat};

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
    float* const y = run.output(shape_of_x);
    if (!shape.rows) return;

    auto* const parts = static_cast<uint16_t*>(scratch.at_least(4 * shape.padded_rows() * shape.k));
    run.parallel_for(shape.padded_rows() / kTileRows, [&](size_t tile) { float16::split_tile(x, shape, tile, parts); });
    run.parallel_for((shape.n + kChunkColumns - 1) / kChunkColumns, [&](size_t i) {
      float16::multiply_rows(parts, shape, weights, bias, i * kChunkColumns, std::min(shape.n, (i + 1) * kChunkColumns), y);
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
    input_presence = [](const Operator*, size_t i) { return i + 1 == Kernel::kInputs ? ort::kOptional : ort::kRequired; };
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
  const ort::Api api(base->get_api(ort::kVersion));
  return guarded(api, [&] {
    ort::Domain* domain = nullptr;  // kept with the process, as sessions hold on to it
    check(api.new_domain("edge_runtime.amx", &domain));
    check(api.add(domain, &matmul_int4));
    check(api.add(domain, &matmul_float16));
    check(api.add(options, domain));
  });
}
