// Internal: reading and writing by index tensors on a device; gather, scatter and advanced indexing are all such walks.
#pragma once
#include "flame/ops/device_internal.h"

namespace flame {

// Entries of index tensors: where each points in a big tensor and where it lies in a small one, and the elements of the
// slice that belong to an entry. As in index.cu. `op` lives as long as the process.
struct DeviceWalk {
  const char* op = nullptr;
  int64_t entries = 1, slice = 1, places = 1, axes = 0, at_rank = 0, slice_rank = 0, wraps = 0;
  int64_t size[max_rank]{}, step[max_rank]{}, key[max_rank]{}, name[max_rank]{};
  int64_t at[max_rank]{}, small_at[max_rank]{}, big_at[max_rank]{}, key_at[max_rank]{}, index_at[max_rank][max_rank]{};
  int64_t rest[max_rank]{}, small_rest[max_rank]{}, big_rest[max_rank]{};
  const void* index[max_rank]{};

  // small: [at.., rest..], big: [as many axes as index tensors.., rest..]; `names`: what errors call these axes.
  static DeviceWalk of_list(const char* op, const Dims& names, bool wraps, std::span<const Meta> index,
                            const Meta& small, const Meta& big);
  // small and index of one shape, big of their rank, which the index points into along `axis`.
  static DeviceWalk along(const char* op, int axis, const Meta& small, const Meta& index, const Meta& big);

 private:
  void add_at(int64_t n, int64_t small, int64_t big, int64_t key_step, std::span<const int64_t> index);
  void add_rest(int64_t n, int64_t small, int64_t big);
};

// small = big at the index; 0 where an index is bad.
class DeviceGet {
 public:
  DeviceGet(Device& d, const DeviceWalk& w, size_t element);
  void operator()(const void* big, const void* const* index, void* small) const;

 private:
  Device& device_;
  DeviceWalk walk_, wide_;
  size_t element_;
  Ref<Kernel> narrow_kernel_, wide_kernel_;  // the wide one moves 16 bytes at a time
};

// big at the index = or is combined with small, in the order of the entries. Bad ones are left out.
enum class Combine : uint8_t { assign, add, prod, amax, amin };
class DevicePut {
 public:
  // `distinct`: no place comes twice.
  DevicePut(Device& d, const DeviceWalk& w, Combine combine, DType t, bool distinct = false);
  size_t workspace() const { return workspace_; }
  void operator()(const void* small, const void* const* index, void* big, void* workspace) const;

 private:
  enum class Way : uint8_t { nothing, assign, last, sort };
  Device& device_;
  DeviceWalk walk_;
  Way way_ = Way::nothing;
  std::optional<DeviceRadix> radix_;
  Ref<Kernel> first_, second_, third_;
  size_t workspace_ = 0;
};

}  // namespace flame
