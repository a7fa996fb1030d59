// The backward engine: accumulation, hooks, modes, functions of one's own, freed graphs, checks, and depth.
#include "flame/flame.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <cstdlib>
#include <filesystem>

#include "tests/support/compare.h"
#include "tests/support/error.h"

namespace flame {
namespace {

using namespace test;
using Numbers = std::vector<double>;

Tensor leaf(const Numbers& v, const Shape& s) { return Tensor::from(v, s).requires_grad_(); }
Tensor leaf(const Numbers& v) { return leaf(v, {static_cast<int64_t>(v.size())}); }
Numbers values(const Tensor& t) { return numbers(t); }

TEST(Backward, FollowsEveryPath) {
  const Tensor x = leaf({1, 2, 3}), w = leaf({2, 2, 2});
  const Tensor shared = x * w;
  backward(sum(shared * shared + x));
  EXPECT_EQ(values(x.grad()), (Numbers{9, 17, 25}));  // 2 x w^2 + 1
  EXPECT_EQ(values(w.grad()), (Numbers{4, 16, 36}));  // 2 x^2 w
}

TEST(Backward, AccumulatesOverCalls) {
  const Tensor x = leaf({1, 2});
  for (int i = 1; i <= 3; ++i) {
    backward(sum(x * 2));
    EXPECT_EQ(values(x.grad()), (Numbers{2.0 * i, 2.0 * i}));
  }
  x.set_grad(Tensor::from(Numbers{10, 20}, {2}));
  backward(sum(x));
  EXPECT_EQ(values(x.grad()), (Numbers{11, 21}));
  x.set_grad({});
  EXPECT_FALSE(x.grad().defined());
}

TEST(Backward, TakesAGradientForMoreThanOneElement) {
  const Tensor x = leaf({1, 2});
  backward(x * 3, {.gradient = Tensor::from(Numbers{1, -1}, {2})});
  EXPECT_EQ(values(x.grad()), (Numbers{3, -3}));
  EXPECT_THROW(backward(x * 3), ShapeError);
  EXPECT_THROW(backward(x * 3, {.gradient = Tensor::from(Numbers{1}, {1})}), ShapeError);
  EXPECT_THROW(backward(x * 3, {.gradient = Tensor::from(std::vector<float>{1, 1}, {2})}), DTypeError);
  EXPECT_THROW(backward(x.detach()), AutogradError);
}

TEST(Backward, TwiceNeedsARetainedGraph) {
  const Tensor x = leaf({1, 2});
  const Tensor y = sum(exp(x) * x);
  backward(y, {.retain_graph = true});
  const Numbers once = values(x.grad());
  backward(y);
  for (size_t i = 0; i < 2; ++i) EXPECT_NEAR(values(x.grad())[i], 2 * once[i], 1e-12);
  const std::string m = message_of<AutogradError>([&] { backward(y); });
  EXPECT_NE(m.find("retain_graph"), std::string::npos) << m;
  const Tensor p = matmul(leaf({1, 2, 3, 4}, {2, 2}), leaf({1, 2, 3, 4}, {2, 2}));
  const Tensor q = sum(p);
  backward(q);
  EXPECT_THROW(backward(q), AutogradError);
}

TEST(Grad, LeavesLeavesAlone) {
  const Tensor x = leaf({1, 2}), y = leaf({3, 4}), unused = leaf({5});
  const Tensor out = sum(x * y);
  const auto g = grad({out}, {y, x}, {.retain_graph = true});
  EXPECT_EQ(values(g[0]), (Numbers{1, 2}));
  EXPECT_EQ(values(g[1]), (Numbers{3, 4}));
  EXPECT_FALSE(x.grad().defined());
  EXPECT_THROW(grad({out}, {unused}, {.retain_graph = true}), AutogradError);
  EXPECT_FALSE(grad({out}, {unused}, {.retain_graph = true, .allow_unused = true})[0].defined());
  EXPECT_THROW(grad({out}, {x.detach()}), AutogradError);
  // Of a tensor in the middle of the graph.
  const Tensor middle = x * 2;
  EXPECT_EQ(values(grad({sum(middle * middle)}, {middle})[0]), (Numbers{4, 8}));
}

TEST(Grad, OfSeveralOutputsAddsUp) {
  const Tensor x = leaf({1, 2});
  const Tensor ones_ = Tensor::from(Numbers{1, 1}, {2});
  EXPECT_EQ(values(grad({x * 2, x * 3}, {x}, {.grad_outputs = {ones_, ones_}})[0]), (Numbers{5, 5}));
}

TEST(Grad, CreatesAGraphOfHigherOrder) {
  const Tensor x = leaf({2});
  const Tensor first = grad({x * x * x * x}, {x}, {.create_graph = true})[0];
  const Tensor second = grad({first}, {x}, {.create_graph = true})[0];
  const Tensor third = grad({second}, {x})[0];
  EXPECT_EQ(values(first), (Numbers{32}));
  EXPECT_EQ(values(second), (Numbers{48}));
  EXPECT_EQ(values(third), (Numbers{48}));
  EXPECT_FALSE(third.requires_grad());
  backward(sum(x * x), {.create_graph = true});
  EXPECT_TRUE(x.grad().requires_grad());
  x.set_grad({});  // the gradient and its graph hold each other
}

TEST(Hooks, SeeTheFullSumAndMayReplaceIt) {
  const Tensor x = leaf({1, 2});
  const Tensor middle = x * 1;
  std::vector<Numbers> seen;
  middle.register_hook([&](const Tensor& g) {
    seen.push_back(values(g));
    return g * 10;
  });
  backward(sum(middle * 2 + middle * 3));
  EXPECT_EQ(seen, (std::vector<Numbers>{{5, 5}}));
  EXPECT_EQ(values(x.grad()), (Numbers{50, 50}));
  x.set_grad({});
  x.register_hook([](const Tensor&) { return Tensor(); });  // looks only
  x.register_hook([](const Tensor& g) { return clamp(g, -1.0, 1.0); });
  backward(sum(x * 7));
  EXPECT_EQ(values(x.grad()), (Numbers{1, 1}));
  EXPECT_THROW(x.detach().register_hook([](const Tensor& g) { return g; }), AutogradError);
}

TEST(Modes, NoGradAndDetach) {
  const Tensor x = leaf({1, 2});
  EXPECT_FALSE(no_grad([&] { return x * 2; }).requires_grad());
  {
    NoGrad guard;
    EXPECT_FALSE(exp(x).requires_grad());
    EXPECT_FALSE(matmul(x, x).requires_grad());
  }
  EXPECT_TRUE((x * 2).requires_grad());
  EXPECT_FALSE(x.detach().requires_grad());
  backward(sum(x * x.detach()));
  EXPECT_EQ(values(x.grad()), (Numbers{1, 2}));
  try {
    no_grad([&]() -> Tensor { throw std::runtime_error("inside"); });
  } catch (const std::runtime_error&) {}
  EXPECT_TRUE((x * 2).requires_grad());
}

TEST(Modes, FrozenParametersGetNone) {
  const Parameter p(Tensor::from(Numbers{1, 2}, {2})), q(Tensor::from(Numbers{3, 4}, {2}));
  p.requires_grad_(false);
  backward(sum(p.tensor() * q.tensor()));
  EXPECT_FALSE(p.grad().defined());
  EXPECT_EQ(values(q.grad()), (Numbers{1, 2}));
  p.requires_grad_(true);
  backward(sum(p.tensor() * q.tensor()));
  EXPECT_EQ(values(p.grad()), (Numbers{3, 4}));
}

TEST(Functions, HaveTheirOwnBackward) {
  int calls = 0;
  const Function clipped{.forward =
                             [](FunctionContext& c, const std::vector<Tensor>& in) {
                               c.saved = {in[0]};
                               return std::vector<Tensor>{round(in[0]), in[0] * in[1]};
                             },
                         .backward =
                             [&](const FunctionContext& c, const std::vector<Tensor>& g) {
                               ++calls;
                               return std::vector<Tensor>{g[0] * 2, g[1] * c.saved[0]};
                             },
                         .name = "straight_through"};
  const Tensor x = leaf({1.2, 2.7}), y = leaf({5, 6});
  const auto out = apply(clipped, {x, y});
  EXPECT_EQ(values(out[0]), (Numbers{1, 3}));
  backward(sum(out[0]) + sum(out[1]));
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(values(x.grad()), (Numbers{2, 2}));
  EXPECT_EQ(values(y.grad()), (Numbers{1.2, 2.7}));
  // Second order through a backward of tensor ops.
  const Function cube{
      .forward =
          [](FunctionContext& c, const std::vector<Tensor>& in) {
            c.saved = {in[0]};
            return std::vector<Tensor>{in[0] * in[0] * in[0]};
          },
      .backward = [](const FunctionContext& c,
                     const std::vector<Tensor>& g) { return std::vector<Tensor>{g[0] * c.saved[0] * c.saved[0] * 3}; },
      .name = "cube"};
  gradcheck([&](const std::vector<Tensor>& in) { return apply(cube, in); }, {Tensor::from(Numbers{0.5, -1.5}, {2})});
  gradgradcheck([&](const std::vector<Tensor>& in) { return apply(cube, in); },
                {Tensor::from(Numbers{0.5, -1.5}, {2})});
}

TEST(Functions, WithAWrongNumberOfGradientsAreRefused) {
  const Function bad{
      .forward = [](FunctionContext&, const std::vector<Tensor>& in) { return std::vector<Tensor>{in[0] + in[1]}; },
      .backward = [](const FunctionContext&, const std::vector<Tensor>& g) { return g; },
      .name = "forgetful"};
  const Tensor y = sum(apply(bad, {leaf({1}), leaf({2})})[0]);
  const std::string m = message_of<AutogradError>([&] { backward(y); });
  EXPECT_NE(m.find("forgetful"), std::string::npos) << m;
}

TEST(Gradcheck, FindsAWrongGradientAndNamesIt) {
  const Function wrong{.forward =
                           [](FunctionContext& c, const std::vector<Tensor>& in) {
                             c.saved = {in[1]};
                             return std::vector<Tensor>{in[0] * in[1]};
                           },
                       .backward =
                           [](const FunctionContext& c, const std::vector<Tensor>& g) {
                             return std::vector<Tensor>{g[0] * c.saved[0], g[0] * c.saved[0]};
                           },
                       .name = "wrong"};
  const std::vector<Tensor> in{Tensor::from(Numbers{1, 2}, {2}), Tensor::from(Numbers{1, 3}, {2})};
  const std::string m =
      message_of<AutogradError>([&] { gradcheck([&](const auto& x) { return apply(wrong, x); }, in); });
  EXPECT_NE(m.find("input 1, element 1"), std::string::npos) << m;
  EXPECT_THROW(gradcheck([](const auto& x) { return std::vector<Tensor>{x[0].detach() * 2}; }, in), AutogradError);
  gradcheck([](const auto& x) { return std::vector<Tensor>{x[0] * x[1]}; }, in);
}

TEST(Anomaly, NamesOpAndForwardLine) {
  const Tensor x = leaf({0, 1});
  const Tensor safe = x * 2;
  const uint32_t line = __LINE__ + 1;
  const Tensor bad = log(safe);
  const Tensor y = sum(bad * 0.5);
  backward(y, {.retain_graph = true});  // without the mode nothing is said
  AnomalyMode guard;
  try {
    backward(y);
    FAIL() << "an infinite gradient passed";
  } catch (const AutogradError& e) {
    EXPECT_NE(std::string(e.what()).find("log"), std::string::npos) << e.what();
    EXPECT_EQ(e.where().line(), line) << e.what();
    EXPECT_NE(std::string(e.where().file_name()).find("autograd_test.cpp"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("autograd_test.cpp:" + std::to_string(line)), std::string::npos) << e.what();
  }
}

TEST(Anomaly, SeesOpaqueOpsAndOperators) {
  const double nan = std::nan("");
  const Tensor a = leaf({1, 2, 3, 4}, {2, 2});
  AnomalyMode guard;
  const uint32_t line = __LINE__ + 1;
  const Tensor y = matmul(a, Tensor::from(Numbers{1, nan, 1, 1}, {2, 2}));
  try {
    backward(sum(y));
    FAIL() << "a NaN passed";
  } catch (const AutogradError& e) {
    EXPECT_NE(std::string(e.what()).find("matmul"), std::string::npos) << e.what();
    EXPECT_EQ(e.where().line(), line);
  }
  const uint32_t divided = __LINE__ + 1;
  const Tensor z = a / Tensor::from(Numbers{0}, {1});
  try {
    backward(sum(z));
    FAIL() << "an infinity passed";
  } catch (const AutogradError& e) {
    EXPECT_NE(std::string(e.what()).find("div"), std::string::npos) << e.what();
    EXPECT_EQ(e.where().line(), divided);
  }
  backward(sum(a * 2));
}

// Chains far longer than any stack: built, walked backward and destroyed.
constexpr size_t small_stack = 256 * 1024;
int64_t chain_length(int64_t full_size) { return quick() ? full_size / 50 : full_size; }

double pointwise_chain(int64_t n) {
  const Tensor x = Tensor::from(std::vector<float>{1}, {1}).requires_grad_();
  Tensor y = x;
  for (int64_t i = 0; i < n; ++i) y = i % 2 ? y * 1.0 : y + 1.0;
  backward(sum(y));
  return x.grad().item();
}
double opaque_chain(int64_t n) {
  const Tensor x = Tensor::from(std::vector<float>{1}, {1, 1}).requires_grad_();
  const Tensor one = Tensor::from(std::vector<float>{1}, {1, 1});
  Tensor y = x;
  for (int64_t i = 0; i < n; ++i) y = matmul(y, one);
  backward(sum(y));
  return x.grad().item();
}
double unused_chain(int64_t n) {  // destroyed without a backward
  const Tensor x = Tensor::from(std::vector<float>{1}, {1, 1}).requires_grad_();
  Tensor y = x;
  for (int64_t i = 0; i < n; ++i) y = i % 3 ? exp(y) * 0 : y.reshape({1, 1, 1}).reshape({1, 1});
  return y.requires_grad() ? 1 : 0;
}

template <double (*chain)(int64_t)>
double in_small_thread(int64_t n) {
  struct Job {
    int64_t n;
    double result;
  } job{n, 0};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  EXPECT_EQ(pthread_attr_setstacksize(&attributes, small_stack), 0);
  pthread_t thread;
  EXPECT_EQ(pthread_create(
                &thread, &attributes,
                [](void* p) -> void* {
                  Job& j = *static_cast<Job*>(p);
                  j.result = chain(j.n);
                  return nullptr;
                },
                &job),
            0);
  pthread_join(thread, nullptr);
  return job.result;
}

TEST(DeepChains, PointwiseInASmallThread) { EXPECT_EQ(in_small_thread<pointwise_chain>(chain_length(100000)), 1); }
TEST(DeepChains, OpaqueInASmallThread) { EXPECT_EQ(in_small_thread<opaque_chain>(chain_length(100000)), 1); }
TEST(DeepChains, UnusedInASmallThread) { EXPECT_EQ(in_small_thread<unused_chain>(chain_length(100000)), 1); }

// The words: 1,000,000 ops, pointwise and opaque, under `ulimit -s 256`.
TEST(DeepChains, AMillionOpsUnderASmallStackLimit) {
  if (std::getenv("FLAME_DEEP_CHILD")) {
    const int64_t n = chain_length(1000000);
    EXPECT_EQ(pointwise_chain(n), 1);
    EXPECT_EQ(opaque_chain(n), 1);
    return;
  }
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string command =
      "ulimit -s 256 && FLAME_DEEP_CHILD=1 exec '" + self +
      "' --gtest_brief=1 --gtest_output= --gtest_filter=DeepChains.AMillionOpsUnderASmallStackLimit";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

}  // namespace
}  // namespace flame
