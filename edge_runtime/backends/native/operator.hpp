// An operator of ONNX Runtime as a class: made of a node, called with one run of it; knows no product.
#pragma once
#include <atomic>
#include <exception>
#include <iterator>
#include <new>
#include <vector>

#include "onnxruntime_abi.hpp"

namespace ort {

struct Failure {
  Status* status;
};

inline void check(Status* status) {
  if (status) throw Failure{status};
}

inline void require(Api api, bool is_so, const char* otherwise) {
  if (!is_so) throw Failure{api.error(kInvalidArgument, otherwise)};
}

inline size_t attribute(Api api, const KernelInfo* info, const char* name) {
  constexpr int64_t kLargest = 1 << 24;  // so that no product of two overflows
  int64_t value = 0;
  check(api.attribute(info, name, &value));
  require(api, 0 < value && value <= kLargest, "an attribute that is no size");
  return static_cast<size_t>(value);
}

using Sizes = std::vector<int64_t>;  // of a tensor

inline size_t product(const Sizes& sizes) {
  size_t count = 1;
  for (const int64_t size : sizes) count *= static_cast<size_t>(size);
  return count;
}

// One run of a node.
class Run {
 public:
  Run(Api api, Context* context) : api_(api), context_(context) {}

  template <typename T>
  const T* input(size_t index) const {
    const Value* value = nullptr;
    check(api_.input(context_, index, &value));
    return value ? static_cast<const T*>(data(value)) : nullptr;
  }

  // Whether input `index` is as many numbers, or is left out.
  bool is_absent_or(size_t index, size_t count) const {
    return !input<char>(index) || product(sizes(index)) == count;
  }

  // The sizes of input `index`.
  Sizes sizes(size_t index) const {
    const Value* value = nullptr;
    ShapeInfo* shape = nullptr;
    check(api_.input(context_, index, &value));
    check(api_.shape(value, &shape));
    size_t rank = 0;
    Status* failed = api_.rank(shape, &rank);
    Sizes sizes(rank);
    if (!failed) failed = api_.sizes(shape, sizes.data(), rank);
    api_.release(shape);
    check(failed);
    return sizes;
  }

  template <typename T>
  T* output(size_t index, const Sizes& sizes) const {
    Value* value = nullptr;
    check(api_.output(context_, index, sizes.data(), sizes.size(), &value));
    require(api_, value, "an output that nobody takes");
    return static_cast<T*>(data(value));
  }

  // `call(i)` for every i below `count`, on the session's threads.
  template <typename Call>
  void parallel_for(size_t count, Call call) const {
    struct Task {
      Call& call;
      std::atomic<bool> has_failed;
    } task{call, false};
    const auto run = [](void* data, size_t i) {
      Task& task = *static_cast<Task*>(data);
      try {
        task.call(i);
      } catch (const std::bad_alloc&) {  // all that a task may throw; the library's threads know no exceptions
        task.has_failed = true;
      }
    };
    if (count == 1) run(&task, 0);
    if (count > 1) check(api_.parallel_for(context_, run, count, &task));
    if (task.has_failed) throw std::bad_alloc();
  }

 private:
  void* data(const Value* value) const {
    void* data = nullptr;
    check(api_.data(value, &data));
    return data;
  }

  Api api_;
  Context* context_;
};

// `call`'s exceptions as the library's own.
template <typename Call>
Status* guarded(Api api, Call call) {
  try {
    call();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::exception& error) {
    return api.error(kRuntimeException, error.what());
  }
}

// `Kernel` has kName, the types kInputs and kOutputs, and kRequired, the number of inputs that must be there; of
// outputs the first must. It is made of (Api, const KernelInfo*), and called with a Context*.
template <typename Kernel>
struct OperatorOf : Operator {
  OperatorOf() {
    name = [](const Operator*) { return Kernel::kName; };
    input_count = [](const Operator*) { return std::size(Kernel::kInputs); };
    input_type = [](const Operator*, size_t i) { return Kernel::kInputs[i]; };
    input_presence = [](const Operator*, size_t i) { return i < Kernel::kRequired ? kRequired : kOptional; };
    output_count = [](const Operator*) { return std::size(Kernel::kOutputs); };
    output_type = [](const Operator*, size_t i) { return Kernel::kOutputs[i]; };
    output_presence = [](const Operator*, size_t i) { return i ? kOptional : kRequired; };
    create_kernel_2 = [](const Operator*, const void* table, const KernelInfo* info, void** kernel) {
      const Api api(table);
      return guarded(api, [&] { *kernel = new Kernel(api, info); });
    };
    compute_2 = [](void* kernel, Context* context) {
      const auto& it = *static_cast<Kernel*>(kernel);
      return guarded(it.api, [&] { it(context); });
    };
    destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
};

}  // namespace ort
