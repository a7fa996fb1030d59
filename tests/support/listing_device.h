// A device that plans as a GPU does and runs nothing: it lists launches, with the kernels, fills and copies that each made and
// the storages it touched. Libraries take what they take on a GPU: products with epilogues, convolutions, 16-bit attention.
#pragma once
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "flame/device/kernel.h"
#include "tests/trace_device.h"

namespace flame::test {

class ListingDevice final : public Device {
 public:
  struct Entry {
    std::string op;
    std::vector<std::string> made;      // kernels; "library", "fill" and "copy"
    std::vector<size_t> reads, writes;  // bytes of the storages
  };
  explicit ListingDevice(std::string name) : Device(Kind::cuda, std::move(name)) {}
  std::vector<Entry> take() { return std::exchange(entries_, {}); }

  bool host_accessible() const override { return false; }
  void* allocate(size_t bytes, Loc where) override {
    void* p = std::aligned_alloc(64, (bytes / 64 + 1) * 64);
    if (!p) throw OutOfMemory("listing: no memory", where);
    return p;
  }
  void deallocate(void* p, size_t) noexcept override { std::free(p); }
  void copy_from_host(void*, const void*, size_t) override {}
  void copy_to_host(void* dst, const void*, size_t bytes) override { std::memset(dst, 0, bytes); }
  void synchronize() override {}
  MemoryStats memory_stats() const override { return {}; }
  void reset_peak_memory() override {}
  void empty_cache() override {}
  void copy_within(void*, const void*, size_t) override { note("copy"); }
  void fill_bytes(void*, int, size_t) override { note("fill"); }
  Ref<Kernel> kernel(const KernelDesc& d) override { return make_ref<Listed>(*this, d.name); }
  Ref<Plan> gemm(const GemmDesc&) override { return library("gemm"); }
  Ref<Plan> conv(const ConvDesc&) override { return library("conv"); }
  Ref<Plan> attention(const AttentionDesc& a) override {
    return library(a.backward ? "attention_backward" : "attention");
  }
  bool fuses() const override { return true; }

 protected:
  void run(const Plan& plan, const Launch& l, const Run& r) override {
    entries_.push_back({plan.op, {}, {}, {}});
    for (const Buffer& b : l.reads) entries_.back().reads.push_back(b.storage->bytes());
    for (const Buffer& b : l.writes) entries_.back().writes.push_back(b.storage->bytes());
    plan.body(r);
  }

 private:
  class Listed final : public Kernel {
   public:
    Listed(ListingDevice& d, std::string name) : device_(d), name_(std::move(name)) {}
    void launch(const Grid&, std::span<const std::byte>) const override { device_.note(name_); }

   private:
    ListingDevice& device_;
    const std::string name_;
  };
  Ref<Plan> library(const char* op) {
    return make_ref<Plan>(op, [this](const Run&) { note("library"); });
  }
  void note(std::string what) {
    if (!entries_.empty()) entries_.back().made.push_back(std::move(what));
  }
  std::vector<Entry> entries_;
};
inline ListingDevice& listing_device() { return test_device<ListingDevice>("cuda:listing"); }

}  // namespace flame::test
