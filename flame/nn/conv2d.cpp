// Conv2d: checks its sizes, draws its filters, and leaves the convolution to ops/conv2d.h.
#include "flame/nn/conv2d.h"

#include <cmath>

#include "flame/core/format.h"
#include "flame/ops/conv2d.h"
#include "flame/ops/random.h"

namespace flame::nn {
namespace {
std::string text(const Pair& p) {
  return p.height == p.width ? fmt::format("{}", p.height) : fmt::format("{}x{}", p.height, p.width);
}
bool at_least(const Pair& p, int64_t least) { return p.height >= least && p.width >= least; }

const Conv2dOptions& checked(const Conv2dOptions& o, Loc loc) {
  if (o.in < 1 || o.out < 1 || o.groups < 1 || !at_least(o.kernel, 1) || !at_least(o.stride, 1) ||
      !at_least(o.padding, 0) || !at_least(o.dilation, 1))
    fail<ValueError>(
        loc,
        "Conv2d: expected sizes of 1 or more and padding of 0 or more, got in {}, out {}, kernel {}, stride {}, "
        "padding {}, dilation {}, groups {}",
        o.in, o.out, text(o.kernel), text(o.stride), text(o.padding), text(o.dilation), o.groups);
  if (o.in % o.groups || o.out % o.groups)
    fail<ValueError>(loc, "Conv2d: expected channels that {} groups divide, got in {} and out {}", o.groups, o.in,
                     o.out);
  if (!is_float(o.dtype)) fail<DTypeError>(loc, "Conv2d: expected a floating dtype, got {}", o.dtype);
  return o;
}
Shape weight_shape(const Conv2dOptions& o) { return {o.out, o.in / o.groups, o.kernel.height, o.kernel.width}; }
Tensor draw(const Shape& shape, const Conv2dOptions& o, Loc loc) {
  const int64_t fan_in = o.in / o.groups * o.kernel.height * o.kernel.width;
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  return flame::uniform(shape, -bound, bound, {.dtype = o.dtype}, loc);
}
}  // namespace

Conv2d::Conv2d(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked(o, loc)),
      weight(*this, "weight", draw(weight_shape(o), o, loc), loc),
      bias(*this, "bias", o.bias ? draw({o.out}, o, loc) : Tensor{}, loc) {}

Tensor Conv2d::forward(const Tensor& x, Loc loc) {
  return conv2d(
      x, weight.tensor(), bias.defined() ? bias.tensor() : Tensor{},
      {.stride = options.stride, .padding = options.padding, .dilation = options.dilation, .groups = options.groups},
      loc);
}

std::string Conv2d::kind() const {
  std::string out = fmt::format("Conv2d({}, {}, kernel {}", options.in, options.out, text(options.kernel));
  if (options.stride != 1) out += fmt::format(", stride {}", text(options.stride));
  if (options.padding != 0) out += fmt::format(", padding {}", text(options.padding));
  if (options.dilation != 1) out += fmt::format(", dilation {}", text(options.dilation));
  if (options.groups != 1) out += fmt::format(", groups {}", options.groups);
  return out + (options.bias ? ")" : ", no bias)");
}

}  // namespace flame::nn
