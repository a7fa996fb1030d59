// Internal: what device bodies share: kernels of ops/*.cu by dtype, and copies between strided tensors.
#pragma once
#include <optional>

#include "flame/device/device.h"
#include "flame/device/kernel.h"
#include "flame/device/cpu/strided_copy.h"

namespace flame {

// The kernel `entry` of flame/`file`, with FLAME_T the memory type of `t`. Nothing contracts multiply and add.
Ref<Kernel> device_kernel(Device& d, const char* file, const char* entry, DType t,
                          std::vector<std::string> options = {});
// As above, FLAME_T an unsigned integer of so many bytes.
Ref<Kernel> moving_kernel(Device& d, const char* file, const char* entry, size_t element,
                          std::vector<std::string> options = {});

// Copies elements of one size from strides `from` to strides `to`, as StridedCopy does on the host.
class DeviceCopy {
 public:
  DeviceCopy(Device& d, const Shape& shape, const Strides& to, const Strides& from, size_t element);
  void operator()(void* to, const void* from) const;

 private:
  friend class DeviceCopies;
  struct Walk {
    int64_t rank, count;
    int64_t shape[max_rank], to[max_rank], from[max_rank];
  } walk_{};
  Walk walk_together() const;
  size_t bytes_together() const { return element_ * static_cast<size_t>(together_); }
  bool aligned(const void* to, const void* from) const;
  Device* device_;
  size_t element_;
  int64_t together_ = 1;  // elements that move as one, where both tensors begin at a multiple of their size
  Ref<Kernel> kernel_;
  Ref<Kernel> kernel(int64_t together, const char* entry = "copy") const;
};

// Copies into one buffer, of which none writes where another does; up to eight of like size are one launch.
class DeviceCopies {
 public:
  // copies[i] goes to offsets[i], in bytes.
  DeviceCopies(std::vector<DeviceCopy> copies, std::vector<int64_t> offsets);
  void operator()(void* to, void* const* from) const;

 private:
  static constexpr size_t most = 8;
  struct Batch {
    size_t begin, end;
    Ref<Kernel> kernel;  // null: one by one
  };
  std::vector<DeviceCopy> copies_;
  std::vector<int64_t> offsets_;
  std::vector<Batch> batches_;
};

// What a draw's kernel is told: as in random.cu.
struct DeviceDraw {
  uint64_t call;
  int64_t count;
  double f[4] = {};
  float g[2] = {};
  uint64_t u[2] = {};
  uint32_t key[20];

  DeviceDraw(uint64_t seed, uint64_t call, int64_t count);
  // Of numbers of `element` bytes, from `bits` random ones each; outputs start at a multiple of 16 bytes.
  Grid grid(int64_t bits, size_t element) const;
};

// Sorts rows of n keys, each beside a place of 32 bits, by the `bits` low bits of the keys, stably: as in radix.cu.
class DeviceRadix {
 public:
  struct Rows {
    void *keys, *places;  // [rows, n]
  };
  DeviceRadix(Device& d, int64_t rows, int64_t n, int bits);
  bool wide() const { return wide_; }  // keys of 64 bits rather than 32
  std::string key_type() const { return wide_ ? "uint64_t" : "uint32_t"; }
  size_t workspace() const { return row_ ? key_bytes_ + place_bytes_ : 2 * (key_bytes_ + place_bytes_) + count_bytes_; }
  Rows rows(void* workspace) const { return at(workspace, 0); }  // to be filled before sorting
  Rows operator()(void* workspace) const {                       // where the sorted rows lie
    if (few()) count_first(workspace);
    return sort_counted(workspace);
  }
  // With few tiles, who fills the rows may count their lowest digits too: as radix_first does.
  bool few() const { return static_cast<bool>(pass_); }
  int passes() const { return passes_; }
  int64_t blocks() const { return rows_ * tiles_; }
  void* counts(void* workspace) const { return static_cast<char*>(workspace) + 2 * (key_bytes_ + place_bytes_); }
  Rows sort_counted(void* workspace) const;

 private:
  Rows at(void* workspace, int which) const;
  void count_first(void* workspace) const;
  Ref<Kernel> kernel(const char* entry) const;
  Device* device_;
  int64_t rows_, n_, tiles_;
  int bits_, passes_;
  bool wide_;
  size_t key_bytes_, place_bytes_, count_bytes_;
  Ref<Kernel> count_, sum_, move_, row_, pass_;  // the last two for rows of one tile and for few tiles
};

}  // namespace flame
