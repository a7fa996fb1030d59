// Layer and batch norm against plain loops: values, running statistics, derivatives, launches, errors.
#include <cmath>

#include "flame/flame.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using Inputs = std::vector<Tensor>;

Tensor noise(const Shape& s, uint64_t seed, DType t = DType::f64) {
  Generator g(seed);
  return normal(s, 0.5, 2, {.dtype = t, .generator = &g});
}

struct Moments {
  double mean, var;  // biased
};
Moments moments(const std::vector<double>& v) {
  double m = 0, s = 0;
  for (double x : v) m += x / static_cast<double>(v.size());
  for (double x : v) s += (x - m) * (x - m) / static_cast<double>(v.size());
  return {m, s};
}

TEST(LayerNorm, MatchesPlainLoops) {
  const Tensor x = noise({4, 6, 5}, 1).t();  // [4, 5, 6], strided
  const Tensor w = noise({5, 6}, 2), b = noise({5, 6}, 3);
  const std::vector<double> v = x.to_vector<double>(), ww = w.to_vector<double>(), bb = b.to_vector<double>();
  const std::vector<double> last = layer_norm(x, {6}).to_vector<double>();
  const std::vector<double> both = layer_norm(x, {5, 6}, w, b, 1e-3).to_vector<double>();
  for (size_t n = 0; n < 4; ++n) {
    const Moments all = moments({v.begin() + n * 30, v.begin() + (n + 1) * 30});
    for (size_t r = 0; r < 5; ++r) {
      const Moments row = moments({v.begin() + n * 30 + r * 6, v.begin() + n * 30 + (r + 1) * 6});
      for (size_t k = 0; k < 6; ++k) {
        const size_t i = n * 30 + r * 6 + k;
        EXPECT_NEAR(last[i], (v[i] - row.mean) / std::sqrt(row.var + 1e-5), 1e-12);
        EXPECT_NEAR(both[i], (v[i] - all.mean) / std::sqrt(all.var + 1e-3) * ww[i % 30] + bb[i % 30], 1e-12);
      }
    }
  }
}

TEST(LayerNorm, IsAtMostTwoLaunchesForward) {
  const Tensor x = noise({64, 256}, 1, DType::f32), w = noise({256}, 2, DType::f32), b = noise({256}, 3, DType::f32);
  for (const Tensor& t : {x, w, b}) t.data();
  const Stats before = stats();
  layer_norm(x, {256}, w, b).data();
  EXPECT_LE(stats().launches - before.launches, 2u);
}

TEST(LayerNorm, SixteenBitIsComputedInFloat32) {
  for (DType t : {DType::f16, DType::bf16}) {
    const Tensor x = noise({8, 64}, 1, t), w = noise({64}, 2, DType::f32);
    const Tensor y = layer_norm(x, {64}, w);
    EXPECT_EQ(y.dtype(), t);
    EXPECT_EQ(y.to(DType::f32).to_vector<float>(),
              layer_norm(x.to(DType::f32), {64}, w).to(t).to(DType::f32).to_vector<float>());
  }
}

TEST(LayerNorm, DerivativesOfFirstAndSecondOrder) {
  const TensorFn fn = [](const Inputs& in) { return Inputs{square(layer_norm(in[0], {5}, in[1], in[2], 1e-2)) * 0.5}; };
  gradcheck(fn, {noise({3, 5}, 1), noise({5}, 2), noise({5}, 3)});
  gradgradcheck(fn, {noise({3, 5}, 1), noise({5}, 2), noise({5}, 3)});
  const TensorFn bare = [](const Inputs& in) { return Inputs{square(layer_norm(in[0], {2, 3}, {}, in[1]))}; };
  gradcheck(bare, {noise({2, 2, 3}, 4), noise({2, 3}, 5)});
  gradgradcheck(bare, {noise({2, 2, 3}, 4), noise({2, 3}, 5)});
}

TEST(LayerNorm, Errors) {
  const Tensor x = noise({2, 5}, 1);
  EXPECT_MESSAGE(ShapeError, layer_norm(x, {4}), "layer_norm: expected an input whose last sizes are [4], got [2, 5]");
  EXPECT_MESSAGE(ShapeError, layer_norm(x, {5}, noise({4}, 1)), "layer_norm: expected a weight of shape [5], got [4]");
  EXPECT_MESSAGE(ShapeError, layer_norm(x, {5}, {}, noise({1}, 1)),
                 "layer_norm: expected a bias of shape [5], got [1]");
  EXPECT_MESSAGE(DTypeError, layer_norm(arange(5), {5}), "layer_norm: expected a floating dtype, got int64");
}

// The numbers of channel c of [N, C, ...].
std::vector<double> channel(const Tensor& x, int64_t c) { return x.select(1, c).to_vector<double>(); }

TEST(BatchNorm, TrainingNormalisesAndUpdatesRunningStatistics) {
  const Tensor pictures = noise({3, 4, 5, 2}, 1);
  for (const Tensor& x : {pictures, pictures.permute({0, 3, 1, 2}), noise({7, 2}, 2), noise({3, 2, 5}, 3)}) {
    const int64_t channels = x.size(1);
    const State mean(zeros({channels}, DType::f64)), var(ones({channels}, DType::f64));
    const void* address = mean.value().storage->data();
    const Tensor w = noise({channels}, 4), b = noise({channels}, 5);
    const Tensor y = batch_norm(x, mean, var, w, b, {.momentum = 0.3, .eps = 1e-3});
    EXPECT_EQ(mean.value().storage->data(), address);
    for (int64_t c = 0; c < channels; ++c) {
      const std::vector<double> in = channel(x, c), out = channel(y, c);
      const Moments m = moments(in);
      const double n = static_cast<double>(in.size()), ww = w.select(0, c).item(), bb = b.select(0, c).item();
      for (size_t i = 0; i < in.size(); ++i)
        EXPECT_NEAR(out[i], (in[i] - m.mean) / std::sqrt(m.var + 1e-3) * ww + bb, 1e-11);
      EXPECT_NEAR(mean.tensor().select(0, c).item(), 0.3 * m.mean, 1e-12);
      EXPECT_NEAR(var.tensor().select(0, c).item(), 0.7 + 0.3 * m.var * n / (n - 1), 1e-12);
    }
    // Evaluation uses what training left, and leaves it alone.
    const std::vector<double> kept = mean.tensor().to_vector<double>();
    const Tensor z = batch_norm(x, mean, var, w, {}, {.training = false});
    for (int64_t c = 0; c < channels; ++c) {
      const std::vector<double> in = channel(x, c), out = channel(z, c);
      const double m = mean.tensor().select(0, c).item(), v = var.tensor().select(0, c).item(),
                   ww = w.select(0, c).item();
      for (size_t i = 0; i < in.size(); ++i) EXPECT_NEAR(out[i], (in[i] - m) / std::sqrt(v + 1e-5) * ww, 1e-11);
    }
    EXPECT_EQ(mean.tensor().to_vector<double>(), kept);
  }
}

TEST(BatchNorm, DerivativesOfFirstAndSecondOrder) {
  for (bool training : {true, false}) {
    const TensorFn fn = [training](const Inputs& in) {
      const State mean(noise({2}, 7)), var(ones({2}, DType::f64));
      return Inputs{square(batch_norm(in[0], mean, var, in[1], in[2], {.training = training, .eps = 1e-2}))};
    };
    gradcheck(fn, {noise({3, 2, 2}, 1), noise({2}, 2), noise({2}, 3)});
    gradgradcheck(fn, {noise({3, 2, 2}, 1), noise({2}, 2), noise({2}, 3)});
  }
}

TEST(BatchNorm, WithoutStatisticsOrParameters) {
  const Tensor x = noise({5, 3}, 1);
  const Tensor y = batch_norm(x, {}, {});
  EXPECT_NEAR(y.select(1, 0).sum().item(), 0, 1e-12);
  EXPECT_EQ(batch_norm(zeros({0, 3}), {}, {}).shape(), (Shape{0, 3}));
}

TEST(BatchNorm, Errors) {
  const Tensor x = noise({1, 3}, 1);
  const State three(zeros({3})), two(zeros({2}));
  EXPECT_MESSAGE(ValueError, batch_norm(x, three, three),
                 "batch_norm: expected more than 1 value per channel when training, got input [1, 3]");
  EXPECT_EQ(batch_norm(x, three, State(ones({3})), {}, {}, {.training = false}).shape(), (Shape{1, 3}));
  EXPECT_MESSAGE(ShapeError, batch_norm(noise({2, 3}, 1), two, three),
                 "batch_norm: expected a running_mean of shape [3], got [2]");
  EXPECT_MESSAGE(ShapeError, batch_norm(noise({2, 3}, 1), three, three, noise({1}, 1)),
                 "batch_norm: expected a weight of shape [3], got [1]");
  EXPECT_MESSAGE(ShapeError, batch_norm(noise({3}, 1), three, three),
                 "batch_norm: expected an input [N, C, ...], got [3]");
  EXPECT_MESSAGE(ValueError, batch_norm(x, {}, {}, {}, {}, {.training = false}),
                 "batch_norm: evaluation needs running statistics");
}

}  // namespace
}  // namespace flame
