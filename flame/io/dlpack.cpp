// Export: one heap block holds the structure, its shape and strides, and a handle on the tensor. Import: a Storage
// whose release calls the producer's deleter.
#include "flame/io/dlpack.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "flame/core/format.h"
#include "flame/device/recorder.h"
#include "flame/io/elements_internal.h"

namespace flame::io {

using namespace dlpack;

namespace {

struct TypeRow {
  DType dtype;
  uint8_t code, bits;
};
constexpr TypeRow types[] = {{DType::boolean, kDLBool, 8}, {DType::u8, kDLUInt, 8},    {DType::i8, kDLInt, 8},
                             {DType::i32, kDLInt, 32},     {DType::i64, kDLInt, 64},   {DType::f16, kDLFloat, 16},
                             {DType::bf16, kDLBfloat, 16}, {DType::f32, kDLFloat, 32}, {DType::f64, kDLFloat, 64}};

template <class Managed>
struct Exported {
  Managed managed{};
  Tensor tensor;
  Shape shape;
  Strides strides;
};

template <class Managed>
Exported<Managed>* exported(const Tensor& t, bool copy, Loc loc) {
  if (Recorder::current())
    fail<RecordError>(loc, "to_dlpack: an address is frozen inside a recorded step; return the tensor from it instead");
  if (t.device().kind() != Device::Kind::cpu)
    fail<DeviceError>(loc, "to_dlpack: expected a tensor on the CPU, got {}", t.device().name());
  auto out = std::make_unique<Exported<Managed>>();
  t.data();  // materialises
  if (copy) {
    out->tensor = Tensor::empty(t.shape(), t.dtype(), t.device(), loc);
    t.copy_to_host(out->tensor.data(), t.dtype(), loc);
  } else {
    out->tensor = t.detach();
  }
  out->shape = out->tensor.shape();
  out->strides = out->tensor.strides();
  const auto* type = std::find_if(std::begin(types), std::end(types), [&](auto& r) { return r.dtype == t.dtype(); });
  out->managed.dl_tensor = {.data = out->tensor.data(),
                            .device = {kDLCPU, 0},
                            .ndim = t.rank(),
                            .dtype = {type->code, type->bits, 1},
                            .shape = &out->shape[0],
                            .strides = &out->strides[0],
                            .byte_offset = 0};
  out->managed.manager_ctx = out.get();
  out->managed.deleter = [](Managed* self) { delete static_cast<Exported<Managed>*>(self->manager_ctx); };
  return out.release();
}

DType dtype_of(const DLDataType& t, Loc loc) {
  if (t.lanes == 1)
    for (const TypeRow& r : types)
      if (r.code == t.code && r.bits == t.bits) return r.dtype;
  constexpr const char* codes[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
  fail<DTypeError>(loc, "from_dlpack: no dtype for {} of {} bits in {} lanes",
                   t.code < std::size(codes) ? codes[t.code] : "an unknown type", t.bits, t.lanes);
}

Dims dims(const int64_t* values, int rank) {
  return values ? Dims(std::span<const int64_t>(values, static_cast<size_t>(rank))) : Dims();
}

// How far the elements reach below and above element 0, or nothing if that does not fit in 62 bits of bytes.
struct Reach {
  int64_t low = 0, high = 0;
};
std::optional<Reach> reach_of(const Shape& shape, const Strides& strides, int64_t element) {
  Reach r;
  for (int i = 0; i < shape.rank(); ++i) {
    int64_t way;
    if (__builtin_mul_overflow(shape[i] - 1, strides[i], &way)) return {};
    int64_t& end = way < 0 ? r.low : r.high;
    if (__builtin_add_overflow(end, way, &end)) return {};
  }
  constexpr int64_t limit = int64_t{1} << 62;
  if (r.low < -limit / element || r.high >= limit / element) return {};
  return r;
}

template <class Managed>
Tensor imported(Managed* from, Loc loc) {
  const DLTensor& t = from->dl_tensor;
  if (Recorder::current())
    fail<RecordError>(loc, "from_dlpack: an address is frozen inside a recorded step; pass the tensor as an argument");
  if (t.device.device_type != kDLCPU && t.device.device_type != kDLCUDAHost)
    fail<DeviceError>(loc, "from_dlpack: expected memory of the CPU, got device type {}", t.device.device_type);
  const DType dtype = dtype_of(t.dtype, loc);
  const auto element = static_cast<int64_t>(size_of(dtype));
  if (t.ndim < 0 || t.ndim > max_rank)
    fail<ValueError>(loc, "from_dlpack: {} axes, expected 0 to {}", t.ndim, max_rank);
  if (t.ndim > 0 && !t.shape) fail<ValueError>(loc, "from_dlpack: no shape for {} axes", t.ndim);
  const Shape shape = dims(t.shape, t.ndim);
  const auto bytes = byte_size(size_of(dtype), shape);
  if (!bytes) fail<ValueError>(loc, "from_dlpack: shape {} is negative or too large", shape);
  const Strides strides = t.strides ? dims(t.strides, t.ndim) : contiguous_strides(shape);
  const auto reach = *bytes > 0 ? reach_of(shape, strides, element) : Reach{};
  if (!reach) fail<ValueError>(loc, "from_dlpack: shape {} with strides {} is too large", shape, strides);
  if (!t.data && *bytes > 0) fail<ValueError>(loc, "from_dlpack: expected an address, got null");
  char* first = t.data ? static_cast<char*>(t.data) + t.byte_offset : nullptr;
  if (reinterpret_cast<uintptr_t>(first) % static_cast<uintptr_t>(element) != 0)
    fail<ValueError>(loc, "from_dlpack: the address is not aligned to the {} bytes of {}", element, dtype);

  const int64_t covered = *bytes > 0 ? (reach->high - reach->low + 1) * element : 0;
  Ref<Value> v = make_ref<Value>(cpu(), dtype, shape, strides);
  v->offset = -reach->low;
  v->storage = make_ref<Storage>(cpu(), first + reach->low * element, static_cast<size_t>(covered), [from] {
    if (from->deleter) from->deleter(from);
  });
  return Tensor(std::move(v));
}

}  // namespace

DLManagedTensorVersioned* to_dlpack(const Tensor& t, const DlpackOptions& options, Loc loc) {
  const bool copy = options.copy || t.value().cell;
  auto* out = exported<DLManagedTensorVersioned>(t, copy, loc);
  out->managed.version = version;
  out->managed.flags = copy ? is_copied : read_only;
  return &out->managed;
}

DLManagedTensor* to_dlpack_legacy(const Tensor& t, Loc loc) {
  return &exported<DLManagedTensor>(t, true, loc)->managed;
}

Tensor from_dlpack(DLManagedTensorVersioned* from, Loc loc) {
  if (!from) fail<ValueError>(loc, "from_dlpack: expected a managed tensor, got null");
  if (from->version.major != version.major)
    fail<ValueError>(loc, "from_dlpack: version {}.{}, expected 1.x", from->version.major, from->version.minor);
  return imported(from, loc);
}

Tensor from_dlpack(DLManagedTensor* from, Loc loc) {
  if (!from) fail<ValueError>(loc, "from_dlpack: expected a managed tensor, got null");
  return imported(from, loc);
}

}  // namespace flame::io
