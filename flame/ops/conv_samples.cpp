// Sample inputs of the convolutions for the registry suite: every option, layout and rank, groups, no pictures.
#include "flame/ops/conv.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

using namespace samples;
using Inputs = std::vector<Tensor>;
Tensor third(const Inputs& in) { return in.size() > 2 ? in[2] : Tensor(); }
// Beside relu's kink, a bias that is added to a sum already rounded to 16 bits would change which gradients pass.
Inputs before_relu(DType t, const Tensor& x, const Tensor& w, const Tensor& bias) {
  return size_of(t) == 2 ? Inputs{x, w} : Inputs{x, w, bias};
}

const RegisterOp registered_1d({
    .name = "conv1d",
    .signature = "conv1d(x, weight, bias = {}, {.stride = 1, .padding = 0, .dilation = 1, .groups = 1, .activation = "
                 "Activation::none})",
    .formula = "out[n, o, i] = bias[o] + sum over c, s of weight[o, c, s] x[n, c, i stride + s dilation - padding]",
    .samples =
        [](DType t) {
          const auto with = [](const Conv1dOptions& o) {
            return [o](const Inputs& in) { return Inputs{conv1d(in[0], in[1], third(in), o)}; };
          };
          const Tensor bias = uniform({4}, t, 3);
          return std::vector<SampleCase>{
              {{uniform({2, 3, 7}, t, 1), uniform({4, 3, 3}, t, 2), bias}, with({}), "plain"},
              {{transposed({2, 3, 6}, t, 1), strided({4, 3, 3}, t, 2)}, with({.padding = 1}), "channels-last, no bias"},
              {{strided({3, 7}, t, 1), uniform({4, 3, 4}, t, 2), bias},
               with({.padding = Padding::same}),
               "no batch, same"},
              {{uniform({1, 4, 9}, t, 1), uniform({4, 2, 2}, t, 2), bias},
               with({.stride = 3, .padding = 2, .dilation = 3, .groups = 2}),
               "all options"},
              {before_relu(t, strided({2, 3, 7}, t, 5), uniform({4, 3, 3}, t, 6), bias),
               with({.stride = 2, .activation = Activation::relu}), "relu"},
              {{uniform({0, 2, 5}, t, 1), uniform({4, 2, 2}, t, 2), bias}, with({}), "no sequences"},
          };
        },
});

const RegisterOp registered_2d({
    .name = "conv2d",
    .signature = "conv2d(x, weight, bias = {}, {.stride = 1, .padding = 0, .dilation = 1, .groups = 1, .activation = "
                 "Activation::none})",
    .formula = "out[n, o, i, j] = bias[o] + sum over c, r, s of weight[o, c, r, s] x[n, c, i stride + r dilation - "
               "padding, ...]",
    .samples =
        [](DType t) {
          const auto with = [](const Conv2dOptions& o) {
            return [o](const Inputs& in) { return Inputs{conv2d(in[0], in[1], third(in), o)}; };
          };
          const Tensor bias = uniform({4}, t, 3);
          return std::vector<SampleCase>{
              {{uniform({2, 3, 4, 5}, t, 1), uniform({4, 3, 3, 2}, t, 2), bias}, with({}), "plain"},
              {{channels_last({2, 3, 4, 4}, t, 1), uniform({4, 3, 3, 3}, t, 2)},
               with({.padding = 1}),
               "channels-last, no bias"},
              {{channels_last({1, 4, 3, 4}, t, 1), channels_last({6, 2, 3, 2}, t, 2), uniform({6}, t, 4)},
               with({.padding = 1, .groups = 2}),
               "channels-last, filters too, groups"},
              {{uniform({1, 2, 5, 6}, t, 1), transposed({4, 2, 2, 2}, t, 2), bias},
               with({.stride = {2, 3}}),
               "stride over kernel"},
              {{strided({1, 2, 3, 4}, t, 1), uniform({4, 2, 3, 3}, t, 2), bias}, with({.padding = {2, 1}}), "padding"},
              {{uniform({1, 2, 3, 4}, t, 1), uniform({4, 2, 2, 3}, t, 2), bias},
               with({.padding = Padding::same, .dilation = {1, 2}}),
               "same padding, uneven"},
              {{uniform({2, 3, 4}, t, 1), uniform({4, 2, 2, 2}, t, 2), bias}, with({.stride = {1, 2}}), "no batch"},
              {{uniform({1, 1, 6, 7}, t, 1), uniform({4, 1, 2, 3}, t, 2), bias},
               with({.dilation = {3, 2}}),
               "dilation, one channel"},
              {{uniform({2, 4, 3, 3}, t, 1), strided({4, 2, 2, 2}, t, 2), bias}, with({.groups = 2}), "groups"},
              {{channels_last({1, 4, 4, 4}, t, 1), uniform({4, 1, 3, 3}, t, 2), bias},
               with({.padding = 1, .groups = 4}),
               "groups = channels"},
              {{uniform({2, 3, 3, 2}, t, 1), uniform({4, 3, 1, 1}, t, 2), bias}, with({.stride = 2}), "1x1"},
              {before_relu(t, channels_last({2, 3, 4, 4}, t, 5), uniform({4, 3, 3, 3}, t, 6), bias),
               with({.padding = 1, .activation = Activation::relu}), "relu"},
              {{strided({2, 4, 3, 3}, t, 5), strided({4, 2, 2, 2}, t, 6)},
               with({.groups = 2, .activation = Activation::relu}),
               "relu, groups, no bias"},
              {{uniform({0, 2, 3, 3}, t, 1), uniform({4, 2, 2, 2}, t, 2), bias},
               with({.activation = Activation::relu}),
               "relu, no pictures"},
              {{uniform({1, 2, 1, 1}, t, 1), uniform({4, 2, 3, 3}, t, 2), bias},
               with({.stride = 2, .padding = 2, .dilation = 2}),
               "one pixel, mostly padding"},
              {{uniform({0, 2, 3, 3}, t, 1), uniform({4, 2, 2, 2}, t, 2), bias}, with({}), "no pictures"},
          };
        },
});

const RegisterOp registered_3d({
    .name = "conv3d",
    .signature = "conv3d(x, weight, bias = {}, {.stride = 1, .padding = 0, .dilation = 1, .groups = 1})",
    .formula =
        "out[n, o, i, j, k] = bias[o] + sum over c, q, r, s of weight[o, c, q, r, s] x[n, c, i stride + q dilation "
        "- padding, ...]",
    .samples =
        [](DType t) {
          const auto with = [](const Conv3dOptions& o) {
            return [o](const Inputs& in) { return Inputs{conv3d(in[0], in[1], third(in), o)}; };
          };
          const Tensor bias = uniform({4}, t, 3);
          return std::vector<SampleCase>{
              {{uniform({2, 2, 3, 3, 4}, t, 1), uniform({4, 2, 2, 2, 3}, t, 2), bias}, with({}), "plain"},
              {{strided({1, 2, 3, 2, 3}, t, 1), transposed({4, 2, 3, 1, 2}, t, 2)},
               with({.stride = {1, 2, 1}, .padding = {1, 0, 1}}),
               "strided, no bias"},
              {{uniform({2, 3, 2, 3}, t, 1), uniform({4, 1, 2, 2, 2}, t, 2), bias},
               with({.padding = Padding::same, .groups = 2}),
               "no batch, same, groups"},
              {{uniform({1, 2, 3, 4, 3}, t, 1), uniform({4, 2, 2, 2, 2}, t, 2), bias},
               with({.stride = 2, .padding = 1, .dilation = {2, 1, 3}}),
               "dilation"},
              {before_relu(t, uniform({1, 2, 3, 2, 3}, t, 5), uniform({4, 2, 2, 2, 2}, t, 6), bias),
               with({.activation = Activation::relu}), "relu"},
              {{uniform({0, 2, 2, 2, 2}, t, 1), uniform({4, 2, 2, 2, 2}, t, 2), bias}, with({}), "no volumes"},
          };
        },
});

const RegisterOp registered_transpose_1d({
    .name = "conv_transpose1d",
    .signature =
        "conv_transpose1d(x, weight, bias = {}, {.stride = 1, .padding = 0, .output_padding = 0, .dilation = 1, "
        ".groups = 1, .activation = Activation::none})",
    .formula = "out[n, o, i stride + s dilation - padding] += weight[c, o, s] x[n, c, i], from bias[o]",
    .samples =
        [](DType t) {
          const auto with = [](const ConvTranspose1dOptions& o) {
            return [o](const Inputs& in) { return Inputs{conv_transpose1d(in[0], in[1], third(in), o)}; };
          };
          const Tensor bias = uniform({4}, t, 3);
          return std::vector<SampleCase>{
              {{uniform({2, 3, 5}, t, 1), uniform({3, 4, 3}, t, 2), bias}, with({}), "plain"},
              {{strided({3, 4}, t, 1), transposed({3, 4, 2}, t, 2)},
               with({.stride = 2, .padding = 1}),
               "no batch, no bias"},
              {{uniform({1, 4, 4}, t, 1), uniform({4, 2, 3}, t, 2), bias},
               with({.stride = 2, .padding = 1, .output_padding = 1, .dilation = 2, .groups = 2}),
               "all options"},
              {{uniform({1, 2, 3}, t, 1), uniform({2, 4, 2}, t, 2), bias},
               with({.output_padding = 2, .dilation = 3}),
               "output padding above stride"},
              {{uniform({0, 2, 3}, t, 1), uniform({2, 4, 2}, t, 2), bias}, with({}), "no sequences"},
          };
        },
});

const RegisterOp registered_transpose_2d({
    .name = "conv_transpose2d",
    .signature =
        "conv_transpose2d(x, weight, bias = {}, {.stride = 1, .padding = 0, .output_padding = 0, .dilation = 1, "
        ".groups = 1, .activation = Activation::none})",
    .formula = "out[n, o, i stride + r dilation - padding, ...] += weight[c, o, r, s] x[n, c, i, j], from bias[o]",
    .samples =
        [](DType t) {
          const auto with = [](const ConvTranspose2dOptions& o) {
            return [o](const Inputs& in) { return Inputs{conv_transpose2d(in[0], in[1], third(in), o)}; };
          };
          const Tensor bias = uniform({4}, t, 3);
          return std::vector<SampleCase>{
              {{uniform({2, 3, 3, 4}, t, 1), uniform({3, 4, 3, 2}, t, 2), bias}, with({}), "plain"},
              {{channels_last({2, 3, 3, 3}, t, 1), channels_last({3, 4, 3, 3}, t, 2)},
               with({.stride = 2, .padding = 1, .output_padding = 1}),
               "doubled, channels-last, no bias"},
              {{uniform({2, 2, 3}, t, 1), strided({2, 4, 2, 2}, t, 2), bias}, with({.stride = {3, 1}}), "no batch"},
              {{transposed({1, 4, 3, 2}, t, 1), uniform({4, 2, 2, 3}, t, 2), bias},
               with({.stride = {1, 2}, .padding = {0, 2}, .output_padding = {1, 0}, .dilation = {2, 3}, .groups = 2}),
               "all options"},
              {{uniform({1, 4, 3, 3}, t, 1), uniform({4, 1, 3, 3}, t, 2), bias},
               with({.padding = 1, .groups = 4}),
               "groups = channels"},
              {{uniform({0, 2, 3, 3}, t, 1), uniform({2, 4, 2, 2}, t, 2), bias}, with({}), "no pictures"},
          };
        },
});

const RegisterOp registered_transpose_3d({
    .name = "conv_transpose3d",
    .signature =
        "conv_transpose3d(x, weight, bias = {}, {.stride = 1, .padding = 0, .output_padding = 0, .dilation = 1, "
        ".groups = 1})",
    .formula =
        "out[n, o, i stride + q dilation - padding, ...] += weight[c, o, q, r, s] x[n, c, i, j, k], from bias[o]",
    .samples =
        [](DType t) {
          const auto with = [](const ConvTranspose3dOptions& o) {
            return [o](const Inputs& in) { return Inputs{conv_transpose3d(in[0], in[1], third(in), o)}; };
          };
          const Tensor bias = uniform({4}, t, 3);
          return std::vector<SampleCase>{
              {{uniform({1, 3, 2, 3, 2}, t, 1), uniform({3, 4, 2, 2, 2}, t, 2), bias}, with({}), "plain"},
              {{strided({2, 2, 2, 3}, t, 1), uniform({2, 2, 3, 1, 2}, t, 2), bias},
               with({.stride = {2, 1, 2}, .padding = {1, 0, 0}, .output_padding = {1, 0, 0}, .groups = 2}),
               "no batch, groups"},
              {{transposed({1, 2, 2, 2, 2}, t, 1), uniform({2, 4, 2, 2, 1}, t, 2)}, with({.dilation = 2}), "dilation"},
              {{uniform({0, 2, 2, 2, 2}, t, 1), uniform({2, 4, 2, 2, 2}, t, 2), bias}, with({}), "no volumes"},
          };
        },
});

}  // namespace
}  // namespace flame
