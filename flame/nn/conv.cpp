// Convolution layers: they check their sizes, draw their filters, and leave the convolution to ops/conv.h.
#include "flame/nn/conv.h"

#include <cmath>

#include "flame/nn/sizes_internal.h"
#include "flame/ops/cat.h"
#include "flame/ops/random.h"
#include "flame/ops/view.h"

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
  const int64_t inputs = numel(weight) / weight[0];
  const double bound = 1 / std::sqrt(static_cast<double>(inputs));
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

constexpr const char* padding_names[] = {"zeros", "reflect", "replicate", "circular"};

// x with `before` and `after` more elements along an axis, taken from x itself.
Tensor padded_axis(const Tensor& x, int axis, int64_t before, int64_t after, PaddingMode mode, Loc loc) {
  const int64_t n = x.size(axis, loc), most = mode == PaddingMode::reflect ? n - 1 : n;
  if (n < 1 || (mode != PaddingMode::replicate && std::max(before, after) > most))
    fail<ShapeError>(loc, "Conv: {} padding of {} and {} needs more than axis {} of x {} has",
                     padding_names[static_cast<int>(mode)], before, after, axis, x.shape());
  const auto piece = [&](int64_t count, bool front) {
    if (mode == PaddingMode::circular) return x.narrow(axis, front ? n - count : 0, count, loc);
    if (mode == PaddingMode::reflect) return flip(x.narrow(axis, front ? 1 : n - 1 - count, count, loc), {axis}, loc);
    const Tensor edge = x.narrow(axis, front ? 0 : n - 1, 1, loc);
    Shape s = edge.shape();
    s[axis] = count;
    return edge.expand(s, loc);
  };
  std::vector<Tensor> all;
  if (before > 0) all.push_back(piece(before, true));
  all.push_back(x);
  if (after > 0) all.push_back(piece(after, false));
  return all.size() == 1 ? x : cat(all, axis, loc);
}
template <int axes>
Tensor padded(const Tensor& x, const ConvOptions<axes>& o, Loc loc) {
  Tensor y = x;
  for (int i = 0; i < axes && x.rank() > axes; ++i) {
    const int64_t both = o.padding.same() ? o.dilation[i] * (o.kernel[i] - 1) : 2 * o.padding[i];
    y = padded_axis(y, x.rank() - axes + i, both / 2, both - both / 2, o.padding_mode, loc);
  }
  return y;
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
  const bool zeros = options.padding_mode == PaddingMode::zeros;
  if (!zeros) o.padding = 0;
  const Tensor in = zeros ? x : padded(x, options, loc);
  if constexpr (axes == 1) return conv1d(in, w, b, o, loc);
  else if constexpr (axes == 2) return conv2d(in, w, b, o, loc);
  else return conv3d(in, w, b, o, loc);
}

template <int axes>
std::string Conv<axes>::kind() const {
  std::string out = common_text(conv_name<axes>(), options);
  if (options.padding_mode != PaddingMode::zeros)
    out += fmt::format(", {}", padding_names[static_cast<int>(options.padding_mode)]);
  return out + (options.bias ? ")" : ", no bias)");
}

template <int axes>
ConvTranspose<axes>::ConvTranspose(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked(transpose_name<axes>(), o, loc)),
      weight(*this, "weight", draw(weight_shape(o), weight_shape(o), o.dtype, loc), loc),
      bias(*this, "bias", o.bias ? draw({o.out}, weight_shape(o), o.dtype, loc) : Tensor{}, loc) {}

template <int axes>
Tensor ConvTranspose<axes>::run(const Tensor& x, const PerAxis<axes>& output_padding, Loc loc) const {
  const Tensor w = weight.tensor(), b = bias.defined() ? bias.tensor() : Tensor{};
  const flame::ConvTransposeOptions<axes> o{.stride = options.stride,
                                            .padding = options.padding,
                                            .output_padding = output_padding,
                                            .dilation = options.dilation,
                                            .groups = options.groups};
  if constexpr (axes == 1) return conv_transpose1d(x, w, b, o, loc);
  else if constexpr (axes == 2) return conv_transpose2d(x, w, b, o, loc);
  else return conv_transpose3d(x, w, b, o, loc);
}
template <int axes>
Tensor ConvTranspose<axes>::forward(const Tensor& x, Loc loc) {
  return run(x, options.output_padding, loc);
}
template <int axes>
Tensor ConvTranspose<axes>::forward(const Tensor& x, const PerAxis<axes>& output_size, Loc loc) {
  if (!x.defined() || x.rank() <= axes || x.rank() > axes + 2) return forward(x, loc);  // which throws
  Dims least, most, more;
  bool fits = true;
  for (int i = 0; i < axes; ++i) {
    least.push_back((x.shape()[x.rank() - axes + i] - 1) * options.stride[i] - 2 * options.padding[i] +
                    options.dilation[i] * (options.kernel[i] - 1) + 1);
    most.push_back(least[i] + options.stride[i] - 1);
    more.push_back(output_size[i] - least[i]);
    fits &= more[i] >= 0 && output_size[i] <= most[i];
  }
  if (!fits)
    fail<ShapeError>(loc, "{}: expected an output_size from {} to {} for x {}, got {}", transpose_name<axes>(), least,
                     most, x.shape(), output_size.dims());
  PerAxis<axes> padding = 0;
  if constexpr (axes == 1) padding = {more[0]};
  else if constexpr (axes == 2) padding = {more[0], more[1]};
  else padding = {more[0], more[1], more[2]};
  return run(x, padding, loc);
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
