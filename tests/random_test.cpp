// Random tensors: Philox by the book, distributions against their laws, replays against eager runs.
#include <cmath>
#include <limits>

#include "flame/flame.h"
#include "flame/core/philox.h"
#include "flame/device/recorder.h"
#include "flame/ops/normal_internal.h"
#include "flame/ops/philox_internal.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

TEST(Random, UniformIsPhiloxByElementAndCall) {
  for (int64_t n : {1, 3, 4, 5, 1000, 40001}) {
    Generator g(0x1234567890abcdefull);
    rand({7}, {.generator = &g});
    const std::vector<float> f = rand({n}, {.generator = &g}).to_vector<float>();
    const std::vector<double> d = rand({n}, {.dtype = DType::f64, .generator = &g}).to_vector<double>();
    for (int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<size_t>(i);
      const PhiloxBlock a = philox(0x1234567890abcdefull, at / 4, 1), b = philox(0x1234567890abcdefull, at / 2, 2);
      ASSERT_EQ(f[at], static_cast<float>(a[at % 4] >> 8) / 16777216.0f);
      const uint64_t w = b[at % 2 * 2] | uint64_t{b[at % 2 * 2 + 1]} << 32;
      ASSERT_EQ(d[at], static_cast<double>(w >> 11) * 0x1p-53);
    }
    EXPECT_EQ(g.state(), (GeneratorState{0x1234567890abcdefull, 3}));
  }
}

TEST(Random, VectorsMakeTheBlocksOfTheScalarFunction) {
  std::vector<uint32_t> words(4 * 70);
  for (uint64_t first :
       {uint64_t{0}, uint64_t{0xfffffff0u}, uint64_t{1} << 40}) {  // the second carries into the high word
    philox_words(0x9876543210ull, first, 0x1122334455667788ull, 70, words.data());
    for (size_t b = 0; b < 70; ++b)
      for (size_t k = 0; k < 4; ++k)
        ASSERT_EQ(words[4 * b + k], philox(0x9876543210ull, first + b, 0x1122334455667788ull)[k]);
    for (uint64_t step : {3u, 4096u}) {
      philox_words_of(0x9876543210ull, 4 * first + 1, step, 7, 70, words.data());
      for (uint64_t i = 0; i < 70; ++i) {
        const uint64_t at = 4 * first + 1 + i * step;
        ASSERT_EQ(words[i], philox(0x9876543210ull, at / 4, 7)[at % 4]);
      }
    }
  }
}

TEST(Random, ThreadsAndShapesDoNotMatter) {
  const int before = num_threads();
  std::vector<float> seen[2];
  for (int i = 0; i < 2; ++i) {
    set_num_threads(i ? 3 : 1);
    Generator g(5);
    seen[i] = i ? randn({100003}, {.generator = &g}).to_vector<float>()
                : randn({1, 100003, 1}, {.generator = &g}).to_vector<float>();
  }
  set_num_threads(before);
  EXPECT_EQ(seen[0], seen[1]);
}

TEST(Random, SixteenBitValuesAreTheRoundedOnes) {
  for (DType t : {DType::f16, DType::bf16}) {
    Generator a(3), b(3);
    EXPECT_EQ(randn({999}, {.dtype = t, .generator = &a}).to(DType::f32).to_vector<float>(),
              randn({999}, {.generator = &b}).to(t).to(DType::f32).to_vector<float>());
  }
}

TEST(Random, SeedsStatesAndScopes) {
  manual_seed(9);
  const std::vector<float> a = rand({10}).to_vector<float>(), b = rand({10}).to_vector<float>();
  EXPECT_NE(a, b);
  const GeneratorState here = default_generator().state();
  const std::vector<float> c = rand({10}).to_vector<float>();
  default_generator().set_state(here);
  EXPECT_EQ(rand({10}).to_vector<float>(), c);
  manual_seed(9);
  EXPECT_EQ(rand({10}).to_vector<float>(), a);
  {
    GeneratorScope scope(Generator(9));
    EXPECT_EQ(rand({10}).to_vector<float>(), a);
  }
  EXPECT_EQ(rand({10}).to_vector<float>(), b);
  manual_seed(10);
  EXPECT_NE(rand({10}).to_vector<float>(), a);
  Generator g(9);
  Generator same = g;
  EXPECT_EQ(rand({10}, {.generator = &same}).to_vector<float>(), a);
  EXPECT_EQ(g.state().offset, 1u);
}

// The largest distance between the sample's distribution and the normal one, times sqrt(n): above 1.95 once in a thousand.
double kolmogorov(std::vector<double> z) {
  std::sort(z.begin(), z.end());
  const double n = static_cast<double>(z.size());
  double worst = 0;
  for (size_t i = 0; i < z.size(); ++i) {
    const double cdf = 0.5 * std::erfc(-z[i] / std::sqrt(2.0));
    worst = std::max({worst, cdf - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - cdf});
  }
  return worst * std::sqrt(n);
}

TEST(Random, NormalsHaveTheRightMomentsShapeAndTails) {
  for (DType t : {DType::f32, DType::f64}) {
    Generator g(11);
    const int64_t n = 2000000;
    const std::vector<double> z = randn({n}, {.dtype = t, .generator = &g}).to(DType::f64).to_vector<double>();
    double m[5] = {};
    int64_t beyond3 = 0, beyond5 = 0;
    for (double x : z) {
      for (int k = 1; k < 5; ++k) m[k] += std::pow(x, k) / static_cast<double>(n);
      beyond3 += std::abs(x) > 3;
      beyond5 += std::abs(x) > 5;
    }
    const double s = 1 / std::sqrt(static_cast<double>(n));  // five standard errors each
    EXPECT_NEAR(m[1], 0, 5 * s);
    EXPECT_NEAR(m[2], 1, 5 * std::sqrt(2.0) * s);
    EXPECT_NEAR(m[3], 0, 5 * std::sqrt(15.0) * s);
    EXPECT_NEAR(m[4], 3, 5 * std::sqrt(96.0) * s);
    EXPECT_NEAR(static_cast<double>(beyond3), 0.0026998 * static_cast<double>(n),
                5 * std::sqrt(0.0027 * static_cast<double>(n)));
    EXPECT_LE(beyond5, 10);  // 1.1 expected
    EXPECT_LT(kolmogorov(z), 1.95);
    std::vector<double> shifted = z;
    for (double& x : shifted) x = x * 1.02;  // a control: two per cent too wide is told apart
    EXPECT_GT(kolmogorov(shifted), 1.95);
  }
}

// Newton's method on erfc in long double.
long double quantile(long double p) {
  long double x = std::sqrt(-2 * std::log(p)) - 0.5L;
  if (p > 0.1L) x = (0.5L - p) * 2.5066282746310005L;
  for (int i = 0; i < 100; ++i) {
    const long double tail = std::erfc(x / std::sqrt(2.0L)) / 2;
    const long double step = (std::log(tail) - std::log(p)) * tail * std::exp(x * x / 2) * 2.506628274631000502L;
    x += step;
    if (std::abs(step) <= 1e-19L * std::abs(x)) break;
  }
  return x;
}

TEST(Random, InverseNormalIsAccurateToTheEnds) {
  double worst32 = 0, worst64 = 0;
  for (int i = 0; i < 4000; ++i) {
    const PhiloxBlock r = philox(1, static_cast<uint64_t>(i), 2);
    const uint64_t m = ((r[0] | uint64_t{r[1]} << 32) >> 1) >> (i % 50);  // reaches far into the tail
    const long double p64 = (static_cast<long double>(m) + 0.5L) * 0x1p-64L;
    if (p64 < 0.45L)
      worst64 = std::max(worst64, static_cast<double>(std::abs(inverse_normal::from_bits(m) / quantile(p64) - 1)));
    const auto m32 = static_cast<uint32_t>((r[2] >> 1) >> (i % 31));
    const long double p32 = (m32 + 0.5L) * 0x1p-32L;
    if (p32 < 0.45L)
      worst32 = std::max(worst32, static_cast<double>(std::abs(inverse_normal::from_bits(m32) / quantile(p32) - 1)));
  }
  RecordProperty("worst_float32", std::to_string(worst32));
  EXPECT_LT(worst32, 3e-7);
  EXPECT_LT(worst64, 1e-15);
  // The sign is the top bit, the middle is smooth, and the ends are finite.
  EXPECT_EQ(inverse_normal::from_bits(0x80000000u), -inverse_normal::from_bits(0u));
  EXPECT_NEAR(inverse_normal::from_bits(0u), 6.338, 1e-3);
  EXPECT_NEAR(inverse_normal::from_bits(uint64_t{0}), 9.155, 1e-3);
  EXPECT_GT(inverse_normal::from_bits(0x7fffffffu), 0);
  EXPECT_LT(inverse_normal::from_bits(0x7fffffffu), 1e-8);
}

TEST(Random, NormalAndUniformShiftAndScale) {
  Generator a(1), b(1);
  const std::vector<double> z = randn({100}, {.dtype = DType::f64, .generator = &a}).to_vector<double>();
  const std::vector<double> y = normal({100}, 3, 0.5, {.dtype = DType::f64, .generator = &b}).to_vector<double>();
  for (size_t i = 0; i < z.size(); ++i) EXPECT_EQ(y[i], 3 + 0.5 * z[i]);
  double low = 9, high = -9;
  for (float v : uniform({100000}, -2, 3).to_vector<float>()) {
    low = std::min<double>(low, v);
    high = std::max<double>(high, v);
  }
  EXPECT_GE(low, -2);
  EXPECT_LT(low, -1.99);
  EXPECT_LE(high, 3);
  EXPECT_GT(high, 2.99);
  EXPECT_MESSAGE(ValueError, normal({2}, 0, -1), "normal: expected a standard deviation of 0 or more, got -1");
  EXPECT_MESSAGE(ValueError, uniform({2}, 1, 0), "uniform: expected low <= high, got 1 and 0");
  EXPECT_MESSAGE(DTypeError, rand({2}, {.dtype = DType::i32}), "rand: expected a floating dtype, got int32");
  EXPECT_MESSAGE(ShapeError, rand({-2}), "rand: expected sizes of 0 or more, got [-2]");
}

TEST(Random, IntegersAreUniform) {
  const int64_t n = 300000;
  std::vector<double> counts(7);
  for (int64_t v : randint(-3, 4, {n}).to_vector<int64_t>()) {
    ASSERT_GE(v, -3);
    ASSERT_LT(v, 4);
    counts[static_cast<size_t>(v + 3)] += 1;
  }
  double chi2 = 0;
  for (double c : counts) chi2 += (c - n / 7.0) * (c - n / 7.0) / (n / 7.0);
  EXPECT_LT(chi2, 22.5);  // 6 degrees of freedom: once in a thousand
  EXPECT_EQ(randint(5, 6, {3}).to_vector<int64_t>(), (std::vector<int64_t>{5, 5, 5}));
  EXPECT_EQ(randint(0, 9, {3}, {.dtype = DType::u8}).dtype(), DType::u8);
  EXPECT_EQ(randint(0, 9, {3}, {.dtype = DType::f32}).dtype(), DType::f32);
  const int64_t least = std::numeric_limits<int64_t>::min(), most = std::numeric_limits<int64_t>::max();
  int64_t negative = 0;
  for (int64_t v : randint(least, most, {1000}).to_vector<int64_t>()) negative += v < 0;
  EXPECT_NEAR(static_cast<double>(negative), 500, 80);
  EXPECT_MESSAGE(ValueError, randint(4, 4, {2}), "randint: expected low < high, got 4 and 4");
}

TEST(Random, PermutationsHoldEveryNumberOnce) {
  Generator g(2);
  const std::vector<int64_t> a = randperm(1000, {.generator = &g}).to_vector<int64_t>();
  const std::vector<int64_t> b = randperm(1000, {.generator = &g}).to_vector<int64_t>();
  std::vector<int64_t> sorted = a;
  std::sort(sorted.begin(), sorted.end());
  for (int64_t i = 0; i < 1000; ++i) EXPECT_EQ(sorted[static_cast<size_t>(i)], i);
  EXPECT_NE(a, sorted);
  EXPECT_NE(a, b);
  EXPECT_EQ(randperm(0).numel(), 0);
  std::vector<int> seen(6);  // all orders of three come about equally often
  for (int i = 0; i < 6000; ++i) {
    const std::vector<int64_t> p = randperm(3, {.generator = &g}).to_vector<int64_t>();
    ++seen[static_cast<size_t>(p[0] * 2 + (p[1] > p[2]))];
  }
  for (int c : seen) EXPECT_NEAR(c, 1000, 150);
}

TEST(Random, BernoulliRatesAndEnds) {
  double heads = 0;
  for (bool b : bernoulli({200000}, 0.3).to_vector<bool>()) heads += b;
  EXPECT_NEAR(heads, 60000, 5 * std::sqrt(42000.0));
  EXPECT_EQ(bernoulli({1000}, 0).to(DType::i64).sum().item(), 0);
  EXPECT_EQ(bernoulli({1000}, 1).to(DType::i64).sum().item(), 1000);
  const Tensor p = Tensor::from(std::vector<float>{0, 1, 0.5f}, {3, 1}).expand({3, 10000});
  const std::vector<float> rate = bernoulli(p).mean(1).to_vector<float>();
  EXPECT_EQ(rate[0], 0);
  EXPECT_EQ(rate[1], 1);
  EXPECT_NEAR(rate[2], 0.5, 0.03);
  EXPECT_MESSAGE(ValueError, bernoulli({2}, 1.5), "bernoulli: expected a probability in [0, 1], got 1.5");
  EXPECT_MESSAGE(ValueError, bernoulli({2}, NAN), "bernoulli: expected a probability in [0, 1], got nan");
}

// A step with three draws, noted by a Recorder and run again by hand as a replay would: hooks, then launches.
TEST(Random, ReplaysDrawWhatEagerStepsDraw) {
  Generator eager(77), recorded(77);
  const auto step = [](Generator& g) {
    return std::vector<Tensor>{rand({5}, {.generator = &g}), randn({3}, {.generator = &g}),
                               bernoulli({9}, 0.5, {.generator = &g})};
  };
  const auto numbers = [](const std::vector<Tensor>& t) {
    std::vector<double> out;
    for (const Tensor& x : t)
      for (double v : x.to(DType::f64).to_vector<double>()) out.push_back(v);
    return out;
  };
  EXPECT_EQ(numbers(step(recorded)), numbers(step(eager)));  // before the recording
  std::vector<Tensor> out;
  std::vector<RecordedLaunch> launches;
  std::vector<Recorder::Hook> hooks;
  std::vector<int64_t> deltas[2];
  for (int warm_up = 0; warm_up < 2; ++warm_up) {
    {
      Recorder recorder;
      out = step(recorded);
      launches = recorder.launches;
      hooks = recorder.hooks;
    }
    for (const RecordedLaunch& l : launches) deltas[warm_up].push_back(l.scalars[1].i);
    EXPECT_EQ(hooks.size(), 1u);
    EXPECT_EQ(numbers(out), numbers(step(eager)));
  }
  EXPECT_EQ(deltas[0], (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(deltas[0], deltas[1]);  // so the two lists are equal
  ASSERT_EQ(launches.size(), out.size());
  const auto replay = [&] {
    for (const Recorder::Hook& hook : hooks) hook.advance();
    for (size_t i = 0; i < launches.size(); ++i) {
      void* buffer = out[i].data();
      launches[i].plan->body(flame::Run{&buffer, launches[i].scalars.data(), nullptr});
    }
  };
  for (int i = 0; i < 4; ++i) {
    replay();
    EXPECT_EQ(numbers(out), numbers(step(eager))) << "replay " << i;
    if (i == 1) {
      EXPECT_EQ(rand({4}, {.generator = &recorded}).to_vector<float>(),
                rand({4}, {.generator = &eager}).to_vector<float>());
    }
    if (i == 2) {
      recorded.manual_seed(5);
      eager.manual_seed(5);
    }
    EXPECT_EQ(recorded.state(), eager.state());
  }
  Recorder recorder;
  EXPECT_MESSAGE(RecordError, recorded.manual_seed(1), "generator: seeded inside a recorded step");
}

// The whole path: a recorded training step with dropout, batch norm and cross-entropy, against the same eager step.
TEST(Random, RecordedTrainingStepsDrawAndLearnAsEagerOnes) {
  struct Model {
    Generator g{3};
    Parameter w{normal({20, 6}, 0, 0.3, {.generator = &g})}, scale{ones({20})}, shift{zeros({20})},
        head{normal({5, 20}, 0, 0.3, {.generator = &g})};
    State mean{zeros({20})}, var{ones({20})};
    Tensor step(const Tensor& x, const Tensor& t) {
      Tensor h = (x.unsqueeze(1) * w.tensor()).sum(2);
      h = dropout(relu(batch_norm(h, mean, var, scale, shift)), 0.3, true, &g);
      h = dropout(h, 0.2, true, &g) + normal({20}, 0, 0.1, {.generator = &g});
      Tensor loss = cross_entropy((h.unsqueeze(1) * head.tensor()).sum(2), t, {.label_smoothing = 0.1});
      backward(loss);
      for (const Parameter* p : {&w, &scale, &shift, &head}) {
        p->assign(no_grad([&] { return p->tensor().detach() - p->grad() * 0.1; }));
        p->zero_grad();
      }
      return loss;
    }
  };
  Model eager, replayed;
  auto step = record([&](const Tensor& x, const Tensor& t) { return replayed.step(x, t); }, {.verify = 3});
  Generator data(8);
  for (int i = 0; i < 12; ++i) {
    const Tensor x = randn({16, 6}, {.generator = &data}), t = randint(0, 5, {16}, {.generator = &data});
    x.data();
    EXPECT_EQ(step(x, t).item(), eager.step(x, t).item()) << "step " << i;
    EXPECT_EQ(replayed.g.state(), eager.g.state()) << "step " << i;
  }
  EXPECT_GE(step.stats().replays, 8u) << step.stats().last_miss;
  EXPECT_EQ(replayed.mean.tensor().to_vector<float>(), eager.mean.tensor().to_vector<float>());
  EXPECT_EQ(replayed.head.tensor().to_vector<float>(), eager.head.tensor().to_vector<float>());
}

}  // namespace
}  // namespace flame
