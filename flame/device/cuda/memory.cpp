// The caching allocator.
#include "flame/device/cuda/memory.h"

#include "flame/device/counters.h"

namespace flame::cuda {
namespace {

constexpr size_t unit = 512;                     // blocks are multiples of it
constexpr size_t small_limit = size_t{1} << 20;  // up to it, blocks come from segments of their own
constexpr size_t small_segment = size_t{2} << 20, medium_segment = size_t{16} << 20, step = size_t{2} << 20;

// What may be held from the driver for a peak of so many bytes.
size_t most_reserved(size_t peak) { return peak + peak / 4 + (size_t{64} << 20); }
size_t rounded(size_t bytes) { return bytes <= unit ? unit : (bytes + unit - 1) / unit * unit; }
size_t segment_for(size_t bytes) {
  if (bytes <= small_limit) return small_segment;
  if (bytes <= medium_segment / 2) return medium_segment;
  return (bytes + step - 1) / step * step;
}

}  // namespace

// The smallest free block that fits; of the large ones none of which most would be wasted or cut to pieces.
Allocator::Block* Allocator::take(size_t bytes) {
  auto& pool = bytes <= small_limit ? free_small_ : free_large_;
  Block wanted{nullptr, bytes, true};
  const auto it = pool.lower_bound(&wanted);
  if (it == pool.end()) return nullptr;
  Block* b = *it;
  pool.erase(it);
  return split(b, bytes);
}

Allocator::Block* Allocator::split(Block* b, size_t bytes) {
  const bool small = bytes <= small_limit;
  const size_t rest = b->bytes - bytes;
  if (rest >= (small ? unit : small_limit)) {
    Block* tail = new Block{b->at + bytes, rest, true, false, MemoryKind::tensor, b, b->after};
    if (b->after) b->after->before = tail;
    b->after = tail;
    b->bytes = bytes;
    (small ? free_small_ : free_large_).insert(tail);
  }
  b->free = false;
  return b;
}

void* Allocator::ask_driver(size_t bytes) {
  if (stats_.limit && stats_.reserved + bytes > stats_.limit) return nullptr;
  void* p = from_driver_(bytes);
  if (!p) return nullptr;
  counters().system_allocations += 1;
  stats_.reserved += bytes;
  return p;
}

// Free segments leave before the cache outgrows what the peak allows.
Allocator::Block* Allocator::grow(size_t bytes) {
  const size_t size = direct_ ? bytes : segment_for(bytes);
  if (!direct_ && stats_.reserved + size > most_reserved(std::max(stats_.peak, stats_.allocated + bytes)) &&
      !release_free_segments())
    return nullptr;
  void* p = ask_driver(size);
  if (!p) return nullptr;
  Block* whole = new Block{static_cast<char*>(p), size, true, direct_};
  if (!direct_) return split(whole, bytes);
  whole->free = false;
  return whole;
}

void* Allocator::allocate(size_t request, MemoryKind kind) {
  std::lock_guard lock(mutex_);
  const size_t bytes = direct_ ? std::max<size_t>(request, 1) : rounded(request);
  Block* b = direct_ ? nullptr : take(bytes);
  if (!b) b = grow(bytes);
  if (!b) {
    if (release_free_segments()) b = grow(bytes);
    if (!b) return nullptr;
  }
  b->kind = kind;
  live_[b->at] = b;
  counter(kind) += b->bytes;
  stats_.allocated += b->bytes;
  stats_.peak = std::max(stats_.peak, stats_.allocated);
  return b->at;
}

void Allocator::deallocate(void* p) noexcept {
  std::lock_guard lock(mutex_);
  const auto it = live_.find(p);
  if (it == live_.end()) return;
  Block* b = it->second;
  live_.erase(it);
  stats_.allocated -= b->bytes;
  counter(b->kind) -= b->bytes;
  b->free = true;
  if (b->direct) {
    to_driver_(b->at);
    stats_.reserved -= b->bytes;
    delete b;
    return;
  }
  // A segment belongs to one pool: its first block is at its start, and small segments are as large as no other.
  size_t whole = b->bytes;
  for (const Block* x = b->before; x; x = x->before) whole += x->bytes;
  for (const Block* x = b->after; x; x = x->after) whole += x->bytes;
  auto& pool = whole == small_segment ? free_small_ : free_large_;
  const auto absorb = [&](Block* into, Block* next) {
    into->bytes += next->bytes;
    into->after = next->after;
    if (next->after) next->after->before = into;
    delete next;
  };
  if (b->after && b->after->free) {
    pool.erase(b->after);
    absorb(b, b->after);
  }
  if (b->before && b->before->free) {
    b = b->before;
    pool.erase(b);
    absorb(b, b->after);
  }
  pool.insert(b);
}

bool Allocator::release_free_segments() {
  if (!wait_()) return false;
  for (auto* pool : {&free_small_, &free_large_})
    for (auto it = pool->begin(); it != pool->end();) {
      Block* b = *it;
      if (b->before || b->after) {
        ++it;
        continue;
      }
      to_driver_(b->at);
      stats_.reserved -= b->bytes;
      it = pool->erase(it);
      delete b;
    }
  return true;
}

bool Allocator::empty_cache() {
  std::lock_guard lock(mutex_);
  return release_free_segments();
}
MemoryStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  MemoryStats s = stats_;
  s.tensors = by_kind_[static_cast<size_t>(MemoryKind::tensor)];
  s.recordings = by_kind_[static_cast<size_t>(MemoryKind::recording)];
  s.workspace = by_kind_[static_cast<size_t>(MemoryKind::workspace)];
  s.staging = by_kind_[static_cast<size_t>(MemoryKind::staging)];
  return s;
}
void Allocator::reset_peak() {
  std::lock_guard lock(mutex_);
  stats_.peak = stats_.allocated;
}
size_t Allocator::largest_free() const {
  std::lock_guard lock(mutex_);
  size_t largest = 0;
  for (const auto* pool : {&free_small_, &free_large_})
    if (!pool->empty()) largest = std::max(largest, (*pool->rbegin())->bytes);
  return largest;
}

void Allocator::set_limit(size_t bytes) {
  std::lock_guard lock(mutex_);
  stats_.limit = bytes;
}
void Allocator::set_direct(bool on) {
  std::lock_guard lock(mutex_);
  direct_ = on;
}

}  // namespace flame::cuda
