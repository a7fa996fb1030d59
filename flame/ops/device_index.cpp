// Walks over index tensors, and which kernels of index.cu take them.
#include "flame/ops/device_index_internal.h"

#include <bit>
#include <limits>

#include "flame/core/format.h"

namespace flame {
namespace {

constexpr int64_t run = 256, elements_a_thread = 4;  // as in index.cu

std::vector<std::string> options_of(const DeviceWalk& w, std::vector<std::string> more) {
  const bool small = w.entries * w.slice < std::numeric_limits<int32_t>::max() - 256;
  more.emplace_back(small ? "-DFLAME_INDEX=int32_t" : "-DFLAME_INDEX=int64_t");
  more.push_back("-DFLAME_AXES=" + std::to_string(w.axes));
  return more;
}
// The walk in units of 16 bytes; no entries if it does not go that way.
DeviceWalk in_units(DeviceWalk w, size_t element) {
  const int64_t unit = 16 / static_cast<int64_t>(element);
  const int last = static_cast<int>(w.slice_rank) - 1;
  bool fits = last >= 0 && w.small_rest[last] == 1 && w.big_rest[last] == 1 && w.rest[last] % unit == 0;
  const auto divide = [&](int64_t* strides, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      fits &= strides[i] % unit == 0;
      strides[i] /= unit;
    }
  };
  divide(w.step, w.axes);
  divide(w.small_at, w.at_rank);
  divide(w.big_at, w.at_rank);
  divide(w.small_rest, last);
  divide(w.big_rest, last);
  if (!fits) return {.entries = 0};
  w.rest[last] /= unit;
  w.slice /= unit;
  return w;
}
bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
Grid threads_for(int64_t n) { return {.blocks = blocks_for(n, 256)}; }

}  // namespace

// An axis joins the one before it where every stride goes on.
void DeviceWalk::add_at(int64_t n, int64_t small, int64_t big, int64_t key_step, std::span<const int64_t> index) {
  entries *= n;
  if (n == 1) return;
  const int64_t before = at_rank - 1;
  bool joins =
      before >= 0 && small_at[before] == small * n && big_at[before] == big * n && key_at[before] == key_step * n;
  for (size_t j = 0; joins && j < index.size(); ++j) joins = index_at[j][before] == index[j] * n;
  const int64_t i = joins ? before : at_rank++;
  at[i] = joins ? at[i] * n : n;
  small_at[i] = small;
  big_at[i] = big;
  key_at[i] = key_step;
  for (size_t j = 0; j < index.size(); ++j) index_at[j][i] = index[j];
}
void DeviceWalk::add_rest(int64_t n, int64_t small, int64_t big) {
  slice *= n;
  if (n == 1) return;
  const int64_t before = slice_rank - 1;
  const bool joins = before >= 0 && small_rest[before] == small * n && big_rest[before] == big * n;
  const int64_t i = joins ? before : slice_rank++;
  rest[i] = joins ? rest[i] * n : n;
  small_rest[i] = small;
  big_rest[i] = big;
}

DeviceWalk DeviceWalk::of_list(const char* op, const Dims& names, bool wraps, std::span<const Meta> index,
                               const Meta& small, const Meta& big) {
  DeviceWalk w;
  w.op = op;
  w.wraps = wraps;
  w.axes = static_cast<int64_t>(index.size());
  for (int j = static_cast<int>(w.axes) - 1; j >= 0; --j) {
    w.size[j] = big.shape[j];
    w.step[j] = big.strides[j];
    w.name[j] = names[j];
    w.key[j] = w.places;
    w.places *= big.shape[j];
  }
  const Shape& at = index[0].shape;
  for (int i = 0; i < at.rank(); ++i) {
    int64_t strides[max_rank];
    for (size_t j = 0; j < index.size(); ++j) strides[j] = index[j].strides[i];
    w.add_at(at[i], small.strides[i], 0, 0, {strides, index.size()});
  }
  for (int i = static_cast<int>(w.axes); i < big.shape.rank(); ++i)
    w.add_rest(big.shape[i], small.strides[at.rank() + i - static_cast<int>(w.axes)], big.strides[i]);
  return w;
}

// Axes that the index does not vary along are the slice of an entry.
DeviceWalk DeviceWalk::along(const char* op, int axis, const Meta& small, const Meta& index, const Meta& big) {
  DeviceWalk w;
  w.op = op;
  w.axes = 1;
  w.size[0] = w.places = big.shape[axis];
  w.step[0] = big.strides[axis];
  w.name[0] = axis;
  w.key[0] = 1;
  std::array<int64_t, max_rank> key{};
  const auto in_slice = [&](int i) { return i != axis && index.strides[i] == 0; };
  for (int i = index.shape.rank() - 1; i >= 0; --i)
    if (i != axis && !in_slice(i)) {
      key[static_cast<size_t>(i)] = w.places;
      w.places *= index.shape[i];
    }
  for (int i = 0; i < index.shape.rank(); ++i) {
    const int64_t beside = i == axis ? 0 : big.strides[i], by = index.strides[i];
    if (in_slice(i)) w.add_rest(index.shape[i], small.strides[i], beside);
    else w.add_at(index.shape[i], small.strides[i], beside, key[static_cast<size_t>(i)], {&by, 1});
  }
  return w;
}

DeviceGet::DeviceGet(Device& d, const DeviceWalk& w, size_t element) : device_(d), walk_(w), element_(element) {
  wide_ = in_units(w, element);
  if (w.entries * w.slice == 0) return;
  if (wide_.entries > 0)
    wide_kernel_ = d.kernel({"index_get", std::string(device_text("ops/index.cu")), "index_get",
                             options_of(wide_, {"-DFLAME_GET", "-DFLAME_T=uint4"})});
  else narrow_kernel_ = moving_kernel(d, "ops/index.cu", "index_get", element, options_of(w, {"-DFLAME_GET"}));
}
void DeviceGet::operator()(const void* big, const void* const* index, void* small) const {
  if (walk_.entries * walk_.slice == 0) return;
  const bool wide = wide_kernel_ && aligned(big) && aligned(small);
  DeviceWalk w = wide ? wide_ : walk_;
  for (int64_t j = 0; j < w.axes; ++j) w.index[j] = index[j];
  Ref<Kernel> narrow = narrow_kernel_;
  if (!wide && !narrow)  // a view that begins within 16 bytes
    narrow = moving_kernel(device_, "ops/index.cu", "index_get", element_, options_of(walk_, {"-DFLAME_GET"}));
  (*(wide ? wide_kernel_ : narrow))({.blocks = blocks_for(w.entries * w.slice, 256 * elements_a_thread)}, w, big,
                                    small);
}

DevicePut::DevicePut(Device& d, const DeviceWalk& w, Combine combine, DType t, bool distinct) : device_(d), walk_(w) {
  constexpr const char* names[] = {"assign", "add", "prod", "amax", "amin"};
  if (w.entries * w.slice == 0) return;
  const char* file = "ops/index.cu";
  const size_t element = size_of(t);
  const bool assigns = combine == Combine::assign;
  if (!distinct && w.entries >= std::numeric_limits<uint32_t>::max())
    fail<NotImplemented>(Loc::current(), "{}: no kernel for 2^32 or more entries of an index on {}", w.op, d.name());
  if (assigns && (distinct || w.places <= 4 * w.entries)) {
    const auto kernel = [&](const char* entry) {
      return moving_kernel(d, file, entry, element, options_of(w, {"-DFLAME_ASSIGN"}));
    };
    way_ = distinct ? Way::assign : Way::last;
    first_ = kernel(distinct ? "index_assign" : "index_last");
    if (distinct) return;
    second_ = kernel("index_put_last");
    workspace_ = static_cast<size_t>(w.places) * sizeof(uint32_t);
    return;
  }
  way_ = Way::sort;
  const int bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(w.places)));
  radix_.emplace(d, 1, w.entries, bits);
  const auto kernel = [&](const char* entry) {
    const std::vector<std::string> options = options_of(
        w, {std::string("-DFLAME_COMBINE=") + names[static_cast<int>(combine)], "-DFLAME_KEY=" + radix_->key_type()});
    return assigns ? moving_kernel(d, file, entry, element, options) : device_kernel(d, file, entry, t, options);
  };
  first_ = kernel("index_keys");
  second_ = kernel("index_runs");
  third_ = kernel("index_combine");
  workspace_ = radix_->workspace() + static_cast<size_t>(w.entries / run * w.slice) * element;
}
void DevicePut::operator()(const void* small, const void* const* index, void* big, void* workspace) const {
  if (way_ == Way::nothing) return;
  DeviceWalk w = walk_;
  for (int64_t j = 0; j < w.axes; ++j) w.index[j] = index[j];
  const Grid each = threads_for(w.entries), all = threads_for(w.entries * w.slice);
  if (way_ == Way::assign) return (*first_)(all, w, small, big);
  if (way_ == Way::last) {
    device_.fill_bytes(workspace, 0, workspace_);
    (*first_)(each, w, workspace);
    return (*second_)(all, w, workspace, small, big);
  }
  const DeviceRadix::Rows rows = radix_->rows(workspace);
  void* runs = static_cast<char*>(workspace) + radix_->workspace();
  (*first_)(each, w, rows.keys, rows.places);
  const DeviceRadix::Rows sorted = (*radix_)(workspace);
  if (w.entries >= run) (*second_)(threads_for(w.entries / run * w.slice), w, sorted.keys, sorted.places, small, runs);
  (*third_)(all, w, sorted.keys, sorted.places, small, runs, big);
}

}  // namespace flame
