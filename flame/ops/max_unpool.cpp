// max_unpool, composed: a scatter along planes laid flat.
#include "flame/ops/max_unpool.h"

#include <algorithm>
#include <limits>

#include "flame/autograd/op_scope.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/samples_internal.h"
#include "flame/ops/scatter_internal.h"

namespace flame {
namespace {

constexpr const char* names[] = {"", "max_unpool1d", "max_unpool2d", "max_unpool3d"};

template <int axes>
void check(const Tensor& x, const Tensor& indices, const MaxUnpoolOptions<axes>& o, Loc loc) {
  const char* op = names[axes];
  check_inputs(op, {&x, &indices}, loc);
  if (x.rank() != axes + 1 && x.rank() != axes + 2)
    fail<ShapeError>(loc, "{}: expected x of rank {} or {}, got {}", op, axes + 1, axes + 2, x.shape());
  if (indices.shape() != x.shape())
    fail<ShapeError>(loc, "{}: expected indices of x's shape {}, got {}", op, x.shape(), indices.shape());
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  for (int i = 0; i < axes; ++i)
    if (o.kernel[i] < 1 || o.stride[i] < 0 || o.padding[i] < 0 ||
        std::max({o.kernel[i], o.stride[i], o.padding[i]}) > most)
      fail<ValueError>(loc, "{}: expected a kernel of 1 or more, stride and padding of 0 or more, got {}, {} and {}",
                       op, o.kernel.dims(), o.stride.dims(), o.padding.dims());
}

// Of the result's planes.
template <int axes>
Dims sizes_of(const Tensor& x, const MaxUnpoolOptions<axes>& o, Loc loc) {
  Dims sizes;
  for (int i = 0; i < axes; ++i) {
    const int64_t step = o.stride[i] ? o.stride[i] : o.kernel[i];
    const int64_t usual = (x.shape()[x.rank() - axes + i] - 1) * step - 2 * o.padding[i] + o.kernel[i];
    sizes.push_back(o.output_size ? (*o.output_size)[i] : usual);
    if (sizes[i] < 1 || sizes[i] <= usual - step || sizes[i] >= usual + step)
      fail<ShapeError>(loc,
                       "{}: expected output sizes of 1 or more and less than {} from {} along axis {} of x {}, got {}",
                       names[axes], step, usual, x.rank() - axes + i, x.shape(), sizes[i]);
  }
  return sizes;
}

template <int axes>
Tensor max_unpool(const Tensor& x, const Tensor& indices, const MaxUnpoolOptions<axes>& o, Loc loc) {
  const OpScope scope(names[axes]);
  check(x, indices, o, loc);
  const Dims sizes = sizes_of(x, o, loc);
  Shape out;
  int64_t planes = 1, plane = 1;
  for (int i = 0; i < x.rank() - axes; ++i) {
    out.push_back(x.shape()[i]);
    planes *= x.shape()[i];
  }
  for (int i = 0; i < axes; ++i) {
    out.push_back(sizes[i]);
    plane *= x.shape()[x.rank() - axes + i];
  }
  check_sizes(names[axes], out, loc);
  const Tensor nothing = zeros({planes, numel(sizes)}, x.dtype(), x.device(), loc);
  return scatter_combined(names[axes], ScatterMode::assign, nothing, 1, indices.reshape({planes, plane}, loc),
                          x.reshape({planes, plane}, loc), loc)
      .reshape(out, loc);
}

}  // namespace

Tensor max_unpool1d(const Tensor& x, const Tensor& indices, const MaxUnpool1dOptions& o, Loc loc) {
  return max_unpool(x, indices, o, loc);
}
Tensor max_unpool2d(const Tensor& x, const Tensor& indices, const MaxUnpool2dOptions& o, Loc loc) {
  return max_unpool(x, indices, o, loc);
}
Tensor max_unpool3d(const Tensor& x, const Tensor& indices, const MaxUnpool3dOptions& o, Loc loc) {
  return max_unpool(x, indices, o, loc);
}

namespace {

template <int axes>
RegisterOp unpooling(const char* signature,
                     Tensor (*fn)(const Tensor&, const Tensor&, const MaxUnpoolOptions<axes>&, Loc)) {
  return RegisterOp({.name = names[axes],
                     .signature = signature,
                     .formula = "x at its indices in zeros of a larger plane",
                     .samples = [fn](DType t) {
                       const auto planes = [](int64_t n) {
                         Shape s{2, 3};
                         for (int i = 0; i < axes; ++i) s.push_back(n);
                         return s;
                       };
                       const auto with = [fn](const Tensor& at) {
                         return [fn, at](const std::vector<Tensor>& in) {
                           return std::vector<Tensor>{fn(in[0], at, {.kernel = 2}, Loc::current())};
                         };
                       };
                       const Shape s = planes(2);
                       const int64_t places_there = numel(planes(4)) / 6;
                       std::vector<int64_t> at(static_cast<size_t>(numel(s)));
                       for (size_t i = 0; i < at.size(); ++i) at[i] = static_cast<int64_t>(i) * 5 % places_there;
                       const Tensor places = Tensor::from(at, s);
                       Shape one = s;
                       one.erase(0);
                       return std::vector<SampleCase>{
                           {{samples::uniform(s, t)}, with(places), "dense"},
                           {{samples::strided(s, t)}, with(places), "strided"},
                           {{samples::uniform(one, t)}, with(places.select(0, 1)), "one sample"},
                       };
                     }});
}
const RegisterOp registered[] = {
    unpooling<1>("max_unpool1d(x, indices, {kernel, stride, padding, output_size})", max_unpool1d),
    unpooling<2>("max_unpool2d(x, indices, {kernel, stride, padding, output_size})", max_unpool2d),
    unpooling<3>("max_unpool3d(x, indices, {kernel, stride, padding, output_size})", max_unpool3d),
};

}  // namespace

}  // namespace flame
