// A CPU device for tests: every block stands between guard bytes, fresh memory is filled with NaN patterns, and host
// reads are counted. An op that writes beside its output or reads what nobody wrote is seen here.
#pragma once
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "flame/device/cpu/cpu_device.h"

namespace flame::test {

class GuardedDevice final : public CpuDevice {
 public:
  explicit GuardedDevice(std::string name) : CpuDevice(Kind::cpu, std::move(name)) {}

  void* allocate(size_t bytes, Loc where) override {
    char* block = static_cast<char*>(CpuDevice::allocate(bytes + 2 * guard, where));
    std::memset(block, 0xff, bytes + 2 * guard);
    std::lock_guard lock(mutex_);
    blocks_[block + guard] = bytes;
    return block + guard;
  }
  void deallocate(void* p, size_t bytes) noexcept override {
    {
      std::lock_guard lock(mutex_);
      inspect(p, bytes);
      blocks_.erase(p);
    }
    CpuDevice::deallocate(static_cast<char*>(p) - guard, bytes + 2 * guard);
  }
  void copy_to_host(void* dst, const void* src, size_t bytes) override {
    ++host_reads_;
    CpuDevice::copy_to_host(dst, src, bytes);
  }

  uint64_t host_reads() const { return host_reads_; }
  // What was written outside a block since the last call; empty if nothing.
  std::string violations() {
    std::lock_guard lock(mutex_);
    for (const auto& [p, bytes] : blocks_) inspect(p, bytes);
    return std::exchange(found_, {});
  }

 private:
  static constexpr size_t guard = 64;
  std::mutex mutex_;
  std::map<void*, size_t> blocks_;
  std::string found_;
  std::atomic<uint64_t> host_reads_{0};

  void inspect(void* p, size_t bytes) {
    unsigned char* block = static_cast<unsigned char*>(p);
    for (unsigned char* side : {block - guard, block + bytes})
      for (size_t i = 0; i < guard; ++i)
        if (side[i] != 0xff) {
          found_ = "a write " + std::string(side < block ? "before" : "behind") + " a block of " +
                   std::to_string(bytes) + " bytes";
          side[i] = 0xff;
        }
  }
};

inline GuardedDevice& guarded() {
  static GuardedDevice* d = [] {
    auto owned = std::make_unique<GuardedDevice>("cpu:guarded");
    GuardedDevice* made = owned.get();
    register_device(std::move(owned));
    return made;
  }();
  return *d;
}

// While one lives, tensors are made on `d` unless told otherwise.
class DefaultDevice {
 public:
  explicit DefaultDevice(Device& d) : before_(default_device()) { set_default_device(d); }
  ~DefaultDevice() { set_default_device(before_); }
  DefaultDevice(const DefaultDevice&) = delete;
  DefaultDevice& operator=(const DefaultDevice&) = delete;

 private:
  Device& before_;
};

}  // namespace flame::test
