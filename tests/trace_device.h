// Devices for the contract test. TraceDevice has memory that nobody can touch (a stray read or write is a crash), runs
// nothing and logs every plan with its reads and writes. LoggingDevice logs the same and computes.
#pragma once
#include <sys/mman.h>

#include <cstring>

#include <mutex>
#include <string>
#include <vector>

#include "flame/device/cpu/cpu_device.h"

namespace flame::test {

struct LoggedLaunch {
  std::string op;
  std::vector<size_t> reads, writes;  // sizes of the storages in bytes
  size_t scalars;
  bool operator==(const LoggedLaunch&) const = default;
};

class LoggingDevice : public CpuDevice {
 public:
  explicit LoggingDevice(std::string name) : LoggingDevice(Kind::cpu, std::move(name)) {}
  std::vector<LoggedLaunch> take_log() { return std::exchange(log_, {}); }
  uint64_t host_reads() const { return host_reads_; }
  void copy_to_host(void* dst, const void* src, size_t bytes) override {
    ++host_reads_;
    CpuDevice::copy_to_host(dst, src, bytes);
  }

 protected:
  LoggingDevice(Kind kind, std::string name) : CpuDevice(kind, std::move(name)) {}
  void run(const Plan& plan, const Launch& l, const Run& run) override {
    log(plan, l);
    CpuDevice::run(plan, l, run);
  }
  void log(const Plan& plan, const Launch& l) {
    LoggedLaunch e{plan.op, {}, {}, l.scalars.size()};
    for (const Buffer& b : l.reads) e.reads.push_back(b.storage->bytes());
    for (const Buffer& b : l.writes) e.writes.push_back(b.storage->bytes());
    log_.push_back(std::move(e));
  }
  uint64_t host_reads_ = 0;

 private:
  std::vector<LoggedLaunch> log_;
};

class TraceDevice final : public LoggingDevice {
 public:
  explicit TraceDevice(std::string name) : LoggingDevice(Kind::trace, std::move(name)) {}
  bool host_accessible() const override { return false; }
  void* allocate(size_t bytes, Loc where) override {
    void* p = mmap(nullptr, std::max<size_t>(bytes, 1), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw OutOfMemory("trace: no address space", where);
    return p;
  }
  void deallocate(void* p, size_t bytes) noexcept override { munmap(p, std::max<size_t>(bytes, 1)); }
  void copy_from_host(void*, const void*, size_t) override { ++host_writes_; }
  void copy_to_host(void* dst, const void*, size_t bytes) override {
    ++host_reads_;
    std::memset(dst, 0, bytes);
  }
  uint64_t host_writes() const { return host_writes_; }

 protected:
  void run(const Plan& plan, const Launch& l, const Run&) override { log(plan, l); }

 private:
  uint64_t host_writes_ = 0;
};

template <class D>
D& test_device(const char* name) {
  static D* d = [name] {
    auto owned = std::make_unique<D>(name);
    D* made = owned.get();
    register_device(std::move(owned));
    return made;
  }();
  return *d;
}
inline TraceDevice& trace_device() { return test_device<TraceDevice>("trace"); }
inline LoggingDevice& logging_device() { return test_device<LoggingDevice>("cpu:logging"); }

}  // namespace flame::test
