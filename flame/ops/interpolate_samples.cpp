// Sample inputs of interpolate and the pixel shuffles for the registry suite.
#include "flame/ops/interpolate.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

using namespace samples;
using Inputs = std::vector<Tensor>;
using Mode = InterpolateMode;

const RegisterOp registered_interpolate({
    .name = "interpolate",
    .signature = "interpolate(x, {.size or .scale_factor, .mode = nearest, .align_corners = false, "
                 ".recompute_scale_factor = false, .antialias = false})",
    .formula = "out = weights of the mode, by the distance to the place (i + 1/2) H / H' - 1/2, along each axis",
    .samples =
        [](DType t) {
          const auto with = [](const InterpolateOptions& o) {
            return [o](const Inputs& in) { return Inputs{interpolate(in[0], o)}; };
          };
          const Tensor last3 = uniform({1, 3, 2, 3, 2}, t).permute({0, 4, 1, 2, 3});
          return std::vector<SampleCase>{
              {{uniform({2, 3, 4}, t)}, with({.scale_factor = 2}), "nearest, 1d"},
              {{channels_last({1, 3, 3, 4}, t)}, with({.size = {5, 2}}), "nearest, channels-last"},
              {{strided({1, 2, 2, 3, 2}, t)}, with({.size = {3, 2, 4}}), "nearest, 3d"},
              {{uniform({1, 2, 3, 5}, t)}, with({.size = {7, 3}, .mode = Mode::nearest_exact}), "nearest_exact"},
              {{transposed({2, 2, 5}, t)}, with({.size = 8, .mode = Mode::linear}), "linear, transposed"},
              {{uniform({1, 2, 5}, t)},
               with({.size = 3, .mode = Mode::linear, .align_corners = true}),
               "linear, corners"},
              {{uniform({2, 2, 3, 4}, t)}, with({.scale_factor = {2, 1.5}, .mode = Mode::bilinear}), "bilinear"},
              {{channels_last({1, 3, 4, 3}, t)},
               with({.size = {3, 7}, .mode = Mode::bilinear, .align_corners = true}),
               "bilinear, corners, channels-last"},
              {{uniform({1, 2, 7, 5}, t)},
               with({.size = {3, 2}, .mode = Mode::bilinear, .antialias = true}),
               "bilinear, antialias"},
              {{strided({1, 2, 3, 4}, t)}, with({.scale_factor = 1.7, .mode = Mode::bicubic}), "bicubic, strided"},
              {{channels_last({1, 2, 4, 5}, t)},
               with({.size = {6, 3}, .mode = Mode::bicubic, .align_corners = true}),
               "bicubic, corners, channels-last"},
              {{uniform({1, 1, 6, 7}, t)},
               with({.size = {3, 4}, .mode = Mode::bicubic, .antialias = true}),
               "bicubic, antialias"},
              {{last3}, with({.size = {3, 3, 4}, .mode = Mode::trilinear}), "trilinear, channels-last"},
              {{uniform({1, 2, 2, 2, 3}, t)},
               with({.scale_factor = 2, .mode = Mode::trilinear, .align_corners = true}),
               "trilinear, corners"},
              {{uniform({1, 2, 5, 4}, t)}, with({.size = {3, 2}, .mode = Mode::area}), "area"},
              {{uniform({2, 1, 1, 1}, t)}, with({.size = 3, .mode = Mode::bilinear}), "one pixel"},
              {{uniform({0, 2, 3, 3}, t)}, with({.size = 4, .mode = Mode::bilinear}), "no pictures"},
          };
        },
});

const RegisterOp registered_shuffle({
    .name = "pixel_shuffle",
    .signature = "pixel_shuffle(x, upscale_factor)",
    .formula = "out[c, h r + i, w r + j] = x[c r r + i r + j, h, w]",
    .samples =
        [](DType t) {
          const auto fn = [](const Inputs& in) { return Inputs{pixel_shuffle(in[0], 2)}; };
          return std::vector<SampleCase>{{{uniform({2, 8, 3, 2}, t)}, fn, "plain"},
                                         {{channels_last({1, 4, 2, 3}, t)}, fn, "channels-last"},
                                         {{strided({4, 2, 3}, t)}, fn, "no batch, strided"},
                                         {{uniform({0, 4, 2, 2}, t)}, fn, "no pictures"}};
        },
});
const RegisterOp registered_unshuffle({
    .name = "pixel_unshuffle",
    .signature = "pixel_unshuffle(x, downscale_factor)",
    .formula = "out[c r r + i r + j, h, w] = x[c, h r + i, w r + j]",
    .samples =
        [](DType t) {
          const auto fn = [](const Inputs& in) { return Inputs{pixel_unshuffle(in[0], 2)}; };
          return std::vector<SampleCase>{{{uniform({2, 3, 4, 6}, t)}, fn, "plain"},
                                         {{channels_last({1, 2, 4, 2}, t)}, fn, "channels-last"},
                                         {{transposed({2, 4, 2}, t)}, fn, "no batch, transposed"},
                                         {{uniform({0, 1, 2, 2}, t)}, fn, "no pictures"}};
        },
});

}  // namespace
}  // namespace flame
