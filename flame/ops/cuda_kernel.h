// Kernels of a user's own: CUDA text, compiled when it is first launched, over tensors. docs/custom-kernels.md has a program.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include "flame/tensor/tensor.h"

namespace flame {

// How a kernel is laid over a GPU. Launches go onto the device's stream, in order with everything else.
struct KernelLaunch {
  int64_t blocks = 1, y = 1, z = 1;
  int threads = 256, threads_y = 1, threads_z = 1;  // of a block
  int shared = 0;                                   // bytes of dynamic shared memory
  Device* device = nullptr;  // where a kernel without input tensors runs; null: the default device
  Loc loc = Loc::current();  // named by errors
};

// An argument that is a new tensor, contiguous: the kernel's parameter is a T*, and the call gives the tensor.
struct KernelOutput {
  Shape shape;
  DType dtype = DType::f32;
  bool zeroed = false;  // else its bytes are not initialised
};
// An input of any strides: the kernel's parameter is a flame::View<T>. A plain Tensor is passed as a const T* to
// contiguous elements, for which it is copied if it is not.
struct KernelView {
  Tensor x;
};

// One argument of a kernel; the parameter must be of the same type, down to int (int32_t) against int64_t.
class KernelArgument {
 public:
  enum class Kind : uint8_t { pointer, view, output, number };
  KernelArgument(const Tensor& x) : kind(Kind::pointer), tensor(x) {}
  KernelArgument(const KernelView& v) : kind(Kind::view), tensor(v.x) {}
  KernelArgument(const KernelOutput& o) : kind(Kind::output), output(o) {}
  template <class T>
    requires std::is_trivially_copyable_v<T> && (!std::is_pointer_v<T>)
  KernelArgument(const T& v) : kind(Kind::number), alignment(alignof(T)), bytes(sizeof(T)) {
    const auto* from = reinterpret_cast<const std::byte*>(&v);
    std::copy(from, from + sizeof(T), bytes.begin());
  }

  Kind kind;
  Tensor tensor;
  KernelOutput output;
  size_t alignment = 0;
  std::vector<std::byte> bytes;  // of a number or a struct of numbers
};

class CudaKernel {
 public:
  // `source` is CUDA C++ that NVRTC compiles; `entry` an extern "C" __global__ function in it; `options` go to the compiler
  // ("-DN=4", "--use_fast_math"). The types of flame/ops/cuda_kernel.cuh are there without an include. Multiply and add
  // are contracted as usual unless "--fmad=false" is given. ValueError if an argument is empty.
  CudaKernel(std::string source, const std::string& entry, std::vector<std::string> options = {},
             Loc loc = Loc::current());

  // Launches with arguments in the order of the kernel's parameters; gives the outputs: a Tensor, or an array of several.
  // ValueError with the compiler's log, whose line numbers are those of `source`; ValueError if the arguments are not as many
  // bytes as the parameters; DeviceError if tensors lie on several devices; NotImplemented on a device that runs no CUDA;
  // NotDifferentiable if an input asks for a gradient: give it one by apply().
  template <class... A>
  auto operator()(const KernelLaunch& at, const A&... arguments) const {
    constexpr size_t outputs = (size_t{0} + ... + size_t{std::is_same_v<A, KernelOutput>});
    static_assert(outputs > 0,
                  "a kernel gives what it computes in new tensors: one argument at least is a KernelOutput");
    std::vector<Tensor> out = launch(at, {KernelArgument(arguments)...});
    if constexpr (outputs == 1) {
      return std::move(out[0]);
    } else {
      std::array<Tensor, outputs> all;
      std::move(out.begin(), out.end(), all.begin());
      return all;
    }
  }
  std::vector<Tensor> launch(const KernelLaunch& at, const std::vector<KernelArgument>& arguments) const;

  struct Source;

 private:
  std::shared_ptr<const Source> source_;
};

// Blocks of so many threads that cover n items; at least one.
inline int64_t blocks_over(int64_t n, int64_t threads = 256) { return n > 0 ? (n + threads - 1) / threads : 1; }

}  // namespace flame
