// Internal: the caching allocator. Segments from the driver are split into blocks, which join again when they are free.
// All work runs on one stream in order, so a block freed by the host may be handed out at once.
#pragma once
#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <set>

#include "flame/device/device.h"

namespace flame::cuda {

class Allocator {
 public:
  // `from_driver` gives null where there is no memory; `wait` lets the device finish before segments are given back, or says
  // that they cannot be given back now, by false.
  Allocator(std::function<void*(size_t)> from_driver, std::function<void(void*)> to_driver, std::function<bool()> wait)
      : from_driver_(std::move(from_driver)), to_driver_(std::move(to_driver)), wait_(std::move(wait)) {}

  void* allocate(size_t bytes,
                 MemoryKind kind);  // null after freeing the cache did not help either, or cannot be done now
  void deallocate(void* p) noexcept;
  bool empty_cache();  // false: not now
  MemoryStats stats() const;
  void reset_peak();
  size_t largest_free() const;
  void set_limit(size_t bytes);
  // One allocation of the driver's a tensor, exactly as large, given back when it is freed: for tools that watch memory.
  void set_direct(bool on);

 private:
  struct Block {
    char* at;
    size_t bytes;
    bool free;
    bool direct = false;
    MemoryKind kind = MemoryKind::tensor;
    Block *before = nullptr, *after = nullptr;  // in the segment
  };
  struct BySize {
    bool operator()(const Block* a, const Block* b) const {
      return a->bytes != b->bytes ? a->bytes < b->bytes : a->at < b->at;
    }
  };
  Block* take(size_t bytes);
  Block* grow(size_t bytes);
  Block* split(Block* b, size_t bytes);
  void* ask_driver(size_t bytes);
  size_t& counter(MemoryKind k) { return by_kind_[static_cast<size_t>(k)]; }
  bool release_free_segments();

  std::function<void*(size_t)> from_driver_;
  std::function<void(void*)> to_driver_;
  std::function<bool()> wait_;
  mutable std::mutex mutex_;
  std::set<Block*, BySize> free_small_, free_large_;
  std::map<void*, Block*> live_;
  MemoryStats stats_;
  std::array<size_t, num_memory_kinds> by_kind_{};
  bool direct_ = false;
};

}  // namespace flame::cuda
