// Convolutions of few channels by their own kernels: forward, and the gradients to filter and bias through relu,
// against float64 on the CPU, exactly, for numbers of few bits; on the GPU, or the emulated one.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include "flame/device/device_scope.h"
#include "flame/ops/conv_few_internal.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"
#include "tests/support/listing_device.h"

namespace flame {
namespace {

using namespace test;

// Multiples of 1/8 between -1 and 1: float32 holds their sums of products.
Tensor drawn(const Shape& s, uint64_t seed) {
  Generator g(seed);
  return randint(-8, 9, s, {.device = &cpu(), .generator = &g}).to(DType::f32) / 8;
}

struct Case {
  Shape x, w;
  Conv2dOptions options;
  bool bias, channels_last;  // of the filter
};
// y, and what arrives at filter and bias.
std::vector<Tensor> results(const Case& c, DType t, Device& d, int64_t shift) {
  const DeviceScope on(d);
  const auto there = [&](const Shape& s, uint64_t seed) { return drawn(s, seed).to(t).to(d); };
  const Tensor x = there(c.x, 1);
  Tensor w = there(c.w, 2), b = c.bias ? there({c.w[0]}, 3) : Tensor();
  if (c.channels_last) w = w.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
  w.requires_grad_();
  if (c.bias) b.requires_grad_();
  const Tensor y = conv2d(x, w, b, c.options);
  // The gradient lies channels-last, perhaps not at a multiple of 16 bytes.
  const Shape s = y.shape();
  const Tensor many = there({s[0] * s[2] * s[3] * s[1] + shift}, 4);
  const Tensor g = many.narrow(0, shift, y.numel()).reshape({s[0], s[2], s[3], s[1]}).permute({0, 3, 1, 2});
  const std::vector<Tensor> got =
      c.bias ? grad({y}, {w, b}, {.grad_outputs = {g}}) : grad({y}, {w}, {.grad_outputs = {g}});
  std::vector<Tensor> out{y.detach()};
  out.insert(out.end(), got.begin(), got.end());
  for (Tensor& r : out) r = r.to(cpu()).to(DType::f64);
  return out;
}

void expect_exact(const Case& c, int64_t shift, Device& d) {
  const std::vector<Tensor> want = results(c, DType::f64, cpu(), shift), got = results(c, DType::f32, d, shift);
  for (size_t i = 0; i < want.size(); ++i)
    EXPECT_EQ(difference(got[i], want[i]), "")
        << "result " << i << " of filters " << c.w[0] << ", shifted by " << shift;
}

TEST(CudaFewChannels, AreExact) {
  FLAME_NEEDS_GPU(d);
  const Case cases[] = {
      {{9, 1, 15, 16}, {8, 1, 3, 3}, {.padding = 1, .activation = Activation::relu}, true, false},
      {{2, 3, 21, 23}, {32, 3, 3, 3}, {.stride = {2, 1}, .padding = {0, 2}}, true, true},
      {{3, 2, 18, 9}, {128, 2, 2, 3}, {.padding = 2, .dilation = {1, 3}, .activation = Activation::relu}, false, false},
  };
  for (const Case& c : cases)
    for (const int64_t shift : {0, 3}) expect_exact(c, shift, d);
}

// On tensor cores, which hold such numbers: several tiles and shares, ragged ones, one tap, filters either way.
TEST(CudaFewChannels, GradientsToFiltersOfMoreChannels) {
  FLAME_NEEDS_GPU(d);
  const auto before = matmul_precision();
  set_matmul_precision("high");
  const Case cases[] = {
      {{3, 16, 21, 22}, {68, 16, 3, 3}, {.padding = 1}, false, false},
      {{12, 12, 23, 19}, {20, 12, 2, 4}, {.stride = {2, 1}, .padding = {0, 3}, .dilation = {1, 2}}, true, true},
      {{50, 64, 6, 5}, {64, 64, 1, 1}, {}, false, false},
  };
  for (const Case& c : cases)
    for (const int64_t shift : {0, 3}) expect_exact(c, shift, d);
  set_matmul_precision(before);
}

// What the device alone does not fuse, asked of the plans themselves: relu behind y, and dy through its slope.
TEST(CudaFewChannels, PassThroughRelu) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope on(d);
  const Tensor x = drawn({9, 1, 15, 16}, 1), w = drawn({8, 1, 3, 3}, 2), b = drawn({8}, 3);
  const auto last = [](const Shape& s) { return Meta{DType::f32, s, channels_last_strides(s)}; };
  const Shape shape{9, 8, 15, 16};
  ConvDesc c{.pass = ConvDesc::Pass::forward,
             .x = last(x.shape()),
             .w = contiguous_meta(DType::f32, w.shape()),
             .y = last(shape),
             .stride = {1, 1},
             .padding = {1, 1},
             .padding_after = {1, 1},
             .dilation = {1, 1},
             .bias = true,
             .activation = Activation::relu};
  ASSERT_TRUE(few_channels(d, c));
  const Tensor there[] = {x.to(d), w.to(d), b.to(d)}, y = zeros({9, 15, 16, 8}, DType::f32, d);
  void* forward[] = {there[0].data(), there[1].data(), there[2].data(), y.data()};
  few_channels_forward(d, c)->body({forward, nullptr, nullptr});
  const auto wide = [](const Tensor& t) { return t.to(cpu()).to(DType::f64); };
  const Tensor want = relu(conv2d(wide(x), wide(w), wide(b), {.padding = 1})), got = wide(y).permute({0, 3, 1, 2});
  EXPECT_EQ(difference(got, want), "");

  c.pass = ConvDesc::Pass::backward_weight;
  const Tensor g = drawn({9, 15, 16, 8}, 4), dw = zeros(w.shape(), DType::f32, d), sums = zeros({8}, DType::f32, d);
  const Ref<Plan> plan = few_channels_backward(d, c);
  const Tensor room = empty({static_cast<int64_t>(plan->workspace)}, DType::u8, d), g_there = g.to(d);
  void* backward[] = {there[0].data(), g_there.data(), y.data(), dw.data(), sums.data()};
  plan->body({backward, nullptr, room.data()});
  Tensor weight = wide(w), bias = wide(b);
  weight.requires_grad_();
  bias.requires_grad_();
  const Tensor again = relu(conv2d(wide(x), weight, bias, {.padding = 1}));
  const std::vector<Tensor> expected = grad({again}, {weight, bias}, {.grad_outputs = {wide(g).permute({0, 3, 1, 2})}});
  EXPECT_EQ(difference(wide(dw), expected[0]), "");
  EXPECT_EQ(difference(wide(sums), expected[1]), "");
}

// A first layer's backward is what sums and what joins the sums; relu's slope and the bias cost no launch.
TEST(StepLaunches, AFirstConvolutionIsOneLaunchForwardAndOneBackward) {
  ListingDevice& d = listing_device();
  const DeviceScope scope(d);
  const Tensor x = Tensor::empty({32, 1, 28, 28});
  Tensor w = Tensor::empty({32, 1, 3, 3}), b = Tensor::empty({32}), wide = Tensor::empty({32, 8, 3, 3});
  for (Tensor* t : {&w, &b, &wide}) t->requires_grad_();
  const auto made = [&](const Tensor& image, const Tensor& filter) {
    d.take();
    const Tensor y = conv2d(image, filter, b, {.padding = 1, .activation = Activation::relu});
    const std::vector<Tensor> out = grad({y}, {filter, b}, {.grad_outputs = {Tensor::empty(y.shape())}});
    flush_pending();
    std::vector<std::string> all;
    for (const auto& e : d.take())
      if (!e.op.starts_with("island(0")) all.insert(all.end(), e.made.begin(), e.made.end());
    return all;
  };
  EXPECT_EQ(made(x, w), (std::vector<std::string>{"forward", "backward_weight", "join"}));
  EXPECT_GT(made(Tensor::empty({32, 8, 28, 28}), wide).size(), 3u);
}

}  // namespace
}  // namespace flame
