// Layers of convolution, pooling and resampling: state names, initialisation, summaries, and forwards against their ops.
#include <cmath>

#include "flame/flame.h"
#include "tests/support/compare.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using test::numbers;
using Names = std::vector<std::string>;

Tensor noise(const Shape& s, uint64_t seed = 1) {
  Generator g(seed);
  return uniform(s, -1, 1, {.generator = &g});
}
Names names_of(const nn::Module& m) {
  Names names;
  for (const auto& [name, state] : m.state_dict()) names.push_back(name);
  return names;
}
double largest(const State& s) {
  double m = 0;
  for (double v : numbers(s.tensor())) m = std::max(m, std::abs(v));
  return m;
}

struct Net : nn::Module {
  nn::Conv1d c1{*this, "c1", {.in = 4, .out = 6, .kernel = 3, .groups = 2}};
  nn::Conv3d c3{*this, "c3", {.in = 2, .out = 4, .kernel = {1, 2, 3}, .bias = false}};
  nn::ConvTranspose1d t1{*this, "t1", {.in = 4, .out = 6, .kernel = 5, .groups = 2}};
  nn::ConvTranspose2d t2{*this, "t2", {.in = 3, .out = 2, .kernel = {4, 2}, .stride = 2, .padding = 1}};
  nn::ConvTranspose3d t3{*this, "t3", {.in = 2, .out = 2, .kernel = 2}};
};

TEST(ConvLayers, StatesHavePyTorchsNamesAndShapes) {
  Net net;
  EXPECT_EQ(names_of(net), (Names{"c1.weight", "c1.bias", "c3.weight", "t1.weight", "t1.bias", "t2.weight", "t2.bias",
                                  "t3.weight", "t3.bias"}));
  EXPECT_EQ(net.c1.weight.shape(), (Shape{6, 2, 3}));
  EXPECT_EQ(net.c3.weight.shape(), (Shape{4, 2, 1, 2, 3}));
  EXPECT_EQ(net.t1.weight.shape(), (Shape{4, 3, 5}));
  EXPECT_EQ(net.t2.weight.shape(), (Shape{3, 2, 4, 2}));
  EXPECT_EQ(net.t3.weight.shape(), (Shape{2, 2, 2, 2, 2}));
  EXPECT_EQ(net.t2.bias.shape(), (Shape{2}));
  Net other;
  other.load_state(net.state_dict());
  const Tensor x = noise({1, 3, 4, 5});
  EXPECT_EQ(numbers(net.t2(x)), numbers(other.t2(x)));
  EXPECT_THROW(other.load_state({{"t2.weight", zeros({2, 3, 4, 2})}}, {.strict = false}), ShapeError);
}

TEST(ConvLayers, InitialisationIsPyTorchs) {
  const nn::Conv1d a{{.in = 64, .out = 64, .kernel = 5, .groups = 2}};
  EXPECT_NEAR(largest(a.weight), 1 / std::sqrt(32.0 * 5), 1e-4);
  EXPECT_LE(largest(a.bias), 1 / std::sqrt(32.0 * 5));
  const nn::Conv3d b{{.in = 8, .out = 32, .kernel = {1, 3, 3}}};
  EXPECT_NEAR(largest(b.weight), 1 / std::sqrt(8.0 * 9), 1e-3);
  // PyTorch counts the second axis of the weight: out / groups.
  const nn::ConvTranspose2d c{{.in = 64, .out = 32, .kernel = 3, .groups = 4}};
  EXPECT_NEAR(largest(c.weight), 1 / std::sqrt(8.0 * 9), 1e-3);
  EXPECT_LE(largest(c.bias), 1 / std::sqrt(8.0 * 9));
}

TEST(ConvLayers, ForwardsAreTheirOps) {
  Net net;
  const Tensor x1 = noise({2, 4, 9}), x2 = noise({2, 3, 4, 5}), x3 = noise({1, 2, 4, 5, 6});
  EXPECT_EQ(numbers(net.c1(x1)), numbers(conv1d(x1, net.c1.weight.tensor(), net.c1.bias.tensor(), {.groups = 2})));
  EXPECT_EQ(numbers(net.c3(x3)), numbers(conv3d(x3, net.c3.weight.tensor())));
  EXPECT_EQ(numbers(net.t1(x1)),
            numbers(conv_transpose1d(x1, net.t1.weight.tensor(), net.t1.bias.tensor(), {.groups = 2})));
  EXPECT_EQ(numbers(net.t2(x2)),
            numbers(conv_transpose2d(x2, net.t2.weight.tensor(), net.t2.bias.tensor(), {.stride = 2, .padding = 1})));
  EXPECT_EQ(numbers(net.t3(x3)), numbers(conv_transpose3d(x3, net.t3.weight.tensor(), net.t3.bias.tensor())));
  EXPECT_EQ(numbers(nn::MaxPool1d({.kernel = 2})(x1)), numbers(max_pool1d(x1, {.kernel = 2})));
  EXPECT_EQ(numbers(nn::MaxPool3d({.kernel = 2})(x3)), numbers(max_pool3d(x3, {.kernel = 2})));
  EXPECT_EQ(numbers(nn::AvgPool1d({.kernel = 2})(x1)), numbers(avg_pool1d(x1, {.kernel = 2})));
  EXPECT_EQ(numbers(nn::AvgPool2d({.kernel = 2})(x2)), numbers(avg_pool2d(x2, {.kernel = 2})));
  EXPECT_EQ(numbers(nn::AvgPool3d({.kernel = 2})(x3)), numbers(avg_pool3d(x3, {.kernel = 2})));
  EXPECT_EQ(numbers(nn::AdaptiveMaxPool1d({.output_size = 2})(x1)), numbers(adaptive_max_pool1d(x1, 2)));
  EXPECT_EQ(numbers(nn::AdaptiveMaxPool2d({.output_size = {3, 2}})(x2)), numbers(adaptive_max_pool2d(x2, {3, 2})));
  EXPECT_EQ(numbers(nn::AdaptiveMaxPool3d({.output_size = 2})(x3)), numbers(adaptive_max_pool3d(x3, 2)));
  EXPECT_EQ(numbers(nn::AdaptiveAvgPool1d({.output_size = 4})(x1)), numbers(adaptive_avg_pool1d(x1, 4)));
  EXPECT_EQ(numbers(nn::AdaptiveAvgPool2d({.output_size = 1})(x2)), numbers(adaptive_avg_pool2d(x2, 1)));
  EXPECT_EQ(numbers(nn::AdaptiveAvgPool3d({.output_size = 3})(x3)), numbers(adaptive_avg_pool3d(x3, 3)));
  EXPECT_EQ(numbers(nn::Upsample({.scale_factor = 2, .mode = InterpolateMode::bilinear})(x2)),
            numbers(interpolate(x2, {.scale_factor = 2, .mode = InterpolateMode::bilinear})));
  EXPECT_EQ(numbers(nn::PixelShuffle({.factor = 2})(x1.reshape({2, 4, 3, 3}))),
            numbers(pixel_shuffle(x1.reshape({2, 4, 3, 3}), 2)));
  EXPECT_EQ(nn::PixelUnshuffle({.factor = 2})(noise({1, 4, 6})).shape(), (Shape{4, 2, 3}));
}

TEST(ConvLayers, PaddingModesReadTheInput) {
  using nn::PaddingMode;
  const Tensor x = Tensor::from(std::vector<float>{1, 2, 3, 4}, {1, 1, 4});
  // A window of one element of weight 1 shows the padded input itself.
  const auto shown = [&](PaddingMode mode) {
    nn::Conv1d c{{.in = 1, .out = 1, .kernel = 1, .padding = 2, .bias = false, .padding_mode = mode}};
    nn::constant(c.weight, 1);
    EXPECT_EQ(numbers(c(x.squeeze(0))), numbers(c(x)));
    return numbers(c(x));
  };
  using Numbers = std::vector<double>;
  EXPECT_EQ(shown(PaddingMode::zeros), (Numbers{0, 0, 1, 2, 3, 4, 0, 0}));
  EXPECT_EQ(shown(PaddingMode::reflect), (Numbers{3, 2, 1, 2, 3, 4, 3, 2}));
  EXPECT_EQ(shown(PaddingMode::replicate), (Numbers{1, 1, 1, 2, 3, 4, 4, 4}));
  EXPECT_EQ(shown(PaddingMode::circular), (Numbers{3, 4, 1, 2, 3, 4, 1, 2}));
  nn::Conv2d same{{.in = 1,
                   .out = 1,
                   .kernel = {1, 2},
                   .padding = Padding::same,
                   .bias = false,
                   .padding_mode = PaddingMode::circular}};
  nn::constant(same.weight, 1);
  EXPECT_EQ(numbers(same(x.reshape({1, 1, 1, 4}))), (Numbers{3, 5, 7, 5}));
  EXPECT_EQ(same.kind(), "Conv2d(1, 1, kernel 1x2, padding same, circular, no bias)");
  nn::Conv3d corner{
      {.in = 1, .out = 2, .kernel = 3, .padding = 1, .padding_mode = PaddingMode::reflect, .dtype = DType::f64}};
  const TensorFn fn = [&](const std::vector<Tensor>& in) { return std::vector<Tensor>{corner(in[0])}; };
  gradcheck(fn, {noise({1, 1, 2, 3, 2}).to(DType::f64)});
  EXPECT_MESSAGE(ShapeError, corner(zeros({1, 1, 1, 3, 2}, DType::f64)),
                 "Conv: reflect padding of 1 and 1 needs more than axis 2 of x [1, 1, 1, 3, 2] has");
}

TEST(ConvLayers, ATransposedConvolutionMeetsTheOutputSizeAskedFor) {
  nn::ConvTranspose2d t{{.in = 2, .out = 3, .kernel = {3, 2}, .stride = {2, 3}, .padding = {1, 0}}};
  nn::ConvTranspose2d more{
      {.in = 2, .out = 3, .kernel = {3, 2}, .stride = {2, 3}, .padding = {1, 0}, .output_padding = {1, 2}}};
  more.weight.share(t.weight);
  more.bias.share(t.bias);
  const Tensor x = noise({1, 2, 4, 5});
  EXPECT_EQ(t(x).shape(), (Shape{1, 3, 7, 14}));
  EXPECT_EQ(numbers(t.forward(x, {7, 14})), numbers(t(x)));
  EXPECT_EQ(numbers(t.forward(x, {8, 16})), numbers(more(x)));
  EXPECT_EQ(t.forward(x.squeeze(0), {8, 15}).shape(), (Shape{3, 8, 15}));
  EXPECT_EQ(more.forward(x, {7, 14}).shape(), (Shape{1, 3, 7, 14}));  // instead of the layer's own
  EXPECT_MESSAGE(ShapeError, t.forward(x, {9, 14}),
                 "ConvTranspose2d: expected an output_size from [7, 14] to [8, 16] for x [1, 2, 4, 5], got [9, 14]");
  EXPECT_MESSAGE(ShapeError, t.forward(x, 6), "got [6, 6]");
  EXPECT_MESSAGE(ShapeError, t.forward(zeros({4, 5}), {7, 14}), "conv_transpose2d: expected");
}

TEST(ConvLayers, SummariesSayWhatTheyAre) {
  Net net;
  EXPECT_EQ(net.c1.kind(), "Conv1d(4, 6, kernel 3, groups 2)");
  EXPECT_EQ(net.c3.kind(), "Conv3d(2, 4, kernel 1x2x3, no bias)");
  EXPECT_EQ(net.t2.kind(), "ConvTranspose2d(3, 2, kernel 4x2, stride 2, padding 1)");
  EXPECT_EQ(nn::Conv2d({.in = 1, .out = 1, .kernel = 3, .padding = Padding::same}).kind(),
            "Conv2d(1, 1, kernel 3, padding same)");
  EXPECT_EQ(nn::ConvTranspose1d({.in = 1, .out = 1, .kernel = 3, .stride = 2, .output_padding = 1}).kind(),
            "ConvTranspose1d(1, 1, kernel 3, stride 2, output padding 1)");
  EXPECT_EQ(nn::MaxPool2d({.kernel = {3, 2}, .stride = 2, .padding = 1}).kind(), "MaxPool2d(3x2, stride 2, padding 1)");
  EXPECT_EQ(nn::AvgPool3d({.kernel = 2}).kind(), "AvgPool3d(2)");
  EXPECT_EQ(nn::AdaptiveMaxPool1d({.output_size = 4}).kind(), "AdaptiveMaxPool1d(4)");
  EXPECT_EQ(nn::AdaptiveAvgPool2d({.output_size = {7, 5}}).kind(), "AdaptiveAvgPool2d(7x5)");
  EXPECT_EQ(nn::Upsample({.scale_factor = 2}).kind(), "Upsample(scale 2, nearest)");
  EXPECT_EQ(nn::Upsample({.size = {4, 6}, .mode = InterpolateMode::bicubic}).kind(), "Upsample(4x6, bicubic)");
  EXPECT_EQ(nn::PixelShuffle({.factor = 3}).kind(), "PixelShuffle(3)");
}

TEST(ConvLayers, WrongSizesAreRefusedWithTheLayersName) {
  EXPECT_MESSAGE(ValueError, nn::Conv3d({.in = 0, .out = 1, .kernel = 2}), "Conv3d: expected sizes of 1 or more");
  EXPECT_MESSAGE(ValueError, nn::ConvTranspose2d({.in = 3, .out = 4, .kernel = 2, .groups = 2}),
                 "ConvTranspose2d: expected channels that 2 groups divide, got in 3 and out 4");
  EXPECT_MESSAGE(DTypeError, nn::Conv1d({.in = 1, .out = 1, .kernel = 1, .dtype = DType::i32}),
                 "Conv1d: expected a floating dtype, got int32");
}

}  // namespace
}  // namespace flame
