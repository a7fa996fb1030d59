// The kernel service of a device that compiles text at run time: a description in, something to launch out.
// No CUDA header is needed to use it; launches go onto the device's one compute stream, in order with its plans.
#pragma once
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "flame/core/dtype.h"
#include "flame/core/error.h"
#include "flame/core/ref.h"

namespace flame {

// One kernel to compile. Equal descriptions give one kernel; text and options are the key of the cache on disk too.
struct KernelDesc {
  std::string name;                       // for reports and errors
  std::string text;                       // CUDA C++; may include the headers of device_headers()
  std::string entry;                      // an extern "C" __global__ function
  std::vector<std::string> options = {};  // of the compiler, such as "-DFLAME_T=float"
  bool at_once = false;                   // compiled before kernel() returns, which then throws what is wrong with it
};

// A text that does not compile, or arguments that do not fit it: `text` names the kernel and holds the compiler's log.
struct KernelError : ValueError {
  explicit KernelError(std::string message) : ValueError(message, Loc::current()), text(std::move(message)) {}
  std::string text;
};

struct Grid {
  int64_t blocks = 1, y = 1, z = 1;
  int threads = 256;
  int shared = 0;  // bytes, dynamic
  int threads_y = 1, threads_z = 1;
};

// Arguments of a kernel, each by value at its natural alignment, as the kernel's own parameters lie.
class KernelArguments {
 public:
  template <class T>
  KernelArguments& operator<<(const T& v) {
    static_assert(std::is_trivially_copyable_v<T>);
    put(&v, sizeof(T), alignof(T));
    return *this;
  }
  void put(const void* v, size_t size, size_t alignment) {
    const size_t at = (bytes_.size() + alignment - 1) / alignment * alignment;
    bytes_.resize(at + size);
    std::memcpy(bytes_.data() + at, v, size);
  }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

class Kernel : public RefCounted {
 public:
  virtual void launch(const Grid& g, std::span<const std::byte> arguments) const = 0;
  // Bytes of dynamic shared memory that a launch may ask for; every GPU gives a block 99 KB in all.
  virtual int most_shared() const { return 96 << 10; }
  template <class... T>
  void operator()(const Grid& g, const T&... arguments) const {
    KernelArguments all;
    (all << ... << arguments);
    launch(g, all.bytes());
  }
};

// Blocks of `threads` that cover n items; at least one.
inline int64_t blocks_for(int64_t n, int64_t threads) { return n > 0 ? (n + threads - 1) / threads : 1; }

// How device code spells a dtype as it lies in memory.
constexpr const char* device_type(DType t) {
  constexpr const char* names[num_dtypes] = {"bool", "uint8_t", "int8_t", "int32_t", "int64_t",
                                             "half", "bhalf",   "float",  "double"};
  return names[static_cast<int>(t)];
}

// A text that the build embedded, by its path below flame/, such as "ops/pool.cu".
std::string_view device_text(std::string_view path);

// What a kernel's text may include by name.
struct DeviceHeader {
  const char* name;
  std::string_view text;
};
std::span<const DeviceHeader> device_headers();

}  // namespace flame
