// Walks over index tensors, and which kernels of index*.cu take them.
#include "flame/ops/device_index_internal.h"

#include <bit>
#include <limits>

#include "flame/core/format.h"

namespace flame {
namespace {

constexpr int64_t run = 256, elements_a_thread = 4, lanes = 32, least_units = 16, share = 12;  // as in index*.cu
constexpr int64_t least_row = 64, most_shared = 96 << 10;  // of each GPU, so that results do not depend on it
constexpr const char *walks = "ops/index.cu", *rows_file = "ops/index_rows.cu";
constexpr const char* combine_names[] = {"assign", "add", "prod", "amax", "amin"};

int64_t up(int64_t bytes) { return (bytes + 15) / 16 * 16; }
// A lane of a warp takes up to four units of 16 bytes of a slice, two where its sums would be of 16 numbers.
int64_t parts_of(const DeviceWalk& w, size_t element) { return blocks_for(w.slice, (element == 1 ? 2 : 4) * lanes); }
int64_t units_of(const DeviceWalk& w, size_t element) { return blocks_for(w.slice, parts_of(w, element) * lanes); }

std::vector<std::string> options_of(const DeviceWalk& w, std::vector<std::string> more) {
  const int64_t most = std::max(w.entries * w.slice, (w.places + w.entries) * parts_of(w, 1));
  const bool small = most < std::numeric_limits<int32_t>::max() - 256;
  more.emplace_back(small ? "-DFLAME_INDEX=int32_t" : "-DFLAME_INDEX=int64_t");
  more.push_back("-DFLAME_AXES=" + std::to_string(w.axes));
  const bool flat = w.at_rank <= 1 && w.slice_rank <= 1 && w.place_rank <= 1;
  more.emplace_back(!flat ? "-DFLAME_FLAT=0" : small && w.whole_slices() ? "-DFLAME_FLAT=2" : "-DFLAME_FLAT=1");
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
  divide(w.place_step, w.place_rank);
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
  w.place_rank = w.axes;
  std::copy_n(w.size, w.axes, w.place_size);
  std::copy_n(w.step, w.axes, w.place_step);
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
  const auto add_place = [&](int i, int64_t n) {
    w.place_size[w.place_rank] = n;
    w.place_step[w.place_rank++] = big.strides[i];
  };
  for (int i = 0; i < index.shape.rank(); ++i) {
    const int64_t beside = i == axis ? 0 : big.strides[i], by = index.strides[i];
    w.covers &= i == axis || index.shape[i] == big.shape[i];
    if (i != axis && !in_slice(i)) add_place(i, index.shape[i]);
    if (in_slice(i)) w.add_rest(index.shape[i], small.strides[i], beside);
    else w.add_at(index.shape[i], small.strides[i], beside, key[static_cast<size_t>(i)], {&by, 1});
  }
  add_place(axis, big.shape[axis]);
  return w;
}

bool DeviceWalk::whole_slices() const {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  const bool one = entries == 1 || (at_rank == 1 && small_at[0] == slice && index_at[0][0] == 1 && big_at[0] == 0);
  const bool dense = slice == 1 || (slice_rank == 1 && small_rest[0] == 1 && big_rest[0] == 1);
  return axes == 1 && one && dense && size[0] <= most && step[0] >= 0 && step[0] <= most;
}

DeviceRows DeviceRows::along(const char* op, int axis, const Meta& small, const Meta& index, const Meta& big) {
  DeviceRows w;
  const int64_t n = index.shape[axis], step = small.strides[axis];
  if (index.strides[axis] != 1 || big.strides[axis] != 1 || (step != 0 && step != 1)) return w;
  w.op = op;
  w.axis = axis;
  w.entries = n;
  w.places = big.shape[axis];
  w.small_step = step;
  w.rows = 1;
  for (int i = 0; i < index.shape.rank(); ++i) {
    if (i == axis) continue;
    w.covers &= index.shape[i] == big.shape[i];
    if (index.shape[i] == 1) continue;
    if (index.strides[i] == 0) return {};  // whole slices
    w.rows *= index.shape[i];
    w.size[w.rank] = index.shape[i];
    w.small_at[w.rank] = small.strides[i];
    w.index_at[w.rank] = index.strides[i];
    w.big_at[w.rank++] = big.strides[i];
  }
  return w;
}
// A thread takes some sixteen elements of a row.
int DeviceRows::threads() const {
  const auto most = static_cast<uint64_t>(std::max(entries, places));
  return static_cast<int>(std::clamp<uint64_t>(std::bit_ceil(most / 16), lanes, 256));
}
std::vector<std::string> DeviceRows::options(std::string more) const {
  return {std::move(more), rank <= 1 ? "-DFLAME_FLAT=1" : "-DFLAME_FLAT=0",
          "-DFLAME_THREADS=" + std::to_string(threads())};
}
void DeviceRows::keep(int64_t bytes) {
  shared = up(bytes) / 16;
  if (places == 0 || bytes > most_shared || std::max(entries, places) < least_row) rows = 0;
}
// A block of short rows takes several.
template <class... T>
void DeviceRows::launch(const Kernel& k, const void* at, const T&... arguments) const {
  DeviceRows w = *this;
  w.index = at;
  const int64_t beside = std::clamp<int64_t>(most_shared / 2 / (16 * shared), 1, 256 / threads());
  k({.blocks = blocks_for(rows, beside),
     .threads = threads(),
     .shared = static_cast<int>(16 * shared * beside),
     .threads_y = static_cast<int>(beside)},
    w, arguments...);
}

DeviceGet::DeviceGet(Device& d, const DeviceWalk& w, size_t element, DeviceRows rows)
    : device_(d), walk_(w), element_(element), rows_(rows) {
  wide_ = in_units(w, element);
  if (w.entries * w.slice == 0) return;
  rows_.keep(rows_.places * static_cast<int64_t>(element));
  if (rows_.rows > 0 && rows_.small_step == 1 && 4 * rows_.entries >= rows_.places)
    rows_kernel_ = moving_kernel(d, rows_file, "rows_get", element, rows_.options("-DFLAME_GET"));
  else if (wide_.entries > 0)
    wide_kernel_ = d.kernel({"index_get", std::string(device_text(walks)), "index_get",
                             options_of(wide_, {"-DFLAME_GET", "-DFLAME_T=uint4"})});
  else narrow_kernel_ = moving_kernel(d, walks, "index_get", element, options_of(w, {"-DFLAME_GET"}));
}
void DeviceGet::operator()(const void* big, const void* const* index, void* small) const {
  if (walk_.entries * walk_.slice == 0) return;
  if (rows_kernel_) return rows_.launch(*rows_kernel_, index[0], big, small);
  const bool wide = wide_kernel_ && aligned(big) && aligned(small);
  DeviceWalk w = wide ? wide_ : walk_;
  for (int64_t j = 0; j < w.axes; ++j) w.index[j] = index[j];
  Ref<Kernel> narrow = narrow_kernel_;
  if (!wide && !narrow)  // a view that begins within 16 bytes
    narrow = moving_kernel(device_, walks, "index_get", element_, options_of(walk_, {"-DFLAME_GET"}));
  (*(wide ? wide_kernel_ : narrow))({.blocks = blocks_for(w.entries * w.slice, 256 * elements_a_thread)}, w, big,
                                    small);
}

DevicePut::DevicePut(Device& d, const DeviceWalk& w, Combine combine, DType t, const DeviceBase& base, bool distinct,
                     DeviceRows rows)
    : device_(d), walk_(w), wide_(in_units(w, size_of(t))), rows_(rows), dtype_(t), combine_(combine), base_(base) {
  choose(distinct);
  const bool whole = (way_ == Way::rows && rows_.covers) || (way_ == Way::sort && wide_.entries > 0 && wide_.covers);
  if (base.behind)
    behind_ = device_kernel(d, walks, "index_behind", t,
                            options_of(w, {"-DFLAME_COMBINE=add", "-DFLAME_KEY=uint32_t", "-DFLAME_BEHIND"}));
  else if (!base.zeros && !(whole && base.same())) copy_.emplace(d, base.shape, base.to, base.from, size_of(t));
}
void DevicePut::choose(bool distinct) {
  const DeviceWalk& w = walk_;
  if (w.entries * w.slice == 0) return;
  Device& d = device_;
  const DType t = dtype_;
  const Combine combine = combine_;
  const auto element = static_cast<int64_t>(size_of(t));
  const bool assigns = combine == Combine::assign;
  if (!distinct && w.entries >= std::numeric_limits<uint32_t>::max())
    fail<NotImplemented>(Loc::current(), "{}: no kernel for 2^32 or more entries of an index on {}", w.op, d.name());
  const int64_t listed = up(rows_.entries * element) + up(4 * rows_.places);
  rows_.keep(assigns ? listed : listed + 4 * rows_.entries + 2 * (rows_.entries / 5 + 1));
  if (rows_.rows > 0) {
    way_ = Way::rows;
    first_ = assigns ? moving_kernel(d, rows_file, "rows_assign", size_of(t), rows_.options("-DFLAME_ASSIGN"))
                     : device_kernel(
                           d, rows_file, "rows_combine", t,
                           rows_.options(std::string("-DFLAME_COMBINE=") + combine_names[static_cast<int>(combine)]));
    return;
  }
  if (assigns && (distinct || w.places <= 4 * w.entries)) {
    const auto kernel = [&](const char* entry) {
      return moving_kernel(d, walks, entry, size_of(t), options_of(w, {"-DFLAME_ASSIGN"}));
    };
    way_ = distinct ? Way::assign : Way::last;
    first_ = kernel(distinct ? "index_assign" : "index_last");
    if (distinct) return;
    second_ = kernel("index_put_last");
    workspace_ = static_cast<size_t>(w.places) * sizeof(uint32_t);
    return;
  }
  way_ = Way::sort;
  if (assigns || wide_.slice < least_units) wide_.entries = 0;
  const bool wide = wide_.entries > 0;
  radix_.emplace(d, 1, w.entries, std::bit_width(static_cast<uint64_t>(w.places)));
  first_ = sorting_kernel("index_keys", false);
  second_ = sorting_kernel(wide ? "index_wide_runs" : "index_runs", wide);
  third_ = sorting_kernel(wide ? "index_wide" : "index_combine", wide);
  const size_t sum = is_float(t) && element == 2 ? sizeof(float) : size_of(t);
  workspace_ = radix_->workspace() + static_cast<size_t>(w.entries / run * w.slice) * sum;
}
Ref<Kernel> DevicePut::sorting_kernel(const char* entry, bool wide) const {
  std::vector<std::string> options =
      options_of(wide ? wide_ : walk_, {std::string("-DFLAME_COMBINE=") + combine_names[static_cast<int>(combine_)],
                                        "-DFLAME_KEY=" + radix_->key_type()});
  if (wide) {
    options.push_back("-DFLAME_PACK=" + std::to_string(16 / size_of(dtype_)));
    options.push_back("-DFLAME_UNITS=" + std::to_string(units_of(wide_, size_of(dtype_))));
    if (base_.behind) options.emplace_back("-DFLAME_BEHIND");
  }
  if (entry == std::string_view("index_keys") && radix_->few()) options.emplace_back("-DFLAME_FEW");
  if (combine_ == Combine::assign) return moving_kernel(device_, walks, entry, size_of(dtype_), options);
  return device_kernel(device_, wide ? "ops/index_wide.cu" : walks, entry, dtype_, options);
}
bool DevicePut::reads_base(const void* small, const void* base) const {
  if (!base_.same()) return false;
  if (way_ == Way::rows) return rows_.covers && !base_.behind;
  return way_ == Way::sort && wide_.entries > 0 && wide_.covers && aligned(small) && (base_.zeros || aligned(base));
}
void DevicePut::begin(const void* base, void* big) const {
  const size_t element = size_of(dtype_);
  if (base_.zeros || base_.behind) device_.fill_bytes(big, 0, static_cast<size_t>(numel(base_.shape)) * element);
  else if (copy_) (*copy_)(big, base);
  else DeviceCopy(device_, base_.shape, base_.to, base_.from, element)(big, base);
}
void DevicePut::operator()(const void* small, const void* const* index, const void* base, void* big,
                           void* workspace) const {
  const bool reads = reads_base(small, base);
  if (!reads) begin(base, big);
  put(small, index, !reads ? big : base_.zeros ? nullptr : base, big, workspace);
  if (base_.behind && !reads) {
    const int64_t n = numel(base_.shape);
    (*behind_)(threads_for(n), n, base, big);
  }
}
void DevicePut::put(const void* small, const void* const* index, const void* from, void* big, void* workspace) const {
  if (way_ == Way::nothing) return;
  if (way_ == Way::rows) return rows_.launch(*first_, index[0], small, from, big);
  DeviceWalk w = walk_;
  for (int64_t j = 0; j < w.axes; ++j) w.index[j] = index[j];
  if (way_ == Way::sort) return put_sorted(w, small, from, big, workspace);
  const Grid each = threads_for(w.entries), all = threads_for(w.entries * w.slice);
  if (way_ == Way::assign) return (*first_)(all, w, small, big);
  device_.fill_bytes(workspace, 0, workspace_);
  (*first_)(each, w, workspace);
  (*second_)(all, w, workspace, small, big);
}
void DevicePut::put_sorted(const DeviceWalk& w, const void* small, const void* from, void* big, void* workspace) const {
  const DeviceRadix::Rows rows = radix_->rows(workspace);
  void* runs = static_cast<char*>(workspace) + radix_->workspace();
  if (radix_->few())
    (*first_)({.blocks = radix_->blocks()}, w, rows.keys, rows.places, radix_->counts(workspace), radix_->passes());
  else (*first_)(threads_for(w.entries), w, rows.keys, rows.places);
  const DeviceRadix::Rows sorted = radix_->sort_counted(workspace);
  const bool wide = wide_.entries > 0 && aligned(small) && !(base_.behind && from == big);
  const DeviceWalk& by = wide ? wide_ : w;
  Ref<Kernel> sums = second_, combine = third_;
  if (!wide && wide_.entries > 0) {  // a view that begins within 16 bytes
    sums = sorting_kernel("index_runs", false);
    combine = sorting_kernel("index_combine", false);
  }
  const int64_t whole_runs = w.entries / run;
  if (wide) {
    const auto warps = [&](int64_t n) {
      return Grid{.blocks = blocks_for(n * blocks_for(by.slice, units_of(by, size_of(dtype_)) * lanes) * lanes, 128),
                  .threads = 128};
    };
    if (whole_runs > 0) (*sums)(warps(whole_runs), by, sorted.keys, sorted.places, small, runs);
    (*combine)(warps(blocks_for(w.places + w.entries, share)), by, sorted.keys, sorted.places, small, runs, from, big);
    return;
  }
  if (whole_runs > 0) (*sums)(threads_for(whole_runs * w.slice), w, sorted.keys, sorted.places, small, runs);
  (*combine)(threads_for(w.entries * w.slice), w, sorted.keys, sorted.places, small, runs, big);
}

}  // namespace flame
