// Padding on a device that compiles text: axes in the order of memory, neighbours that need no padding as one.
#include "flame/ops/pad_device_internal.h"

#include <cstdlib>
#include <numeric>

#include "flame/ops/device_internal.h"
#include "flame/ops/split_internal.h"

namespace flame {

DevicePad::DevicePad(Device& d, PadMode mode, const Meta& in, const Meta& out, const Dims& before)
    : device_(&d), mode_(mode), dtype_(in.dtype), count_(numel(out.shape)) {
  Dims order;  // axes, slowest first
  for (int i = 0; i < out.shape.rank(); ++i) {
    int at = order.rank();
    while (at > 0 && out.strides[static_cast<int>(order[at - 1])] < out.strides[i]) --at;
    order.insert(at, i);
  }
  int64_t reach = 0;
  for (const int64_t number : order) {
    const int i = static_cast<int>(number);
    const Axis one{out.shape[i], in.shape[i], before[i], in.strides[i]};
    if (one.size == 1 && one.in_size == 1) continue;
    reach += one.size * std::abs(one.stride);
    Axis* last = rank_ > 0 ? &axis_[static_cast<size_t>(rank_ - 1)] : nullptr;
    const bool plain = one.size == one.in_size;
    if (last && plain && last->size == last->in_size && last->stride == one.size * one.stride) {
      *last = {last->size * one.size, last->size * one.size, 0, one.stride};
    } else {
      axis_[static_cast<size_t>(rank_++)] = one;
    }
  }
  small_ = count_ < int64_t{1} << 30 && reach < int64_t{1} << 30;
  const Axis& last = axis_[static_cast<size_t>(rank_ - 1)];
  together_ = 16 / static_cast<int64_t>(size_of(dtype_));
  whole_ = last.size == last.in_size && last.stride == 1 && last.size % 2 == 0;
  if (whole_) {
    together_ = std::gcd(together_, last.size);
    for (int i = 0; i + 1 < rank_; ++i) together_ = std::gcd(together_, axis_[static_cast<size_t>(i)].stride);
  } else {
    while (together_ > last.size) together_ /= 2;  // no more than two rows meet in a thread
  }
  kernel_ = kernel(together_);
}

Ref<Kernel> DevicePad::kernel(int64_t together) const {
  std::vector<std::string> options{"-DFLAME_MODE=" + std::to_string(static_cast<int>(mode_)),
                                   small_ ? "-DFLAME_I=int32_t" : "-DFLAME_I=int64_t",
                                   "-DFLAME_V=" + std::to_string(together)};
  const bool whole = whole_ && together > 1;
  if (whole) options.emplace_back("-DFLAME_WHOLE");
  else options.emplace_back(axis_[static_cast<size_t>(rank_ - 1)].stride == 1 ? "-DFLAME_STEP=1" : "-DFLAME_STEP=0");
  return device_kernel(*device_, "ops/pad.cu", "pad", dtype_, std::move(options));
}

void DevicePad::operator()(const void* x, void* out, const void* value, size_t bytes) const {
  const uintptr_t at = reinterpret_cast<uintptr_t>(out) | (whole_ ? reinterpret_cast<uintptr_t>(x) : 0);
  const bool aligned = at % (static_cast<uintptr_t>(together_) * bytes) == 0;
  const Ref<Kernel> k = aligned ? kernel_ : kernel(1);
  if (small_) launch<int32_t>(*k, aligned ? together_ : 1, x, out, value, bytes);
  else launch<int64_t>(*k, aligned ? together_ : 1, x, out, value, bytes);
}

template <class I>
void DevicePad::launch(const Kernel& k, int64_t together, const void* x, void* out, const void* value,
                       size_t bytes) const {
  struct {  // as in pad.cu
    I count;
    int32_t rank;
    struct {
      Split size;
      I in_size, before, stride;
    } axis[max_rank];
  } walk{static_cast<I>(count_), rank_, {}};
  for (int i = 0; i < rank_; ++i) {
    const Axis& a = axis_[static_cast<size_t>(i)];
    walk.axis[i] = {Split(a.size), static_cast<I>(a.in_size), static_cast<I>(a.before), static_cast<I>(a.stride)};
  }
  KernelArguments all;
  all << walk << x << out;
  all.put(value, bytes, bytes);
  k.launch({.blocks = blocks_for(blocks_for(count_, together), 256)}, all.bytes());
}

}  // namespace flame
