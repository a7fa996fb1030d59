// The CPU device's memory: blocks of a few sizes a power of two, kept for reuse, so that a warm step asks the system for nothing.
#include "flame/device/cpu/cpu_device.h"

#include <sys/mman.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "flame/core/format.h"
#include "flame/device/counters.h"
#include "flame/device/cpu/services.h"

namespace flame {

namespace {

constexpr size_t align = 64;
constexpr size_t huge = size_t{2} << 20;

// Four classes a power of two: at most a fifth of a block is slack. Class c serves requests up to class_bytes(c).
struct SizeClass {
  int index;
  size_t bytes;
};
SizeClass class_of(size_t n) {
  if (n <= 2 * align) return {n <= align ? 0 : 1, n <= align ? align : 2 * align};
  const int log = std::bit_width(n - 1) - 1;  // 2^log < n <= 2^(log+1)
  const size_t step = std::max<size_t>(size_t{1} << (log - 2), align);
  const size_t bytes = (n + step - 1) / step * step;
  const int quarter = static_cast<int>((bytes - (size_t{1} << log)) / (size_t{1} << (log - 2)));
  return {2 + (log - 7) * 5 + quarter, bytes};
}
constexpr int num_classes = 2 + (48 - 7) * 5 + 5;

struct Pool {
  std::mutex mutex;
  std::vector<void*> free[num_classes];
  size_t allocated = 0, peak = 0, reserved = 0;
  size_t by_kind[num_memory_kinds] = {};
  size_t& of(MemoryKind k) { return by_kind[static_cast<int>(k)]; }
};
Pool& pool() {
  static Pool* p = new Pool;  // outlives every tensor
  return *p;
}

void* from_system(size_t bytes) {
  counters().system_allocations += 1;
  if (bytes < huge) return std::aligned_alloc(align, bytes);
  const size_t rounded = (bytes + huge - 1) / huge * huge;
  void* p = std::aligned_alloc(huge, rounded);
  if (p) madvise(p, rounded, MADV_HUGEPAGE);
  return p;
}

void release_all(Pool& p) {
  for (int c = 0; c < num_classes; ++c) {
    for (void* q : p.free[c]) std::free(q);
    if (!p.free[c].empty()) p.free[c] = {};
  }
  p.reserved = p.allocated;
}

}  // namespace

void* CpuDevice::allocate(size_t bytes, Loc where) {
  Pool& p = pool();
  const auto refuse = [&] {
    fail<OutOfMemory>(where,
                      "out of memory on cpu: requested {} bytes, {} allocated by tensors, {} held from the system",
                      bytes, p.allocated, p.reserved);
  };
  if (allocation_fails() || bytes > (size_t{1} << 47)) refuse();
  const SizeClass c = class_of(bytes);
  std::unique_lock lock(p.mutex);
  void* out = nullptr;
  if (auto& list = p.free[c.index]; !list.empty()) {
    out = list.back();
    list.pop_back();
  } else {
    out = from_system(c.bytes);
    if (!out) {
      release_all(p);
      out = from_system(c.bytes);
      if (!out) refuse();
    }
    p.reserved += c.bytes;
  }
  p.allocated += c.bytes;
  p.of(allocation_kind()) += c.bytes;
  p.peak = std::max(p.peak, p.allocated);
  return out;
}

void CpuDevice::deallocate(void* q, size_t bytes) noexcept {
  Pool& p = pool();
  const SizeClass c = class_of(bytes);
  std::lock_guard lock(p.mutex);
  p.free[c.index].push_back(q);
  p.allocated -= c.bytes;
  p.of(allocation_kind()) -= c.bytes;
}

void CpuDevice::copy_from_host(void* dst, const void* src, size_t bytes) {
  if (bytes) std::memcpy(dst, src, bytes);
}
void CpuDevice::copy_to_host(void* dst, const void* src, size_t bytes) {
  if (bytes) std::memcpy(dst, src, bytes);
}
Ref<Plan> CpuDevice::gemm(const GemmDesc& d) { return cpu_gemm(d); }
Ref<Plan> CpuDevice::conv(const ConvDesc& d) { return cpu_conv(d); }

MemoryStats CpuDevice::memory_stats() const {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  return {.allocated = p.allocated,
          .peak = p.peak,
          .reserved = p.reserved,
          .tensors = p.of(MemoryKind::tensor),
          .recordings = p.of(MemoryKind::recording),
          .workspace = p.of(MemoryKind::workspace),
          .staging = p.of(MemoryKind::staging)};
}
void CpuDevice::reset_peak_memory() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  p.peak = p.allocated;
}
void CpuDevice::empty_cache() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  release_all(p);
}

}  // namespace flame
