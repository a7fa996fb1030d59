// Internal: the counters behind flame::stats().
#pragma once
#include <atomic>
#include <cstdint>

namespace flame {

struct Counter {
  std::atomic<uint64_t> v{0};
  void operator+=(uint64_t n) { v.fetch_add(n, std::memory_order_relaxed); }
  operator uint64_t() const { return v.load(std::memory_order_relaxed); }
};

struct Counters {
  Counter launches, island_launches, island_ops, pointwise_ops, plans_prepared, system_allocations, host_copies,
      replays, recording_misses, device_copies, uploads, graph_launches;
};
Counters& counters();

}  // namespace flame
