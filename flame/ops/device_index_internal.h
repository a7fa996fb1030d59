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
  int64_t place_rank = 0, place_size[max_rank]{}, place_step[max_rank]{};  // where in the big tensor a place lies
  int64_t covers = 1;  // places and slices are all of the big tensor

  // One list of indices, whose slices are dense and follow each other in the small tensor; no number needs more than 32 bits.
  bool whole_slices() const;

  // small: [at.., rest..], big: [as many axes as index tensors.., rest..]; `names`: what errors call these axes.
  static DeviceWalk of_list(const char* op, const Dims& names, bool wraps, std::span<const Meta> index,
                            const Meta& small, const Meta& big);
  // small and index of one shape, big of their rank, which the index points into along `axis`.
  static DeviceWalk along(const char* op, int axis, const Meta& small, const Meta& index, const Meta& big);

 private:
  void add_at(int64_t n, int64_t small, int64_t big, int64_t key_step, std::span<const int64_t> index);
  void add_rest(int64_t n, int64_t small, int64_t big);
};

// Entries along rows that a block keeps in shared memory: as in index_rows.cu. No rows: an index does not go that way.
struct DeviceRows {
  const char* op = nullptr;
  int64_t rows = 0, entries = 0, places = 0, axis = 0, rank = 0, small_step = 0, shared = 0, covers = 1;
  int64_t size[max_rank]{}, small_at[max_rank]{}, index_at[max_rank]{}, big_at[max_rank]{};
  const void* index = nullptr;

  static DeviceRows along(const char* op, int axis, const Meta& small, const Meta& index, const Meta& big);
  // Settles how many bytes a row takes; no rows if that is too much.
  void keep(int64_t bytes);
  int threads() const;
  std::vector<std::string> options(std::string more) const;
  template <class... T>
  void launch(const Kernel& k, const void* index, const T&... arguments) const;
};

// small = big at the index; 0 where an index is bad.
class DeviceGet {
 public:
  DeviceGet(Device& d, const DeviceWalk& w, size_t element, DeviceRows rows = {});
  void operator()(const void* big, const void* const* index, void* small) const;

 private:
  Device& device_;
  DeviceWalk walk_, wide_;
  size_t element_;
  DeviceRows rows_;
  Ref<Kernel> narrow_kernel_, wide_kernel_, rows_kernel_;  // the wide one moves 16 bytes at a time
};

// big = base, and at the index = or combined with small, in the order of the entries. Bad ones are left out. 16-bit numbers
// are combined in float32 and rounded once. behind: big = base + what becomes of zeros, each rounded by itself; all are dense.
enum class Combine : uint8_t { assign, add, prod, amax, amin };
struct DeviceBase {
  Shape shape;
  Strides to, from;
  bool zeros;  // instead of a tensor
  bool behind = false;
  bool same() const { return zeros || from == to; }
};
class DevicePut {
 public:
  // `distinct`: no place comes twice.
  DevicePut(Device& d, const DeviceWalk& w, Combine combine, DType t, const DeviceBase& base, bool distinct = false,
            DeviceRows rows = {});
  size_t workspace() const { return workspace_; }
  void operator()(const void* small, const void* const* index, const void* base, void* big, void* workspace) const;

 private:
  void put(const void* small, const void* const* index, const void* from, void* big, void* workspace) const;
  enum class Way : uint8_t { nothing, rows, assign, last, sort };
  Device& device_;
  DeviceWalk walk_, wide_;  // in elements; in units of 16 bytes, if it goes that way
  DeviceRows rows_;
  Way way_ = Way::nothing;
  DType dtype_;
  Combine combine_;
  DeviceBase base_;
  std::optional<DeviceCopy> copy_;
  std::optional<DeviceRadix> radix_;
  Ref<Kernel> first_, second_, third_, behind_;
  size_t workspace_ = 0;

  void choose(bool distinct);
  Ref<Kernel> sorting_kernel(const char* entry, bool wide) const;
  bool reads_base(const void* small, const void* base) const;  // no copy of it comes first
  void begin(const void* base, void* big) const;
  void put_sorted(const DeviceWalk& w, const void* small, const void* base, void* big, void* workspace) const;
};

// Whether the host computes for a device; it widens 16-bit numbers beforehand.
inline bool computed_by_host(const Device& d) { return d.host_accessible() || d.kind() == Device::Kind::trace; }

}  // namespace flame
