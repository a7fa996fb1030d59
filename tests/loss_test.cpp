// softmax and the losses against plain loops in float64: values, gradients, launches, ends of the range, errors.
#include <cmath>

#include "flame/flame.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using test::each_index;
using test::row_major;
using Inputs = std::vector<Tensor>;

Tensor noise(const Shape& s, uint64_t seed, DType t = DType::f64) {
  Generator g(seed);
  return normal(s, 0, 2, {.dtype = t, .generator = &g});
}

TEST(Softmax, MatchesPlainLoopsOnEveryAxis) {
  const Tensor x = noise({3, 5, 4}, 1).t();
  const std::vector<double> v = x.to_vector<double>();
  for (int axis = 0; axis < 3; ++axis) {
    const std::vector<double> y = softmax(x, axis).to_vector<double>(),
                              l = log_softmax(x, axis - 3).to_vector<double>();
    each_index(x.shape(), [&](const Dims& i) {
      double sum = 0;
      Dims j = i;
      for (j[axis] = 0; j[axis] < x.shape()[axis]; ++j[axis])
        sum += std::exp(v[static_cast<size_t>(row_major(x.shape(), j))]);
      const auto at = static_cast<size_t>(row_major(x.shape(), i));
      EXPECT_NEAR(y[at], std::exp(v[at]) / sum, 1e-14);
      EXPECT_NEAR(l[at], v[at] - std::log(sum), 1e-13);
    });
  }
}

TEST(Softmax, EndsOfTheRange) {
  const float inf = INFINITY;
  const Tensor x = Tensor::from(std::vector<float>{-inf, -inf, 1000, 999, inf, 0, -inf, 3, NAN, 0}, {5, 2});
  const std::vector<float> y = softmax(x).to_vector<float>();
  EXPECT_TRUE(std::isnan(y[0]) && std::isnan(y[1]));
  EXPECT_NEAR(y[2], 1 / (1 + std::exp(-1.0)), 1e-6);
  EXPECT_TRUE(std::isnan(y[4]));
  EXPECT_EQ(y[6], 0);
  EXPECT_EQ(y[7], 1);
  EXPECT_TRUE(std::isnan(y[8]) && std::isnan(y[9]));
  EXPECT_EQ(log_softmax(x).to_vector<float>()[6], -inf);
  EXPECT_EQ(softmax(ones({0, 3})).shape(), (Shape{0, 3}));
  EXPECT_EQ(softmax(ones({})).item(), 1);
  EXPECT_MESSAGE(DTypeError, softmax(arange(3)), "softmax: expected a floating dtype, got int64");
  EXPECT_MESSAGE(IndexError, log_softmax(ones({2}), 1), "log_softmax: axis 1 is out of range for rank 1");
}

TEST(Softmax, DerivativesOfFirstAndSecondOrder) {
  for (auto* f : {&softmax, &log_softmax})
    for (int64_t axis : {0, 1}) {
      const TensorFn fn = [f, axis](const Inputs& in) { return Inputs{square((*f)(in[0], axis, Loc::current()))}; };
      gradcheck(fn, {noise({3, 4}, 2)});
      gradgradcheck(fn, {noise({3, 4}, 2)});
    }
}

TEST(Softmax, OneLaunchEachWay) {
  Tensor x = noise({64, 100}, 1, DType::f32);
  x.data();
  Stats before = stats();
  softmax(x).data();
  EXPECT_EQ(stats().launches - before.launches, 1u);
  x.requires_grad_();
  const Tensor y = softmax(x), g = noise({64, 100}, 2, DType::f32);
  y.data();
  before = stats();
  backward(y, {.gradient = g});
  x.grad().data();
  EXPECT_EQ(stats().launches - before.launches, 1u);
}

// Plain cross-entropy of [N, C, L] logits; fills the gradient for an incoming gradient of ones.
struct Reference {
  std::vector<double> rows, gradient;
  double mean, sum;
};
Reference reference(const Tensor& logits, const std::vector<int64_t>& target, const std::vector<double>& weight,
                    int64_t ignore, double smooth, Reduction r) {
  const int64_t n = logits.size(0), c = logits.size(1), l = logits.size(2);
  const std::vector<double> z = logits.to_vector<double>();
  Reference out{{}, std::vector<double>(z.size()), 0, 0};
  const auto w = [&](int64_t k) { return weight.empty() ? 1.0 : weight[static_cast<size_t>(k)]; };
  double total_weight = 0;
  for (int64_t t : target)
    if (t != ignore) total_weight += w(t);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < l; ++j) {
      const int64_t t = target[static_cast<size_t>(i * l + j)];
      double loss = 0;
      if (t != ignore) {
        const auto at = [&](int64_t k) { return static_cast<size_t>((i * c + k) * l + j); };
        double sum = 0, all_weight = 0;
        for (int64_t k = 0; k < c; ++k) {
          sum += std::exp(z[at(k)]);
          all_weight += w(k);
        }
        const double lse = std::log(sum), cc = static_cast<double>(c);
        loss = (1 - smooth) * w(t) * (lse - z[at(t)]);
        for (int64_t k = 0; k < c; ++k) {
          loss += smooth / cc * w(k) * (lse - z[at(k)]);
          const double p = std::exp(z[at(k)] - lse);
          double g = (1 - smooth) * w(t) * (p - (k == t)) + smooth / cc * (p * all_weight - w(k));
          if (r == Reduction::mean) g /= total_weight;
          out.gradient[at(k)] = g;
        }
      }
      out.rows.push_back(loss);
      out.sum += loss;
    }
  out.mean = out.sum / total_weight;
  return out;
}

TEST(CrossEntropy, MatchesPlainLoopsForEveryOption) {
  const int64_t n = 4, c = 5, l = 3;
  const std::vector<int64_t> target{0, 4, -100, 2, 2, 1, 3, 4, 0, -100, 1, 1},
      other{0, 4, 2, 2, 2, 1, 3, 4, 0, 2, 1, 1};
  const Tensor weight = Tensor::from(std::vector<double>{0.5, 1.5, 0.25, 2, 1}, {c});
  for (bool weighted : {false, true})
    for (double smooth : {0.0, 0.3})
      for (int64_t ignore : {-100, 2})
        for (Reduction r : {Reduction::none, Reduction::mean, Reduction::sum})
          for (bool strided : {false, true}) {
            Tensor x = strided ? noise({n, l, c}, 3).t() : noise({n, c, l}, 3);
            x.requires_grad_();
            const std::vector<int64_t>& t = ignore == 2 ? other : target;
            const CrossEntropyOptions o{weighted ? weight : Tensor(), ignore, smooth, r};
            const Tensor loss = cross_entropy(x, Tensor::from(t, {n, l}), o);
            const Reference expected =
                reference(x, t, weighted ? weight.to_vector<double>() : std::vector<double>{}, ignore, smooth, r);
            if (r == Reduction::none) {
              EXPECT_EQ(loss.shape(), (Shape{n, l}));
              const std::vector<double> v = loss.to_vector<double>();
              for (size_t i = 0; i < v.size(); ++i) EXPECT_NEAR(v[i], expected.rows[i], 1e-13);
            } else {
              EXPECT_NEAR(loss.item(), r == Reduction::mean ? expected.mean : expected.sum, 1e-13);
            }
            backward(loss, {.gradient = ones(loss.shape(), DType::f64)});
            const std::vector<double> g = x.grad().to_vector<double>();
            for (size_t i = 0; i < g.size(); ++i) EXPECT_NEAR(g[i], expected.gradient[i], 1e-13);
          }
}

TEST(CrossEntropy, DerivativesOfFirstAndSecondOrder) {
  const Tensor target = Tensor::from(std::vector<int64_t>{1, 3, -100, 0}, {4});
  const Tensor weight = Tensor::from(std::vector<double>{0.5, 1.5, 0.25, 2}, {4});
  for (Reduction r : {Reduction::none, Reduction::mean})
    for (double smooth : {0.0, 0.2}) {
      const TensorFn fn = [&](const Inputs& in) {
        return Inputs{
            square(cross_entropy(in[0], target, {.weight = weight, .label_smoothing = smooth, .reduction = r}))};
      };
      gradcheck(fn, {noise({4, 4}, 5)});
      gradgradcheck(fn, {noise({4, 4}, 5)});
    }
  const TensorFn soft = [&](const Inputs& in) {
    return Inputs{cross_entropy(in[0], in[1], {.weight = weight, .label_smoothing = 0.2})};
  };
  gradcheck(soft, {noise({3, 4}, 6), softmax(noise({3, 4}, 7), 1)});
  gradgradcheck(soft, {noise({3, 4}, 6), softmax(noise({3, 4}, 7), 1)});
}

TEST(CrossEntropy, ProbabilitiesOfOneClassAreThatClass) {
  const Tensor x = noise({6, 5}, 8), t = Tensor::from(std::vector<int64_t>{0, 4, 2, 2, 1, 3}, {6});
  for (double smooth : {0.0, 0.25})
    for (Reduction r : {Reduction::mean, Reduction::sum}) {
      const double a = cross_entropy(x, t, {.label_smoothing = smooth, .reduction = r}).item();
      const double b = cross_entropy(x, one_hot(t, 5, DType::f64), {.label_smoothing = smooth, .reduction = r}).item();
      EXPECT_NEAR(a, b, 1e-13);
    }
}

TEST(CrossEntropy, LargeLogitsAndRanksOneToFour) {
  const Tensor x = Tensor::from(std::vector<float>{1e4f, 0, 1e4f + 1}, {3});
  EXPECT_NEAR(cross_entropy(x, Tensor::from(std::vector<int64_t>{0}, {})).item(), 1 + std::log1p(std::exp(-1.0)), 1e-6);
  EXPECT_EQ(cross_entropy(x, Tensor::from(std::vector<int64_t>{1}, {})).item(),
            1e4f + 1 + static_cast<float>(std::log1p(std::exp(-1.0))));
  EXPECT_EQ(cross_entropy(noise({2, 3, 4, 5}, 1), zeros({2, 4, 5}, DType::i64), {.reduction = Reduction::none}).shape(),
            (Shape{2, 4, 5}));
  EXPECT_EQ(cross_entropy(noise({2, 3}, 1, DType::bf16), zeros({2}, DType::i32)).dtype(), DType::bf16);
}

TEST(CrossEntropy, IgnoredRowsStayOut) {
  const Tensor ignored = full({3}, -100, DType::i64);
  Tensor x = noise({3, 4}, 1);
  x.requires_grad_();
  EXPECT_TRUE(std::isnan(cross_entropy(x, ignored).item()));
  EXPECT_EQ(cross_entropy(x, ignored, {.reduction = Reduction::sum}).item(), 0);
  // NaN and Inf in an ignored row reach neither the loss nor the gradient.
  Tensor y = Tensor::from(std::vector<double>{1, 2, NAN, INFINITY, 0, 1}, {3, 2});
  y.requires_grad_();
  const Tensor loss = cross_entropy(y, Tensor::from(std::vector<int64_t>{0, -100, 1}, {3}));
  EXPECT_NEAR(loss.item(), (std::log1p(std::exp(1.0)) + std::log1p(std::exp(-1.0))) / 2, 1e-14);
  backward(loss);
  const std::vector<double> g = y.grad().to_vector<double>();
  EXPECT_EQ(g[2], 0);
  EXPECT_EQ(g[3], 0);
  EXPECT_TRUE(std::isfinite(g[0]) && g[0] != 0);
}

TEST(CrossEntropy, FewLaunches) {
  Tensor x = noise({128, 10}, 1, DType::f32);
  const Tensor t = randint(0, 10, {128});
  x.data();
  x.requires_grad_();
  Stats before = stats();
  const Tensor loss = cross_entropy(x, t);
  loss.data();
  const uint64_t forward = stats().launches - before.launches;
  EXPECT_LE(forward, 3u);  // the check of the targets, the rows, their sum
  const Tensor g = ones({});
  g.data();
  before = stats();
  backward(loss, {.gradient = g});
  x.grad().data();
  EXPECT_EQ(stats().launches - before.launches, 1u);
}

TEST(CrossEntropy, Errors) {
  const Tensor x = noise({2, 3}, 1);
  const auto target = [](const std::vector<int64_t>& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); };
  EXPECT_MESSAGE(IndexError, cross_entropy(x, target({0, 3})), "cross_entropy: target 3 is out of range for 3 classes");
  EXPECT_MESSAGE(IndexError, nll_loss(x, target({-1, 0})), "nll_loss: target -1 is out of range for 3 classes");
  EXPECT_MESSAGE(ShapeError, cross_entropy(x, target({0})),
                 "cross_entropy: input [2, 3] needs targets of shape [2], got [1]");
  EXPECT_MESSAGE(ShapeError, cross_entropy(x, noise({2, 2}, 1)),
                 "cross_entropy: expected probabilities of the logits' shape [2, 3], got [2, 2]");
  EXPECT_MESSAGE(DTypeError, cross_entropy(x, ones({2}, DType::boolean)),
                 "cross_entropy: expected targets of int64 or int32");
  EXPECT_MESSAGE(DTypeError, cross_entropy(ones({2, 3}, DType::i64), target({0, 0})),
                 "cross_entropy: expected a floating dtype, got int64");
  EXPECT_MESSAGE(ShapeError, cross_entropy(x, target({0, 0}), {.weight = ones({2})}),
                 "cross_entropy: expected a weight of shape [3], got [2]");
  EXPECT_MESSAGE(ValueError, cross_entropy(x, target({0, 0}), {.label_smoothing = 1.5}),
                 "expected a label smoothing in [0, 1], got 1.5");
}

TEST(Losses, NllOfLogSoftmaxIsCrossEntropy) {
  const Tensor x = noise({4, 5, 3}, 9),
               t = Tensor::from(std::vector<int64_t>{0, 4, -100, 2, 2, 1, 3, 4, 0, -100, 1, 1}, {4, 3});
  const Tensor w = Tensor::from(std::vector<double>{0.5, 1.5, 0.25, 2, 1}, {5});
  for (Reduction r : {Reduction::mean, Reduction::sum})
    for (const Tensor& weight : {Tensor(), w})
      EXPECT_NEAR(nll_loss(log_softmax(x, 1), t, {.weight = weight, .reduction = r}).item(),
                  cross_entropy(x, t, {.weight = weight, .reduction = r}).item(), 1e-13);
  const TensorFn fn = [&](const Inputs& in) { return Inputs{square(nll_loss(in[0], t, {.weight = w}))}; };
  gradcheck(fn, {x});
  gradgradcheck(fn, {x});
}

TEST(Losses, SquaresAndAbsolutes) {
  const Tensor a = Tensor::from(std::vector<double>{1, -2, 4}, {3}),
               b = Tensor::from(std::vector<double>{2, 1, 4}, {3});
  EXPECT_DOUBLE_EQ(mse_loss(a, b).item(), 10.0 / 3);
  EXPECT_DOUBLE_EQ(l1_loss(a, b, Reduction::sum).item(), 4);
  EXPECT_EQ(mse_loss(a, b, Reduction::none).to_vector<double>(), (std::vector<double>{1, 9, 0}));
  EXPECT_MESSAGE(ShapeError, mse_loss(a, ones({1})), "mse_loss: expected equal shapes, got [3] and [1]");
  Tensor x = a.detach();
  x.requires_grad_();
  backward(l1_loss(x, b, Reduction::sum));
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{-1, -1, 0}));
}

TEST(Losses, BinaryCrossEntropyOverTheWholeRange) {
  const std::vector<double> logits{-1e4, -30, -1, 0, 1, 30, 1e4}, targets{0, 0.25, 1};
  for (double z : logits)
    for (double t : targets) {
      Tensor x = full({}, z, DType::f64);
      x.requires_grad_();
      const Tensor y = full({}, t, DType::f64), w = full({}, 3.0, DType::f64);
      const Tensor loss = bce_with_logits(x, y, {.pos_weight = w});
      const double positive = z > 0 ? std::log1p(std::exp(-z)) : -z + std::log1p(std::exp(z));  // -log sigmoid(z)
      const double expected = 3 * t * positive + (1 - t) * (z + positive);
      EXPECT_NEAR(loss.item(), expected, 1e-12 * std::max(1.0, expected)) << z << " " << t;
      backward(loss);
      const double s = 1 / (1 + std::exp(-z));
      EXPECT_NEAR(x.grad().item(), (1 - t) * s - 3 * t * (1 - s), 1e-12) << z << " " << t;
    }
  const Tensor weight = Tensor::from(std::vector<double>{1, 2}, {2});
  EXPECT_NEAR(bce_with_logits(zeros({3, 2}, DType::f64), ones({3, 2}, DType::f64), {.weight = weight}).item(),
              1.5 * std::log(2.0), 1e-14);
  const TensorFn fn = [](const Inputs& in) {
    return Inputs{bce_with_logits(in[0], in[1], {.reduction = Reduction::none})};
  };
  gradcheck(fn, {noise({4}, 1), rand({4}, {.dtype = DType::f64})});
  gradgradcheck(fn, {noise({4}, 1), rand({4}, {.dtype = DType::f64})});
  EXPECT_MESSAGE(ShapeError, bce_with_logits(ones({2}), ones({3})),
                 "bce_with_logits: expected equal shapes, got [2] and [3]");
}

// The elements and their sum forward, one launch backward, and nothing is kept but the inputs.
TEST(Losses, FewLaunchesAndNothingKept) {
  const auto loss = [](int i, const Tensor& x, const Tensor& t) {
    switch (i) {
      case 0: return mse_loss(x, t);
      case 1: return smooth_l1_loss(x, t);
      case 2: return huber_loss(x, t);
      case 3: return bce_with_logits(x, t);
      case 4: return bce(x, t);
      default: return kl_div(x, t);
    }
  };
  for (int i = 0; i < 6; ++i) {
    Tensor x = rand({200, 300}), t = rand({200, 300});
    x.requires_grad_();
    x.data();
    t.data();
    Stats before = stats();
    const size_t held = memory_stats().allocated;
    const Tensor y = loss(i, x, t);
    y.data();
    EXPECT_LE(stats().launches - before.launches, 2u) << i;
    EXPECT_LE(memory_stats().allocated - held, 4096u) << i;
    const Tensor g = ones({});
    g.data();
    before = stats();
    backward(y, {.gradient = g});
    x.grad().data();
    EXPECT_EQ(stats().launches - before.launches, 1u) << i;
  }
}

TEST(Losses, SixteenBitIsComputedInFloat32) {
  for (DType t : {DType::f16, DType::bf16}) {
    const Tensor a = (rand({1000}) * 3).to(t), b = (rand({1000}) * 3).to(t);
    const double wide = mse_loss(a.to(DType::f64), b.to(DType::f64)).item();
    const Tensor loss = mse_loss(a, b);
    EXPECT_EQ(loss.dtype(), t);
    EXPECT_EQ(loss.item(), full({}, wide, DType::f64).to(t).item());
  }
}

TEST(Losses, ProbabilitiesGetAGradient) {
  const Tensor z = noise({3, 4}, 1), p = softmax(noise({3, 4}, 2)), w = rand({4}, {.dtype = DType::f64}) + 0.5;
  const TensorFn fn = [&](const Inputs& in) {
    return Inputs{cross_entropy(in[0], in[1], {.weight = w, .label_smoothing = 0.1})};
  };
  gradcheck(fn, {z, p});
  gradgradcheck(fn, {z, p});
}

TEST(Losses, DistancesOfEqualVectorsHaveAGradient) {
  Tensor a = ones({2, 3}, DType::f64).requires_grad_();
  backward(sum(pairwise_distance(a, ones({2, 3}, DType::f64))));
  for (double g : a.grad().to_vector<double>()) EXPECT_NEAR(g, 1 / std::sqrt(3.0), 1e-9);
  a = zeros({2, 3}, DType::f64).requires_grad_();
  backward(sum(cosine_similarity(a, ones({2, 3}, DType::f64))));
  for (double g : a.grad().to_vector<double>()) EXPECT_TRUE(std::isfinite(g));
}

}  // namespace
}  // namespace flame
