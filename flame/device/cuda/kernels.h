// Internal: kernels of one GPU, from the text that is asked for to the function that is launched. They are compiled several at a
// time; what is launched before its kernel is there waits in the device's queue.
#pragma once
#include <atomic>
#include <future>
#include <memory>
#include <mutex>
#include <string>

#include "flame/device/cuda/driver.h"
#include "flame/device/kernel.h"

namespace flame::cuda {

class CudaDevice;

// A text, compiled or on the way to it, for all its entries.
struct Module {
  std::string name;
  std::shared_future<std::string> cubin;
  std::mutex mutex;
  CUmodule handle = nullptr;
};

class CudaKernel final : public Kernel {
 public:
  CudaKernel(CudaDevice& d, std::string name, std::string entry, std::shared_ptr<Module> m)
      : device_(d), name_(std::move(name)), entry_(std::move(entry)), module_(std::move(m)) {}
  void launch(const Grid& g, std::span<const std::byte> arguments) const override;
  int most_shared() const override;
  // Waits until it is compiled, and loads it with all that its launches need. KernelError, OutOfMemory.
  void load() const;
  bool compiled() const;

 private:
  void go(const Grid& g, std::span<const std::byte> arguments) const;
  void ask_for_shared(CUfunction f, int dynamic) const;

  CudaDevice& device_;
  const std::string name_, entry_;
  const std::shared_ptr<Module> module_;
  mutable std::atomic<CUfunction> function_{nullptr};
  mutable std::vector<size_t> parameters_;  // where each begins
  mutable size_t parameter_bytes_ = 0;
  mutable int shared_ = 0, shared_asked_ = 0;  // bytes of shared memory that the text names; dynamic ones asked for
  mutable std::mutex shared_mutex_;
  mutable std::atomic<bool> used_{false};  // it has run, or needs no memory of its own to run
};

}  // namespace flame::cuda
