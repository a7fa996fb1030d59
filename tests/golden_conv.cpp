// How the golden loop calls the convolutions, pools, resampling, unfold and fold.
#include "tests/support/golden.h"

namespace flame::test {
namespace {

using In = const std::vector<Tensor>&;
using O = const Json&;
using Out = std::vector<Tensor>;

template <int axes>
PerAxis<axes> each(O o, const char* key, int64_t otherwise) {
  if (!o.contains(key)) return otherwise;
  const Dims d = dims_of(o[key]);
  if constexpr (axes == 1) return d[0];
  else if constexpr (axes == 2) return {d[0], d[1]};
  else return {d[0], d[1], d[2]};
}
template <int axes>
ConvOptions<axes> conv_options(O o) {
  ConvOptions<axes> c{.stride = each<axes>(o, "stride", 1),
                      .dilation = each<axes>(o, "dilation", 1),
                      .groups = o.value("groups", int64_t{1}),
                      .activation = activation_of(o)};
  if (o.contains("padding") && o["padding"].is_string())
    c.padding = o["padding"] == "same" ? Padding::same : Padding::valid;
  else c.padding = each<axes>(o, "padding", 0);
  return c;
}
template <int axes>
ConvTransposeOptions<axes> transpose_options(O o) {
  return {.stride = each<axes>(o, "stride", 1),
          .padding = each<axes>(o, "padding", 0),
          .output_padding = each<axes>(o, "output_padding", 0),
          .dilation = each<axes>(o, "dilation", 1),
          .groups = o.value("groups", int64_t{1})};
}
template <int axes>
MaxPoolOptions<axes> max_options(O o) {
  return {.kernel = each<axes>(o, "kernel", 2),
          .stride = each<axes>(o, "stride", 0),
          .padding = each<axes>(o, "padding", 0),
          .dilation = each<axes>(o, "dilation", 1),
          .ceil_mode = o.value("ceil_mode", false)};
}
template <int axes>
AvgPoolOptions<axes> avg_options(O o) {
  return {.kernel = each<axes>(o, "kernel", 2),
          .stride = each<axes>(o, "stride", 0),
          .padding = each<axes>(o, "padding", 0),
          .ceil_mode = o.value("ceil_mode", false),
          .count_include_pad = o.value("count_include_pad", true),
          .divisor_override = o.value("divisor", int64_t{0})};
}
template <int axes>
PerAxis<axes> output_size(O o) {
  return each<axes>(o, "size", 1);
}
Out both(const MaxPooled& p) { return {p.values, p.indices}; }

InterpolateMode mode_named(const std::string& name) {
  using Mode = InterpolateMode;
  for (Mode m :
       {Mode::nearest, Mode::nearest_exact, Mode::linear, Mode::bilinear, Mode::bicubic, Mode::trilinear, Mode::area})
    if (name == name_of(m)) return m;
  throw std::runtime_error("no mode " + name);
}
UnfoldOptions unfold_options(O o) {
  return {.kernel = pair_of(o, "kernel", 2),
          .dilation = pair_of(o, "dilation", 1),
          .padding = pair_of(o, "padding", 0),
          .stride = pair_of(o, "stride", 1)};
}

const AddGoldenCalls calls([](GoldenCalls& f) {
  f["conv1d"] = [](In in, O o) { return Out{conv1d(in[0], in[1], at(in, 2), conv_options<1>(o))}; };
  f["conv2d"] = [](In in, O o) { return Out{conv2d(in[0], in[1], at(in, 2), conv_options<2>(o))}; };
  f["conv3d"] = [](In in, O o) { return Out{conv3d(in[0], in[1], at(in, 2), conv_options<3>(o))}; };
  f["conv_transpose1d"] = [](In in, O o) {
    return Out{conv_transpose1d(in[0], in[1], at(in, 2), transpose_options<1>(o))};
  };
  f["conv_transpose2d"] = [](In in, O o) {
    return Out{conv_transpose2d(in[0], in[1], at(in, 2), transpose_options<2>(o))};
  };
  f["conv_transpose3d"] = [](In in, O o) {
    return Out{conv_transpose3d(in[0], in[1], at(in, 2), transpose_options<3>(o))};
  };
  f["max_pool1d"] = [](In in, O o) { return both(max_pool1d_with_indices(in[0], max_options<1>(o))); };
  f["max_pool2d"] = [](In in, O o) { return Out{max_pool2d(in[0], max_options<2>(o))}; };
  f["max_pool3d"] = [](In in, O o) { return both(max_pool3d_with_indices(in[0], max_options<3>(o))); };
  f["avg_pool1d"] = [](In in, O o) { return Out{avg_pool1d(in[0], avg_options<1>(o))}; };
  f["avg_pool2d"] = [](In in, O o) { return Out{avg_pool2d(in[0], avg_options<2>(o))}; };
  f["avg_pool3d"] = [](In in, O o) { return Out{avg_pool3d(in[0], avg_options<3>(o))}; };
  f["adaptive_max_pool1d"] = [](In in, O o) {
    return both(adaptive_max_pool1d_with_indices(in[0], output_size<1>(o)));
  };
  f["adaptive_max_pool2d"] = [](In in, O o) {
    return both(adaptive_max_pool2d_with_indices(in[0], output_size<2>(o)));
  };
  f["adaptive_max_pool3d"] = [](In in, O o) {
    return both(adaptive_max_pool3d_with_indices(in[0], output_size<3>(o)));
  };
  f["adaptive_avg_pool1d"] = [](In in, O o) { return Out{adaptive_avg_pool1d(in[0], output_size<1>(o))}; };
  f["adaptive_avg_pool2d"] = [](In in, O o) { return Out{adaptive_avg_pool2d(in[0], output_size<2>(o))}; };
  f["adaptive_avg_pool3d"] = [](In in, O o) { return Out{adaptive_avg_pool3d(in[0], output_size<3>(o))}; };
  f["interpolate"] = [](In in, O o) {
    return Out{interpolate(in[0], {.size = o.value("size", std::vector<int64_t>{}),
                                   .scale_factor = o.value("scale_factor", std::vector<double>{}),
                                   .mode = mode_named(o["mode"]),
                                   .align_corners = o.value("align_corners", false),
                                   .recompute_scale_factor = o.value("recompute_scale_factor", false),
                                   .antialias = o.value("antialias", false)})};
  };
  f["pixel_shuffle"] = [](In in, O o) { return Out{pixel_shuffle(in[0], o["factor"])}; };
  f["pixel_unshuffle"] = [](In in, O o) { return Out{pixel_unshuffle(in[0], o["factor"])}; };
  f["unfold"] = [](In in, O o) { return Out{unfold(in[0], unfold_options(o))}; };
  f["fold"] = [](In in, O o) { return Out{fold(in[0], pair_of(o, "size", 1), unfold_options(o))}; };
});

}  // namespace
}  // namespace flame::test
