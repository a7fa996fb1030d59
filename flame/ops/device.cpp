// Kernels of ops/*.cu and strided copies on a device.
#include "flame/ops/device_internal.h"

#include <algorithm>

#include "flame/core/format.h"
#include "flame/core/philox.h"

namespace flame {

Ref<Kernel> device_kernel(Device& d, const char* file, const char* entry, DType t, std::vector<std::string> options) {
  options.push_back(std::string("-DFLAME_T=") + device_type(t));
  options.emplace_back("--fmad=false");
  return d.kernel({entry, std::string(device_text(file)), entry, std::move(options)});
}
Ref<Kernel> moving_kernel(Device& d, const char* file, const char* entry, size_t element,
                          std::vector<std::string> options) {
  const char* type = element == 1   ? "uint8_t"
                     : element == 2 ? "uint16_t"
                     : element == 4 ? "uint32_t"
                     : element == 8 ? "uint64_t"
                                    : "uint4";
  options.push_back(std::string("-DFLAME_T=") + type);
  return d.kernel({entry, std::string(device_text(file)), entry, std::move(options)});
}

namespace {
// How many neighbours can move as one, up to 16 bytes of them.
int64_t together(const JoinedAxes& axes, size_t element) {
  const int last = axes.shape.rank() - 1;
  if (last < 0 || axes.strides[0][last] != 1 || axes.strides[1][last] != 1) return 1;
  for (int64_t n = 16 / static_cast<int64_t>(element); n > 1; n /= 2) {
    bool fits = axes.shape[last] % n == 0;
    for (int i = 0; i < last; ++i) fits &= axes.strides[0][i] % n == 0 && axes.strides[1][i] % n == 0;
    if (fits) return n;
  }
  return 1;
}
}  // namespace

DeviceCopy::DeviceCopy(Device& d, const Shape& shape, const Strides& to, const Strides& from, size_t element)
    : device_(&d), element_(element) {
  const JoinedAxes axes(shape, to, from);
  walk_.rank = axes.shape.rank();
  walk_.count = numel(shape);
  for (int i = 0; i < axes.shape.rank(); ++i) {
    walk_.shape[i] = axes.shape[i];
    walk_.to[i] = axes.strides[0][i];
    walk_.from[i] = axes.strides[1][i];
  }
  if (walk_.count == 0) return;
  together_ = together(axes, element);
  kernel_ = kernel(together_);
}
Ref<Kernel> DeviceCopy::kernel(int64_t n, const char* entry) const {
  const bool small = walk_.count < int64_t{1} << 31;
  return moving_kernel(*device_, "ops/strided.cu", entry, element_ * static_cast<size_t>(n),
                       {small ? "-DFLAME_I=uint32_t" : "-DFLAME_I=uint64_t"});
}
DeviceCopy::Walk DeviceCopy::walk_together() const {
  Walk w = walk_;
  w.count /= together_;
  for (int64_t i = 0; i < w.rank; ++i) (i + 1 == w.rank ? w.shape[i] : w.to[i]) /= together_;
  for (int64_t i = 0; i + 1 < w.rank; ++i) w.from[i] /= together_;
  return w;
}
bool DeviceCopy::aligned(const void* to, const void* from) const {
  return (reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes_together() == 0;
}
void DeviceCopy::operator()(void* to, const void* from) const {
  if (!kernel_) return;
  if (!aligned(to, from)) return (*kernel(1))({.blocks = blocks_for(walk_.count, 256)}, walk_, from, to);
  const Walk w = walk_together();
  (*kernel_)({.blocks = blocks_for(w.count, 256)}, w, from, to);
}

DeviceCopies::DeviceCopies(std::vector<DeviceCopy> copies, std::vector<int64_t> offsets)
    : copies_(std::move(copies)), offsets_(std::move(offsets)) {
  for (size_t i = 0; i < copies_.size();) {
    Batch b{i, i + 1, {}};
    const DeviceCopy& first = copies_[i];
    int64_t widest = first.walk_.count, all = widest;
    for (; first.kernel_ && b.end < std::min(copies_.size(), i + most); ++b.end) {
      const DeviceCopy& c = copies_[b.end];
      const int64_t wider = std::max(widest, c.walk_.count);
      const bool alike = c.kernel_ && c.bytes_together() == first.bytes_together() && wider < int64_t{1} << 31 &&
                         wider * static_cast<int64_t>(b.end - i + 1) <= 2 * (all + c.walk_.count);
      if (!alike) break;
      widest = wider;
      all += c.walk_.count;
    }
    if (b.end > i + 1) b.kernel = first.kernel(first.together_, "copy_several");
    i = b.end;
    batches_.push_back(std::move(b));
  }
}
void DeviceCopies::operator()(void* to, void* const* from) const {
  struct {  // as in strided.cu
    DeviceCopy::Walk walk[most];
    const void* from[most];
    void* to[most];
  } args{};
  for (const Batch& b : batches_) {
    int64_t widest = 0;
    bool aligned = true;
    for (size_t i = b.begin; i < b.end; ++i) {
      const size_t n = i - b.begin;
      args.walk[n] = copies_[i].walk_together();
      args.from[n] = from[i];
      args.to[n] = static_cast<char*>(to) + offsets_[i];
      widest = std::max(widest, args.walk[n].count);
      aligned &= copies_[i].aligned(args.to[n], args.from[n]);
    }
    if (b.kernel && aligned)
      (*b.kernel)({.blocks = blocks_for(widest, 256), .y = static_cast<int64_t>(b.end - b.begin)}, args);
    else
      for (size_t i = b.begin; i < b.end; ++i) copies_[i](static_cast<char*>(to) + offsets_[i], from[i]);
  }
}

DeviceDraw::DeviceDraw(uint64_t seed, uint64_t call_number, int64_t n) : call(call_number), count(n) {
  philox_keys(seed, key);
}
Grid DeviceDraw::grid(int64_t bits, size_t element) const {
  const int64_t packs = bits == 64 ? 2 : std::max<int64_t>(4, 16 / static_cast<int64_t>(element));
  return {.blocks = blocks_for(count, 4 * 256 * packs)};
}

DeviceRadix::DeviceRadix(Device& d, int64_t rows, int64_t n, int bits)
    : device_(&d), rows_(rows), n_(n), bits_(bits), passes_((bits + 7) / 8), wide_(bits > 32) {
  if (n >= int64_t{1} << 32)
    fail<NotImplemented>(Loc::current(), "sort: no kernel for rows of 2^32 or more elements on {}", d.name());
  constexpr int64_t few_tile = 1024, few_blocks = 64;
  const auto up = [](int64_t bytes) { return static_cast<size_t>((bytes + 255) / 256 * 256); };
  tiles_ = blocks_for(n, wide_ ? 2048 : 4096);
  const bool few = tiles_ > 1 && rows * blocks_for(n, few_tile) <= few_blocks;
  if (few) tiles_ = blocks_for(n, few_tile);
  key_bytes_ = up(rows * n * (wide_ ? 8 : 4));
  place_bytes_ = up(rows * n * 4);
  count_bytes_ = up(rows * 256 * (few ? passes_ * tiles_ : tiles_ + 1) * 4);
  if (tiles_ == 1) {
    row_ = kernel("radix_row");
  } else if (few) {
    pass_ = kernel("radix_pass");
  } else {
    count_ = kernel("radix_count");
    sum_ = kernel("radix_sum");
    move_ = kernel("radix_move");
  }
}
Ref<Kernel> DeviceRadix::kernel(const char* entry) const {
  std::vector<std::string> options{"-DFLAME_KEY=" + key_type()};
  if (entry == std::string_view("radix_pass") || entry == std::string_view("radix_first"))
    options.emplace_back("-DFLAME_FEW");
  return device_->kernel({entry, std::string(device_text("ops/radix.cu")), entry, std::move(options)});
}
DeviceRadix::Rows DeviceRadix::at(void* workspace, int which) const {
  char* keys = static_cast<char*>(workspace) + (which ? key_bytes_ + place_bytes_ : 0);
  return {keys, keys + key_bytes_};
}
void DeviceRadix::count_first(void* workspace) const {
  (*kernel("radix_first"))({.blocks = blocks()}, at(workspace, 0).keys, counts(workspace), n_, tiles_, passes_);
}
DeviceRadix::Rows DeviceRadix::sort_counted(void* workspace) const {
  if (row_) {
    const Rows own = at(workspace, 0);
    (*row_)({.blocks = rows_}, own.keys, own.places, n_, bits_);
    return own;
  }
  char* counts = static_cast<char*>(this->counts(workspace));
  const int64_t one = blocks() * 256 * 4;  // bytes of a pass's counts
  char* totals = counts + one;
  for (int pass = 0; pass < passes_; ++pass) {
    const Rows from = at(workspace, pass % 2), to = at(workspace, 1 - pass % 2);
    const int shift = 8 * pass;
    if (pass_) {
      char *own = counts + pass * one, *next = pass + 1 < passes_ ? own + one : nullptr;
      (*pass_)({.blocks = blocks()}, from.keys, from.places, to.keys, to.places, own, next, n_, tiles_, shift);
      continue;
    }
    (*count_)({.blocks = blocks()}, from.keys, counts, n_, tiles_, shift);
    (*sum_)({.blocks = rows_ * 256}, counts, totals, tiles_);
    (*move_)({.blocks = blocks()}, from.keys, from.places, to.keys, to.places, counts, totals, n_, tiles_, shift);
  }
  return at(workspace, passes_ % 2);
}

}  // namespace flame
