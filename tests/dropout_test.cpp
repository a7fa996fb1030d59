// Dropout without a mask: the numbers that bernoulli would draw, inside islands and again in backward.
#include <cmath>
#include <thread>

#include "flame/flame.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

TEST(Dropout, KeepsScalesAndForgets) {
  Generator g(4);
  const Tensor x = full({100000}, 3.0);
  const std::vector<float> y = dropout(x, 0.2, true, &g).to_vector<float>();
  double kept = 0;
  for (float v : y) {
    ASSERT_TRUE(v == 0 || v == 3.0f * 1.25f) << v;
    kept += v != 0;
  }
  EXPECT_NEAR(kept, 80000, 5 * std::sqrt(16000.0));
  EXPECT_NE(dropout(x, 0.2, true, &g).to_vector<float>(), y);
}

TEST(Dropout, EndsAreExact) {
  const Tensor x = Tensor::from(std::vector<float>{1, NAN, INFINITY, -2}, {4});
  EXPECT_EQ(&dropout(x, 0.0).value(), &x.value());
  EXPECT_EQ(&dropout(x, 0.7, false).value(), &x.value());
  EXPECT_EQ(dropout(x, 1.0).to_vector<float>(), std::vector<float>(4, 0.0f));
  Tensor z = full({8}, 2.0);
  z.requires_grad_();
  backward(dropout(z, 1.0).sum());
  EXPECT_EQ(z.grad().to_vector<float>(), std::vector<float>(8, 0.0f));
  EXPECT_MESSAGE(ValueError, dropout(x, -0.1), "dropout: expected a probability in [0, 1], got -0.1");
  EXPECT_MESSAGE(ValueError, dropout(x, 1.5), "dropout: expected a probability in [0, 1], got 1.5");
  EXPECT_MESSAGE(DTypeError, dropout(arange(3)), "dropout: expected a floating dtype, got int64");
}

TEST(Dropout, GradientUsesTheForwardsMask) {
  Tensor x = randn({50, 3});
  x.requires_grad_();
  const Tensor y = dropout(x, 0.5);
  rand({7});  // other draws in between
  backward(y.sum());
  const std::vector<float> v = y.to_vector<float>(), g = x.grad().to_vector<float>();
  for (size_t i = 0; i < v.size(); ++i) EXPECT_EQ(g[i], v[i] == 0 ? 0.0f : 2.0f);
  const TensorFn fn = [](const std::vector<Tensor>& in) {
    Generator g(3);
    return std::vector<Tensor>{square(dropout(in[0], 0.4, true, &g))};
  };
  const Tensor d = randn({4, 5}, {.dtype = DType::f64});
  gradcheck(fn, {d});
  gradgradcheck(fn, {d});
}

// The same by a stored mask.
Tensor by_mask(const Tensor& x, double p, Generator* g) {
  const Tensor keep = bernoulli(x.shape(), 1 - p, {.device = &x.device(), .generator = g});
  return where(keep, mul(x, p == 1 ? 1 : 1 / (1 - p)), 0.0);
}
using Drop = Tensor (*)(const Tensor&, double, Generator*);
Tensor by_draw(const Tensor& x, double p, Generator* g) { return dropout(x, p, true, g); }

struct Layout {
  const char* name;
  Shape shape;                        // of what is made
  Tensor (*view)(const Tensor& all);  // and what dropout sees of it
};
const Layout layouts[] = {
    {"dense", {7, 5, 9}, [](const Tensor& x) { return x; }},
    {"long", {70001}, [](const Tensor& x) { return x; }},
    {"0-d", {}, [](const Tensor& x) { return x; }},
    {"empty", {3, 0}, [](const Tensor& x) { return x; }},
    {"transposed", {33, 64}, [](const Tensor& x) { return x.t(); }},
    {"every other", {6, 50}, [](const Tensor& x) { return x.slice(1, 1, 50, 2); }},
    {"channels last",
     {2, 6, 5, 12},
     [](const Tensor& x) {
       return x.permute({0, 3, 1, 2});
     }},
    {"repeated",
     {1, 40},
     [](const Tensor& x) {
       return x.expand({9, 40});
     }},
};

TEST(Dropout, IsTheFormerMasks) {
  for (const DType t : {DType::f32, DType::f64, DType::f16, DType::bf16})
    for (const Layout& l : layouts)
      for (const double p : {0.1, 0.5, 1e-18, 1.0}) {
        Tensor leaf = randn(l.shape, {.dtype = t});
        leaf.requires_grad_();
        std::vector<Tensor> seen;
        for (const Drop drop : {by_mask, by_draw}) {
          Generator g(0x123456789abcdefull);
          rand({3}, {.generator = &g});
          const Tensor y = drop(l.view(leaf), p, &g);
          EXPECT_EQ(g.state().offset, 2u);
          seen.push_back(y.detach());
          seen.push_back(grad({y}, {leaf}, {.grad_outputs = {randn(y.shape(), {.dtype = t, .generator = &g})}})[0]);
        }
        EXPECT_EQ(test::difference(seen[0], seen[2]), "") << name_of(t) << " " << l.name << " " << p;
        EXPECT_EQ(test::difference(seen[1], seen[3]), "") << "gradient, " << name_of(t) << " " << l.name << " " << p;
      }
}

// What stands around dropout in networks: reductions of rows, long rows and columns before and after it.
struct Around {
  const char* name;
  Shape shape;
  std::vector<Tensor> (*fn)(const Tensor& x, const std::function<Tensor(const Tensor&)>& drop);
};
const Around arounds[] = {
    {"bias and residual",
     {40, 96},
     [](const Tensor& x, const auto& drop) { return std::vector<Tensor>{drop(x * 2 + x.slice(0, 0, 1)) + x}; }},
    {"rows",
     {37, 96},
     [](const Tensor& x, const auto& drop) {
       const Tensor h = drop(x) + x;
       return std::vector<Tensor>{h - h.mean(-1, true), h.sum(-1)};
     }},
    {"odd rows",
     {37, 51},
     [](const Tensor& x, const auto& drop) {
       const Tensor h = drop(x) + x;
       return std::vector<Tensor>{h - h.mean(-1, true), h.sum(-1)};
     }},
    {"rows of two warps",
     {5, 1500},
     [](const Tensor& x, const auto& drop) {
       const Tensor h = drop(x) + x;
       return std::vector<Tensor>{h - h.mean(-1, true)};
     }},
    {"of row values",
     {37, 96},
     [](const Tensor& x, const auto& drop) { return std::vector<Tensor>{x - drop(x.mean(-1, true))}; }},
    {"inner rows",
     {3, 8, 4, 10},
     [](const Tensor& x, const auto& drop) {
       return std::vector<Tensor>{drop(x).sum(Axes{1, 3}), drop(x)};
     }},
    {"long rows", {3, 9001}, [](const Tensor& x, const auto& drop) { return std::vector<Tensor>{drop(x).sum(-1)}; }},
    {"all", {300, 41}, [](const Tensor& x, const auto& drop) { return std::vector<Tensor>{drop(x).sum()}; }},
    {"columns",
     {700, 96},
     [](const Tensor& x, const auto& drop) {
       const Tensor h = drop(x);
       return std::vector<Tensor>{h, h.sum(0)};
     }},
    {"few columns", {300, 24}, [](const Tensor& x, const auto& drop) { return std::vector<Tensor>{drop(x).sum(0)}; }},
    {"middle", {5, 70, 64}, [](const Tensor& x, const auto& drop) { return std::vector<Tensor>{drop(x).sum(1)}; }},
    {"twice",
     {64, 33},
     [](const Tensor& x, const auto& drop) {
       return std::vector<Tensor>{drop(drop(x) + 1) + drop(x).t().contiguous().t()};
     }},
};
std::vector<Tensor> run(const Around& a, const Tensor& x, Drop by) {
  Generator g(11);
  std::vector<Tensor> out = a.fn(x, [&](const Tensor& t) { return by(t, 0.3, &g); });
  for (Tensor& t : out) t = t.to(cpu());
  return out;
}

TEST(Dropout, HasTheSameBitsInEveryIsland) {
  for (const DType t : {DType::f32, DType::bf16, DType::f64})
    for (const Around& a : arounds) {
      const Tensor x = randn(a.shape, {.dtype = t});
      flush_pending();
      const std::vector<Tensor> want = run(a, x, by_mask), got = run(a, x, by_draw);
      set_fusion(false);
      const std::vector<Tensor> alone = run(a, x, by_draw);
      set_fusion(true);
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_EQ(test::difference(want[i], got[i]), "") << a.name << " " << name_of(t);
        EXPECT_EQ(test::difference(want[i], alone[i]), "") << a.name << " " << name_of(t) << ", alone";
      }
    }
}

// y = x + dropout(gelu(x W + b)): one launch behind the product, and in backward the number is all that is kept of the mask.
TEST(Dropout, IsPartOfItsNeighboursLaunchAndKeepsNoMask) {
  Tensor x = randn({256, 64}), h = randn({256, 64}), b = randn({64});
  h.requires_grad_();
  const Tensor seed = randn({256, 64});
  flush_pending();
  const Stats before = stats();
  const size_t bytes = memory_stats().allocated;
  const Tensor y = dropout(h + b, 0.1) + x;
  y.detach().span<float>();
  EXPECT_EQ(stats().launches - before.launches, 1u);
  EXPECT_EQ(memory_stats().allocated - bytes, 256u * 64 * 4);
  const uint64_t launches = stats().launches;
  const Tensor g = grad({y}, {h}, {.grad_outputs = {seed}})[0];
  g.span<float>();
  EXPECT_EQ(stats().launches - launches, 1u);
}

TEST(Dropout, DrawsAgainWhateverBecameOfTheGenerator) {
  for (const bool pending : {true, false}) {
    Tensor x = randn({50, 6});
    x.requires_grad_();
    auto g = std::make_unique<Generator>(3);
    const Tensor y = dropout(x, 0.5, true, g.get());
    if (!pending) y.detach().span<float>();
    dropout(x, 0.5, true, g.get()).detach().span<float>();
    g->manual_seed(77);
    g.reset();
    Generator same(3);
    const Tensor want = by_mask(x.detach(), 0.5, &same);
    std::thread([&] { EXPECT_EQ(test::difference(y.detach(), want), ""); }).join();
    const std::vector<float> v = want.to_vector<float>(), d = grad({y.sum()}, {x})[0].to_vector<float>();
    for (size_t i = 0; i < v.size(); ++i) ASSERT_EQ(d[i], v[i] == 0 ? 0.0f : 2.0f);
  }
}

// A number drawn before a recording stays the same in its replays; one drawn inside moves on, forward and backward alike.
TEST(Dropout, RecordedStepsDrawWhatEagerOnesDo) {
  struct Run {
    Generator g{5};
    Parameter w{randn({8, 40}, {.generator = &g})};
    Tensor x = randn({8, 40}, {.generator = &g});
    Tensor before = dropout(x, 0.5, true, &g);
    Tensor step() {
      const Tensor once = dropout(w.tensor() * x, 0.5, true, &g);
      const Tensor loss = (dropout(once + before, 0.25, true, &g) * once).sum();
      backward(loss);
      w.assign(no_grad([&] { return w.tensor().detach() - w.grad() * 0.01; }));
      w.zero_grad();
      return loss.detach();
    }
  } eager, recorded;
  auto step = record([&] { return recorded.step(); });
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(step().item(), eager.step().item()) << i;
    EXPECT_EQ(recorded.g.state(), eager.g.state());
  }
  EXPECT_GE(step.stats().replays, 4u) << step.stats().last_miss;
  EXPECT_EQ(test::difference(recorded.w.tensor(), eager.w.tensor()), "");
}

TEST(CudaDropout, HasTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16, DType::f64, DType::f16}) {
    for (const Layout& l : layouts) {
      const Tensor x = randn(l.shape, {.dtype = t}), there = x.to(d);
      Generator a(5), b(5);
      EXPECT_EQ(test::difference(by_draw(l.view(there), 0.3, &b).to(cpu()), by_draw(l.view(x), 0.3, &a)), "")
          << l.name << " " << name_of(t);
    }
    for (const Around& a : arounds) {
      const Tensor x = randn(a.shape, {.dtype = t});
      const std::vector<Tensor> here = run(a, x, by_draw), there = run(a, x.to(d), by_draw);
      for (size_t i = 0; i < here.size(); ++i)
        EXPECT_EQ(test::difference(there[i], here[i]), "") << a.name << " " << name_of(t);
    }
  }
}

}  // namespace
}  // namespace flame
