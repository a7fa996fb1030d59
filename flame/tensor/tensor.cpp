// Tensor and Value: creation from host numbers, host reads, views, printing.
#include "flame/tensor/tensor.h"

#include <algorithm>
#include <cstring>

#include "flame/core/format.h"
#include "flame/device/counters.h"
#include "flame/device/out_of_range.h"
#include "flame/device/recorder.h"
#include "flame/tensor/internal.h"

namespace flame {

Value::~Value() {
  if (pending()) drop_expr(*this);
  if (cell) {
    std::lock_guard lock(cell->mutex);
    std::erase(cell->readers, this);
  }
}

Ref<Value> Value::view(const Value& base, const Shape& shape, const Strides& strides, int64_t offset) {
  Ref<Value> v = make_ref<Value>(*base.device, base.dtype, shape, strides);
  v->storage = base.storage;
  v->offset = offset;
  if (base.cell) {
    v->cell = base.cell;
    std::lock_guard lock(base.cell->mutex);
    base.cell->readers.push_back(v.get());
  }
  return v;
}

Value& Tensor::value() const {
  if (!value_) fail<ValueError>(Loc::current(), "tensor: expected a defined tensor, got an undefined one");
  return *value_;
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device& d, Loc loc) {
  for (int64_t n : shape)
    if (n < 0) fail<ShapeError>(loc, "empty: expected sizes of 0 or more, got {}", shape);
  checked_numel(shape);  // before the strides are multiplied
  Ref<Value> v = make_ref<Value>(d, dtype, shape, contiguous_strides(shape));
  v->storage = make_ref<Storage>(d, static_cast<size_t>(flame::numel(shape)) * size_of(dtype), loc);
  return Tensor(std::move(v));
}

Tensor Tensor::from_host(const void* data, size_t count, DType dtype, const Shape& shape, Device& d, Loc loc) {
  Tensor t = empty(shape, dtype, d, loc);
  if (count != static_cast<size_t>(t.numel()))
    fail<ShapeError>(loc, "from: shape {} needs {} numbers, got {}", shape, t.numel(), count);
  counters().host_copies += 1;
  if (Recorder::current())
    fail<RecordError>(loc, "from: numbers from the host are frozen inside a recorded step; pass them as an argument");
  d.copy_from_host(t.data(), data, count * size_of(dtype));
  return t;
}

Tensor Tensor::over_blob(void* data, DType t, const Shape& shape, const Strides& strides, std::function<void()> release,
                         Device& d, Loc loc) {
  for (int64_t n : shape)
    if (n < 0) fail<ShapeError>(loc, "from_blob: expected sizes of 0 or more, got {}", shape);
  checked_numel(shape);  // before anything is multiplied
  const Strides st = strides.empty() ? contiguous_strides(shape) : strides;
  if (st.rank() != shape.rank())
    fail<ShapeError>(loc, "from_blob: shape {} needs {} strides, got {}", shape, shape.rank(), st);
  if (!data && flame::numel(shape) > 0) fail<ValueError>(loc, "from_blob: expected an address, got null");
  if (reinterpret_cast<uintptr_t>(data) % size_of(t) != 0)
    fail<ValueError>(loc, "from_blob: the address is not aligned to the {} bytes of {}", size_of(t), t);
  if (Recorder::current())
    fail<RecordError>(loc,
                      "from_blob: a host address is frozen inside a recorded step; pass the tensor as an argument");
  Ref<Value> v = make_ref<Value>(d, t, shape, st);
  v->storage = make_ref<Storage>(d, data, static_cast<size_t>(flame::numel(shape)) * size_of(t), std::move(release));
  return Tensor(std::move(v));
}

int64_t Tensor::size(int64_t axis, Loc loc) const { return shape()[normalize_axis("size", axis, rank(), loc)]; }

void* Tensor::data() const {
  Value& v = value();
  materialize(v);
  return static_cast<char*>(v.storage->data()) + v.buffer().offset;
}

void Tensor::copy_to_host(void* dst, DType expected, Loc loc) const {
  const Value& v = value();
  if (v.dtype != expected) fail<DTypeError>(loc, "host read: expected {}, the tensor is {}", expected, v.dtype);
  if (Recorder::current())
    fail<RecordError>(
        loc, "host read: a value was read on the host inside a recorded step; return it from the step instead");
  note_flush("host read");
  Ref<Value> dense = converted(value_, v.dtype, contiguous_strides(v.shape));
  materialize(*dense);
  counters().host_copies += 1;
  at_line(loc, [&] {
    dense->device->synchronize();
    dense->device->copy_to_host(dst, static_cast<char*>(dense->storage->data()) + dense->buffer().offset,
                                static_cast<size_t>(numel()) * size_of(v.dtype));
  });
}

void Tensor::check_span(size_t count, Loc loc) const {
  if (count != static_cast<size_t>(numel()))
    fail<ShapeError>(loc, "copy_to: shape {} has {} elements, the span {}", shape(), numel(), count);
}

const void* Tensor::host_data(DType expected, Loc loc) const {
  const Value& v = value();
  if (v.dtype != expected) fail<DTypeError>(loc, "span: expected {}, the tensor is {}", expected, v.dtype);
  if (!v.device->host_accessible())
    fail<DeviceError>(loc, "span: the host cannot read memory of {}; use copy_to or to_vector", v.device->name());
  if (!is_contiguous(v.shape, v.strides))
    fail<ValueError>(loc, "span: expected a contiguous tensor, got shape {} with strides {}; use contiguous()", v.shape,
                     v.strides);
  if (Recorder::current())
    fail<RecordError>(
        loc, "host read: a value was read on the host inside a recorded step; return it from the step instead");
  note_flush("host read");
  counters().host_copies += 1;
  const void* p = data();
  v.device->synchronize();
  return p;
}

Scalar Tensor::scalar(Loc loc) const {
  if (numel() != 1) fail<ShapeError>(loc, "item: expected one element, got shape {}", shape());
  unsigned char raw[8];
  copy_to_host(raw, dtype(), loc);
  return visit_dtype(dtype(), [&](auto t) {
    std::memcpy(&t, raw, sizeof t);
    if constexpr (std::is_arithmetic_v<decltype(t)>) return Scalar(t);
    else return Scalar(static_cast<float>(t));
  });
}

int64_t Tensor::whole_number(DType fits, Loc loc) const {
  if (is_float(dtype()))
    fail<DTypeError>(loc, "item: expected an integer or bool for {}, the tensor is {}", fits, dtype());
  const int64_t n = scalar(loc).integral;
  const bool in_range = visit_dtype(fits, [&](auto t) {
    if constexpr (std::is_integral_v<decltype(t)>) return static_cast<int64_t>(static_cast<decltype(t)>(n)) == n;
    else return false;
  });
  if (!in_range) fail<ValueError>(loc, "item: {} does not fit {}", n, fits);
  return n;
}

std::string format_element(const void* p, DType t) {
  return visit_dtype(t, [&](auto x) -> std::string {
    std::memcpy(&x, p, sizeof x);
    if constexpr (std::is_same_v<decltype(x), bool>) return x ? "true" : "false";
    else if constexpr (std::is_integral_v<decltype(x)>) return fmt::format("{}", x);
    else if constexpr (std::is_same_v<decltype(x), double>) return fmt::format("{:.6g}", x);
    else return fmt::format("{:.5g}", static_cast<float>(x));
  });
}

namespace {
void print_axis(std::string& out, const char* data, const Shape& s, const Strides& st, int axis, size_t element,
                DType t) {
  if (axis == s.rank()) {
    out += format_element(data, t);
    return;
  }
  constexpr int64_t edge = 3;
  const int64_t n = s[axis];
  out += '[';
  for (int64_t i = 0; i < n; ++i) {
    if (i) out += axis + 1 == s.rank() ? ", " : ",\n" + std::string(static_cast<size_t>(axis) + 1, ' ');
    if (n > 2 * edge + 2 && i == edge) {
      out += "..., ";
      i = n - edge;
    }
    print_axis(out, data + i * st[axis] * static_cast<int64_t>(element), s, st, axis + 1, element, t);
  }
  out += ']';
}
}  // namespace

std::string Tensor::to_string() const {
  if (!defined()) return "tensor(undefined)";
  std::vector<char> raw(static_cast<size_t>(numel()) * size_of(dtype()));
  copy_to_host(raw.data(), dtype());
  std::string out;
  print_axis(out, raw.data(), shape(), contiguous_strides(shape()), 0, size_of(dtype()), dtype());
  return out + fmt::format(" {} {}", dtype(), shape());
}

namespace {
// Without running or copying anything: what a debugger may ask for in any state of the program.
std::string described(const Value& v) {
  std::string out = fmt::format("{} {} on {}: ", v.dtype, v.shape, v.device->name());
  if (!v.storage) return out + "pending";
  if (!v.device->host_accessible()) return out + "in memory that the host cannot read";
  const int64_t count = flame::numel(v.shape), shown = std::min<int64_t>(count, 8);
  const char* base = static_cast<const char*>(v.storage->data());
  for (int64_t i = 0; i < shown; ++i) {
    int64_t offset = v.offset, rest = i;
    for (int axis = v.shape.rank() - 1; axis >= 0; --axis) {
      offset += rest % v.shape[axis] * v.strides[axis];
      rest /= v.shape[axis];
    }
    const char* element = base + offset * static_cast<int64_t>(size_of(v.dtype));
    out += (i ? ", " : "[") + format_element(element, v.dtype);
  }
  return out + (count == 0 ? "[]" : shown < count ? ", ...]" : "]");
}
}  // namespace

}  // namespace flame

// For tools/gdb_printers.py, which calls them by name.
extern "C" [[gnu::used]] const char* flame_describe_value(const flame::Value* v) {
  static thread_local std::string text;
  text = flame::described(*v);
  return text.c_str();
}
extern "C" [[gnu::used]] const char* flame_describe_state(const flame::StateCell* cell) {
  return flame_describe_value(cell->value.get());
}
