// Kernels of ops/*.cu and strided copies on a device.
#include "flame/ops/device_internal.h"

#include <bit>

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
DeviceSort::DeviceSort(Device& d, DType t, int64_t rows, int64_t n)
    : rows_(rows), padded_(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(n, 1))))) {
  stages_ = device_kernel(d, "ops/sort.cu", "stages", t);
  step_ = device_kernel(d, "ops/sort.cu", "step", t);
}
void DeviceSort::operator()(void* entries) const {
  constexpr int64_t tile = 2048;
  const int64_t total = rows_ * padded_;
  const Grid tiles{.blocks = blocks_for(total, tile), .threads = 1024};
  (*stages_)(tiles, entries, total, padded_, int64_t{2}, std::min(padded_, tile));
  for (int64_t k = 2 * tile; k <= padded_; k *= 2) {
    for (int64_t j = k / 2; j >= tile; j /= 2)
      (*step_)({.blocks = blocks_for(total / 2, 256)}, entries, total, padded_, k, j);
    (*stages_)(tiles, entries, total, padded_, k, k);
  }
}
DeviceIndexWalk::DeviceIndexWalk(const Meta& s, const Meta& i, const Meta& b, int a)
    : rank(i.shape.rank()), count(numel(i.shape)), axis(a), size(b.shape[a]), step(b.strides[a]) {
  for (int k = 0; k < i.shape.rank(); ++k) {
    shape[k] = i.shape[k];
    small[k] = s.strides[k];
    index[k] = i.strides[k];
    big[k] = k == a ? 0 : b.strides[k];
  }
}
void DeviceCopy::operator()(void* to, const void* from) const {
  if (!kernel_) return;
  const size_t bytes = element_ * static_cast<size_t>(together_);
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes != 0)
    return (*kernel(1))({.blocks = blocks_for(walk_.count, 256)}, walk_, from, to);
  Walk w = walk_;
  w.count /= together_;
  for (int64_t i = 0; i < w.rank; ++i) (i + 1 == w.rank ? w.shape[i] : w.to[i]) /= together_;
  for (int64_t i = 0; i + 1 < w.rank; ++i) w.from[i] /= together_;
  (*kernel_)({.blocks = blocks_for(w.count, 256)}, w, from, to);
}
Ref<Kernel> DeviceCopy::kernel(int64_t n) const {
  const bool small = walk_.count < int64_t{1} << 31;
  return moving_kernel(*device_, "ops/strided.cu", "copy", element_ * static_cast<size_t>(n),
                       {small ? "-DFLAME_I=uint32_t" : "-DFLAME_I=uint64_t"});
}

}  // namespace flame
