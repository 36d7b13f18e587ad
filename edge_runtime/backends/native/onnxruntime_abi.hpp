// What an operator of our own needs of ONNX Runtime's C interface, whose header no package on PyPI carries.
//
// The library hands its functions out as a table that only ever grows at its end, so each is known by its place; an
// operator is a table likewise, read as far as its version says. Version 17 came with ONNX Runtime 1.17.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ort {

constexpr uint32_t kVersion = 17;

struct Status;
struct Value;
struct ShapeInfo;
struct KernelInfo;
struct Context;  // of one run of a node
struct Domain;
struct SessionOptions;

enum ErrorCode { kInvalidArgument = 2, kRuntimeException = 6 };
enum ElementType { kFloat = 1, kUint8 = 2, kInt32 = 6, kFloat16 = 10 };
enum Presence { kRequired = 0, kOptional = 1 };

struct ApiBase {
  const void* (*get_api)(uint32_t version);
  const char* (*version)();
};

// Places in the table, by the names that ONNX Runtime gives the functions there.
enum Place : size_t {
  kCreateStatus = 0,
  kCreateCustomOpDomain = 26,
  kCustomOpDomain_Add = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kKernelInfoGetAttribute_float = 85,
  kKernelInfoGetAttribute_int64 = 86,
  kKernelContext_GetInput = 90,
  kKernelContext_GetOutput = 91,
  kReleaseTensorTypeAndShapeInfo = 99,
  kKernelContext_ParallelFor = 274,
};

class Api {
 public:
  explicit Api(const void* table) : table_(static_cast<void* const*>(table)) {}

  Status* error(ErrorCode code, const char* message) const {
    return at<Status*(ErrorCode, const char*)>(kCreateStatus)(code, message);
  }
  Status* new_domain(const char* name, Domain** domain) const {
    return at<Status*(const char*, Domain**)>(kCreateCustomOpDomain)(name, domain);
  }
  Status* add(Domain* to, const struct Operator* op) const {
    return at<Status*(Domain*, const Operator*)>(kCustomOpDomain_Add)(to, op);
  }
  Status* add(SessionOptions* to, Domain* domain) const {
    return at<Status*(SessionOptions*, Domain*)>(kAddCustomOpDomain)(to, domain);
  }
  Status* data(const Value* of, void** data) const {
    return at<Status*(const Value*, void**)>(kGetTensorMutableData)(of, data);
  }
  Status* rank(const ShapeInfo* of, size_t* rank) const {
    return at<Status*(const ShapeInfo*, size_t*)>(kGetDimensionsCount)(of, rank);
  }
  Status* sizes(const ShapeInfo* of, int64_t* sizes, size_t rank) const {
    return at<Status*(const ShapeInfo*, int64_t*, size_t)>(kGetDimensions)(of, sizes, rank);
  }
  Status* shape(const Value* of, ShapeInfo** shape) const {
    return at<Status*(const Value*, ShapeInfo**)>(kGetTensorTypeAndShape)(of, shape);
  }
  Status* attribute(const KernelInfo* of, const char* name, int64_t* value) const {
    return at<Status*(const KernelInfo*, const char*, int64_t*)>(kKernelInfoGetAttribute_int64)(of, name, value);
  }
  Status* attribute(const KernelInfo* of, const char* name, float* value) const {
    return at<Status*(const KernelInfo*, const char*, float*)>(kKernelInfoGetAttribute_float)(of, name, value);
  }
  Status* input(const Context* of, size_t index, const Value** value) const {
    return at<Status*(const Context*, size_t, const Value**)>(kKernelContext_GetInput)(of, index, value);
  }
  Status* output(Context* of, size_t index, const int64_t* sizes, size_t rank, Value** value) const {
    using Signature = Status*(Context*, size_t, const int64_t*, size_t, Value**);
    return at<Signature>(kKernelContext_GetOutput)(of, index, sizes, rank, value);
  }
  void release(ShapeInfo* shape) const { at<void(ShapeInfo*)>(kReleaseTensorTypeAndShapeInfo)(shape); }
  // `call(data, i)` for every i below `count`, on the session's threads, which take one after another.
  Status* parallel_for(const Context* of, void (*call)(void*, size_t), size_t count, void* data) const {
    using Signature = Status*(const Context*, void (*)(void*, size_t), size_t, size_t, void*);
    return at<Signature>(kKernelContext_ParallelFor)(of, call, count, 0, data);
  }

 private:
  template <typename Signature>
  Signature* at(Place place) const {
    return reinterpret_cast<Signature*>(table_[place]);
  }

  void* const* table_;
};

// An operator as the library reads it: OrtCustomOp. What is null may be left out, or a later member stands in for it.
struct Operator {
  uint32_t version = kVersion;
  void* (*create_kernel)(const Operator*, const void*, const KernelInfo*) = nullptr;  // create_kernel_2 instead
  const char* (*name)(const Operator*);
  const char* (*provider)(const Operator*) = [](const Operator*) -> const char* { return "CPUExecutionProvider"; };
  ElementType (*input_type)(const Operator*, size_t);
  size_t (*input_count)(const Operator*);
  ElementType (*output_type)(const Operator*, size_t);
  size_t (*output_count)(const Operator*);
  void (*compute)(void*, Context*) = nullptr;  // compute_2 instead
  void (*destroy_kernel)(void* kernel);
  Presence (*input_presence)(const Operator*, size_t);
  Presence (*output_presence)(const Operator*, size_t);
  int (*input_memory)(const Operator*, size_t) = [](const Operator*, size_t) { return 0; };  // the provider's own
  int (*least_variadic_inputs)(const Operator*) = [](const Operator*) { return 1; };
  int (*variadic_inputs_alike)(const Operator*) = [](const Operator*) { return 0; };
  int (*least_variadic_outputs)(const Operator*) = [](const Operator*) { return 1; };
  int (*variadic_outputs_alike)(const Operator*) = [](const Operator*) { return 0; };
  Status* (*create_kernel_2)(const Operator*, const void* api, const KernelInfo*, void** kernel);
  Status* (*compute_2)(void* kernel, Context*);
  Status* (*infer_shape)(const Operator*, void*) = nullptr;
  int (*first_version)(const Operator*) = [](const Operator*) { return 1; };
  int (*last_version)(const Operator*) = [](const Operator*) { return 1; };
};

}  // namespace ort
