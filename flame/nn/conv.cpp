// Convolution layers: they check their sizes, draw their filters, and leave the convolution to ops/conv.h.
#include "flame/nn/conv.h"

#include <cmath>

#include "flame/nn/sizes_internal.h"
#include "flame/ops/random.h"

namespace flame::nn {
namespace {

template <int axes>
bool at_least(const PerAxis<axes>& p, int64_t least) {
  for (int i = 0; i < axes; ++i)
    if (p[i] < least) return false;
  return true;
}
// What both kinds of options share. `name`: the layer's.
template <class O>
const O& checked(const std::string& name, const O& o, Loc loc) {
  if (o.in < 1 || o.out < 1 || o.groups < 1 || !at_least(o.kernel, 1) || !at_least(o.stride, 1) ||
      !at_least(o.padding, 0) || !at_least(o.dilation, 1))
    fail<ValueError>(
        loc,
        "{}: expected sizes of 1 or more and padding of 0 or more, got in {}, out {}, kernel {}, stride {}, "
        "padding {}, dilation {}, groups {}",
        name, o.in, o.out, text(o.kernel), text(o.stride), text(o.padding), text(o.dilation), o.groups);
  if (o.in % o.groups || o.out % o.groups)
    fail<ValueError>(loc, "{}: expected channels that {} groups divide, got in {} and out {}", name, o.groups, o.in,
                     o.out);
  if (!is_float(o.dtype)) fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", name, o.dtype);
  return o;
}
template <int axes>
std::string conv_name() {
  return fmt::format("Conv{}d", axes);
}
template <int axes>
std::string transpose_name() {
  return fmt::format("ConvTranspose{}d", axes);
}

template <int axes>
Shape weight_shape(int64_t filters, int64_t channels, const PerAxis<axes>& kernel) {
  Shape s{filters, channels};
  for (int i = 0; i < axes; ++i) s.push_back(kernel[i]);
  return s;
}
// Uniform on +-1 / sqrt(the weights of a filter): PyTorch's kaiming_uniform with a = sqrt(5).
Tensor draw(const Shape& shape, const Shape& weight, DType t, Loc loc) {
  const double bound = 1 / std::sqrt(static_cast<double>(numel(weight) / weight[0]));
  return flame::uniform(shape, -bound, bound, {.dtype = t}, loc);
}
template <int axes>
Shape weight_shape(const ConvOptions<axes>& o) {
  return weight_shape(o.out, o.in / o.groups, o.kernel);
}
template <int axes>
Shape weight_shape(const ConvTransposeOptions<axes>& o) {
  return weight_shape(o.in, o.out / o.groups, o.kernel);
}

// What both kinds of layers say of themselves.
template <class O>
std::string common_text(const std::string& name, const O& o) {
  std::string out = fmt::format("{}({}, {}, kernel {}", name, o.in, o.out, text(o.kernel));
  if (o.stride != 1) out += fmt::format(", stride {}", text(o.stride));
  if (o.padding != 0) out += fmt::format(", padding {}", text(o.padding));
  if (o.dilation != 1) out += fmt::format(", dilation {}", text(o.dilation));
  if (o.groups != 1) out += fmt::format(", groups {}", o.groups);
  return out;
}

}  // namespace

template <int axes>
Conv<axes>::Conv(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked(conv_name<axes>(), o, loc)),
      weight(*this, "weight", draw(weight_shape(o), weight_shape(o), o.dtype, loc), loc),
      bias(*this, "bias", o.bias ? draw({o.out}, weight_shape(o), o.dtype, loc) : Tensor{}, loc) {}

template <int axes>
Tensor Conv<axes>::forward(const Tensor& x, Loc loc) {
  const Tensor w = weight.tensor(), b = bias.defined() ? bias.tensor() : Tensor{};
  flame::ConvOptions<axes> o{
      .stride = options.stride, .padding = options.padding, .dilation = options.dilation, .groups = options.groups};
  if constexpr (axes == 1) return conv1d(x, w, b, o, loc);
  else if constexpr (axes == 2) return conv2d(x, w, b, o, loc);
  else return conv3d(x, w, b, o, loc);
}

template <int axes>
std::string Conv<axes>::kind() const {
  std::string out = common_text(conv_name<axes>(), options);
  return out + (options.bias ? ")" : ", no bias)");
}

template <int axes>
ConvTranspose<axes>::ConvTranspose(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked(transpose_name<axes>(), o, loc)),
      weight(*this, "weight", draw(weight_shape(o), weight_shape(o), o.dtype, loc), loc),
      bias(*this, "bias", o.bias ? draw({o.out}, weight_shape(o), o.dtype, loc) : Tensor{}, loc) {}

template <int axes>
Tensor ConvTranspose<axes>::forward(const Tensor& x, Loc loc) {
  const Tensor w = weight.tensor(), b = bias.defined() ? bias.tensor() : Tensor{};
  const flame::ConvTransposeOptions<axes> o{.stride = options.stride,
                                            .padding = options.padding,
                                            .output_padding = options.output_padding,
                                            .dilation = options.dilation,
                                            .groups = options.groups};
  if constexpr (axes == 1) return conv_transpose1d(x, w, b, o, loc);
  else if constexpr (axes == 2) return conv_transpose2d(x, w, b, o, loc);
  else return conv_transpose3d(x, w, b, o, loc);
}

template <int axes>
std::string ConvTranspose<axes>::kind() const {
  std::string out = common_text(transpose_name<axes>(), options);
  if (options.output_padding != 0) out += fmt::format(", output padding {}", text(options.output_padding));
  return out + (options.bias ? ")" : ", no bias)");
}

template class Conv<1>;
template class Conv<2>;
template class Conv<3>;
template class ConvTranspose<1>;
template class ConvTranspose<2>;
template class ConvTranspose<3>;

}  // namespace flame::nn
