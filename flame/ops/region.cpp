// Reading a region costs no kernel; writing one copies the tensor and then the value into its place.
#include "flame/ops/region_internal.h"

#include "flame/device/cpu/strided_copy.h"
#include "flame/ops/create.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/view_internal.h"

namespace flame {
namespace {

// (value, x) -> x with the value in the region; without x: zeros instead.
class RegionPut final : public Op {
 public:
  RegionPut(const char* name, const Shape& shape, const Region& region, bool onto_zeros)
      : name_(name), shape_(shape), region_(region), onto_zeros_(onto_zeros) {}
  const char* name() const override { return name_; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {{in[0].dtype(), shape_,
             onto_zeros_ ? contiguous_strides(shape_) : dense_strides_like(shape_, in[1].strides())}};
  }
  void key(Key& k) const override {
    k << "region" << shape_ << region_.start << region_.count << region_.step << onto_zeros_;
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const auto element = static_cast<int64_t>(size_of(out[0].dtype));
    Strides to = out[0].strides;
    int64_t skip = 0;
    for (int i = 0; i < shape_.rank(); ++i) {
      skip += region_.start[i] * to[i] * element;
      to[i] *= region_.step[i];
    }
    const auto size = static_cast<size_t>(element);
    const DeviceCopy value(d, region_.count, to, in[0].strides, size);
    const DeviceCopy base(d, shape_, out[0].strides, onto_zeros_ ? out[0].strides : in[1].strides, size);
    return make_ref<Plan>(name_, [&d, value, base, skip, onto_zeros = onto_zeros_,
                                  bytes = static_cast<size_t>(numel(shape_) * element)](const Run& r) {
      char* out = static_cast<char*>(r.buffers[onto_zeros ? 1 : 2]);
      if (onto_zeros) d.fill_bytes(out, 0, bytes);
      else base(out, r.buffers[1]);
      value(out + skip, r.buffers[0]);
    });
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const auto element = static_cast<int64_t>(size_of(out[0].dtype));
    Strides to = out[0].strides;
    int64_t skip = 0;
    for (int i = 0; i < shape_.rank(); ++i) {
      skip += region_.start[i] * to[i] * element;
      to[i] *= region_.step[i];
    }
    const auto size = static_cast<size_t>(element);
    const StridedCopy value(region_.count, to, in[0].strides, size);
    if (onto_zeros_)
      return make_ref<Plan>(name_, [value, skip, bytes = numel(shape_) * element](const Run& r) {
        char* out = static_cast<char*>(r.buffers[1]);
        parallel_for(bytes, 8 * elements_per_piece, [&](int64_t begin, int64_t end) {
          std::memset(out + begin, 0, static_cast<size_t>(end - begin));
        });
        value(out + skip, r.buffers[0]);
      });
    return make_ref<Plan>(name_,
                          [value, skip, base = StridedCopy(shape_, out[0].strides, in[1].strides, size)](const Run& r) {
                            base(r.buffers[2], r.buffers[1]);
                            value(static_cast<char*>(r.buffers[2]) + skip, r.buffers[0]);
                          });
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override {
    const Loc& loc = v.call_site();
    const Tensor g = v.grad(0);
    if (v.needs(0)) v.give(0, region_view(name_, g, region_, loc));
    if (onto_zeros_ || !v.needs(1)) return;
    v.give(1, region_put(name_, g, region_, zeros({}, g.dtype(), g.device(), loc).expand(region_.count, loc), loc));
  }

 private:
  const char* name_;
  Shape shape_;
  Region region_;
  bool onto_zeros_;
};

}  // namespace

bool Region::whole(const Shape& shape) const {
  for (int i = 0; i < shape.rank(); ++i)
    if (start[i] != 0 || count[i] != shape[i] || (step[i] != 1 && shape[i] > 1)) return false;
  return true;
}

Tensor region_view(const char* op, const Tensor& x, const Region& r, Loc loc) {
  if (r.whole(x.shape())) return x;
  Strides st = x.strides();
  int64_t skip = 0;
  for (int i = 0; i < x.rank(); ++i) {
    if (r.count[i]) skip += r.start[i] * st[i];
    st[i] *= r.step[i];
  }
  if (numel(r.count) == 0) skip = 0;
  return with_opposite(
      op, x, strided_view(x, r.count, st, skip),
      [op, from = x.shape(), r, loc](const Tensor& g) {
        return dispatch(make_ref<RegionPut>(op, from, r, true), {g}, loc);
      },
      loc);
}

Tensor region_put(const char* op, const Tensor& x, const Region& r, const Tensor& value, Loc loc) {
  return dispatch(make_ref<RegionPut>(op, x.shape(), r, false), {value, x}, loc);
}

}  // namespace flame
