// The last layer and its loss in one against the two ops: bits of one group, sums of several, memory, dtypes, second derivatives.
#include <algorithm>
#include <cmath>

#include "flame/autograd/node.h"
#include "flame/flame.h"
#include "flame/ops/cross_entropy_internal.h"
#include "flame/ops/product_sum_internal.h"
#include "tests/emulator/emulated_device.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"
#include "tests/support/listing_device.h"

namespace flame {
namespace {

using namespace test;

struct Head {
  Tensor x, w, target;
  explicit Head(DType t, int64_t rows = 30, int64_t in = 16, int64_t classes = 50) {
    Generator g(7);
    x = normal({rows, in}, 0, 1, {.dtype = t, .generator = &g});
    w = normal({classes, in}, 0, 0.5, {.dtype = t, .generator = &g});
    target = where(eq(remainder(arange(rows), 7), 3), -100, randint(0, classes, {rows}, {.generator = &g}));
    x.requires_grad_();
    w.requires_grad_();
  }
  // The loss times `scale`, and its gradients.
  std::vector<Tensor> together(const LinearCrossEntropyOptions& o, double scale = 1) const {
    return results(linear_cross_entropy(x, w, target, o), scale);
  }
  std::vector<Tensor> apart(const LinearCrossEntropyOptions& o, double scale = 1) const {
    const CrossEntropyOptions each{.label_smoothing = o.label_smoothing, .reduction = o.reduction};
    return results(cross_entropy(linear(x, w), target, each), scale);
  }
  std::vector<Tensor> results(const Tensor& loss, double scale) const {
    const std::vector<Tensor> g = grad({loss}, {x, w}, {.grad_outputs = {full({}, scale, loss.dtype())}});
    return {loss.detach(), g[0], g[1]};
  }
};

TEST(LinearCrossEntropy, OneGroupIsTheTwoOps) {
  for (const Reduction r : {Reduction::mean, Reduction::sum}) {
    const Head h(DType::f64);
    const LinearCrossEntropyOptions o{.label_smoothing = 0.1, .reduction = r};
    const std::vector<Tensor> one = h.together(o), two = h.apart(o);
    for (size_t i = 0; i < 3; ++i) EXPECT_LT(error_of(one[i], two[i]).units, 4) << i;
  }
}

TEST(LinearCrossEntropy, GroupsAddUp) {
  const Head h(DType::f64), wide(DType::f32);
  for (const int64_t rows : {1, 4, 7, 29, 100}) {
    const std::vector<Tensor> got = h.together({.rows = rows}, 3), want = h.apart({}, 3);
    for (size_t i = 0; i < 3; ++i) EXPECT_LT(error_of(got[i], want[i]).units, 64) << rows << " " << i;
    const std::vector<Tensor> narrow = wide.together({.rows = rows}), near = wide.apart({});
    for (size_t i = 0; i < 3; ++i) EXPECT_LT(error_of(narrow[i], near[i]).units, 64) << rows << " " << i;
  }
}

// Gradients of 16 bits that a loss scale lifts above the smallest number; those of float16 would be 0 without it.
TEST(LinearCrossEntropy, SixteenBitsAndLossScales) {
  for (const DType t : {DType::bf16, DType::f16}) {
    const Head h(t);
    const double scale = 1024;
    const std::vector<Tensor> got = h.together({.rows = 8}, scale), want = h.apart({}, scale);
    EXPECT_EQ(got[0].dtype(), DType::f32);
    EXPECT_EQ(got[1].dtype(), t);
    EXPECT_EQ(got[2].dtype(), t);
    for (size_t i = 1; i < 3; ++i)
      EXPECT_LT(error_of(got[i], want[i].to(DType::f64)).units, 4) << name_of(t) << " " << i;
  }
  Head small(DType::f16, 4, 8, 3);
  const Tensor x = (small.x.detach() * 1e-4).detach().requires_grad_();
  const auto slope = [&](double scale) {
    const Tensor loss = linear_cross_entropy(x, small.w, zeros({4}, DType::i64)) * 1e-4;
    return grad({loss}, {small.w}, {.grad_outputs = {full({}, scale, DType::f32)}})[0].to(DType::f32);
  };
  EXPECT_EQ(max(abs(slope(1))).item(), 0);
  EXPECT_GT(max(abs(slope(65536))).item(), 0);
}

TEST(LinearCrossEntropy, LogitsOfAllRowsNeverExist) {
  const Head h(DType::f32, 4096, 8, 512);  // 8 MiB of logits
  const auto peak = [&](const std::function<std::vector<Tensor>()>& fn) {
    const size_t before = memory_stats(cpu()).allocated;
    reset_peak_memory(cpu());
    fn();
    return static_cast<double>(memory_stats(cpu()).peak - before) / (1 << 20);
  };
  EXPECT_GT(peak([&] { return h.apart({}); }), 15);
  EXPECT_LT(peak([&] { return h.together({.rows = 256}); }), 3);
}

TEST(LinearCrossEntropy, OnlyWhatIsWanted) {
  Head h(DType::f32);
  EXPECT_FALSE(no_grad([&] { return linear_cross_entropy(h.x, h.w, h.target); }).requires_grad());
  const std::vector<Tensor> all = h.together({.rows = 10});
  const Tensor loss = linear_cross_entropy(h.x.detach(), h.w, h.target, {.rows = 10});
  EXPECT_EQ(bytes(grad({loss}, {h.w})[0]), bytes(all[2]));
  EXPECT_TRUE(std::isnan(linear_cross_entropy(h.x, h.w, full({30}, -100, DType::i64)).item()));
}

// x is a function of the weight too, and hooks see each gradient once.
TEST(LinearCrossEntropy, SecondDerivativesOfATiedWeight) {
  const Head h(DType::f64, 12, 4, 5);
  const Tensor w = h.w.detach().requires_grad_(), t = h.target;
  int calls = 0;
  w.register_hook([&](const Tensor& g) {
    ++calls;
    return g * 2;
  });
  const auto derivatives = [&](const auto& fn, bool whole) {
    const Tensor x = tanh(matmul(h.x.detach(), w.t()).narrow(1, 0, 4));
    const Tensor loss = fn(whole ? x : x.detach());
    const Tensor first = grad({loss}, {w}, {.create_graph = true})[0];
    return std::vector<Tensor>{first.detach(), grad({sum(square(first))}, {w})[0]};
  };
  for (const bool whole : {true, false}) {
    const auto one = derivatives([&](const Tensor& x) { return linear_cross_entropy(x, w, t, {.rows = 5}); }, whole);
    const int once = calls;
    const auto two = derivatives([&](const Tensor& x) { return cross_entropy(linear(x, w), t); }, whole);
    EXPECT_EQ(calls, 2 * once);
    calls = 0;
    for (size_t i = 0; i < 2; ++i) EXPECT_LT(error_of(one[i], two[i]).units, 64) << whole << i;
  }
}

TEST(LinearCrossEntropy, InACheckpoint) {
  const Head h(DType::f32);
  for (const bool scope : {false, true}) {
    const auto loss = [&](const Tensor& x) { return linear_cross_entropy(tanh(x), h.w, h.target, {.rows = 8}); };
    const auto run = [&](bool checkpointed) {
      const AutocastScope amp(scope ? std::optional(DType::bf16) : std::nullopt);
      const Tensor y = checkpointed ? checkpoint(loss, h.x) : loss(h.x);
      return grad({y}, {h.x, h.w});
    };
    const std::vector<Tensor> one = run(true), two = run(false);
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(bytes(one[i]), bytes(two[i])) << scope << i;
  }
}

TEST(LinearCrossEntropy, NoRowThatCounts) {
  const Head h(DType::f32);
  const AnomalyMode watched;
  const Tensor loss = linear_cross_entropy(h.x, h.w, full({30}, -100, DType::i64));
  EXPECT_TRUE(std::isnan(loss.item()));
  for (const Tensor& g : grad({loss}, {h.x, h.w})) EXPECT_EQ(max(abs(g)).item(), 0);
}

TEST(LinearCrossEntropy, AutocastAndRecordedSteps) {
  const Parameter w(normal({20, 8}, 0, 1)), v(w.tensor().detach());
  optim::SGD a({w}, {.lr = 0.1}), b({v}, {.lr = 0.1});
  const auto step_of = [](const Parameter& p, optim::SGD& opt) {
    return [&](const Tensor& x, const Tensor& t) {
      const Tensor loss = autocast(DType::bf16, [&] { return linear_cross_entropy(x, p, t, {.rows = 3}); });
      backward(loss);
      opt.step();
      return loss;
    };
  };
  const auto eager = step_of(w, a);
  auto recorded = record(step_of(v, b));
  for (int i = 0; i < 6; ++i) {
    const Tensor x = normal({10, 8}, 0, 1), t = randint(0, 20, {10});
    const Tensor one = eager(x, t), two = recorded(x, t);
    EXPECT_EQ(one.dtype(), DType::f32);
    EXPECT_EQ(bytes(one), bytes(two)) << i;
    EXPECT_EQ(bytes(w.tensor()), bytes(v.tensor())) << i;
  }
  EXPECT_EQ(recorded.stats().replays, 4u) << recorded.stats().last_miss;
}

// The gradients that the forward pass has made are those that are multiplied with what arrives.
TEST(LinearCrossEntropy, WhateverArrivesAtTheLoss) {
  for (const DType t : {DType::f32, DType::bf16}) {
    const Head h(t);
    const auto loss_of = [&] { return linear_cross_entropy(h.x, h.w, h.target, {.rows = 8}); };
    const auto times = [&](double number) {
      const Tensor seed = full({}, number, DType::f32);
      seed.data();  // a number that nobody looks at before it is multiplied with
      return grad({loss_of()}, {h.x, h.w}, {.grad_outputs = {seed}});
    };
    const std::vector<Tensor> one = times(1), two = times(2), three = times(3);
    const auto expect = [&](const char* what, const std::vector<Tensor>& got, const std::vector<Tensor>& want) {
      for (size_t i = 0; i < 2; ++i) EXPECT_EQ(difference(got[i], want[i]), "") << what << " " << name_of(t) << i;
    };
    const auto gradients = [&](const Tensor& loss) { return grad({loss}, {h.x, h.w}); };
    expect("the loss", gradients(loss_of()), one);
    expect("times 1", gradients(loss_of() * 1.0), one);
    const Tensor loss = loss_of();
    expect("twice", gradients(loss + loss), two);
    const Tensor hooked = loss_of();
    hooked.register_hook([](const Tensor& g) { return full_like(g, 3); });
    expect("replaced", gradients(hooked), three);
    const Tensor kept = loss_of();
    backward(kept, {.retain_graph = true});
    expect("first", {h.x.grad(), h.w.grad()}, one);
    backward(kept);
    expect("second", {h.x.grad(), h.w.grad()}, two);
  }
}

// What hooks on saved tensors get: nothing twice, and the weight as it was multiplied with.
TEST(LinearCrossEntropy, SavesTheWeightOnce) {
  std::vector<Meta> packed;
  const auto loss_of = [&](const Head& h) {
    packed.clear();
    const SavedTensorHooksScope scope({[&](const Tensor& t) {
                                         packed.push_back({t.dtype(), t.shape(), t.strides()});
                                         return std::any(t);
                                       },
                                       [](const std::any& t) { return std::any_cast<Tensor>(t); }});
    return linear_cross_entropy(h.x, h.w, h.target, {.rows = 8});
  };
  const auto like_the_weight = [&](DType t) {
    return std::ranges::count_if(packed, [&](const Meta& m) { return m.dtype == t && m.shape == Shape{50, 16}; });
  };
  loss_of(Head(DType::f16));
  EXPECT_EQ(packed.size(), 4u);  // x, weight, target, count
  loss_of(Head(DType::f32));
  EXPECT_EQ(packed.size(), 6u);  // and both gradients
  for (const DType low : {DType::f16, DType::bf16}) {
    Head h(DType::f32);
    const DeviceScope scope(test::listing_device());
    h.x = Tensor::empty({30, 16}).requires_grad_();
    h.w = Tensor::empty({50, 16}).requires_grad_();
    h.target = Tensor::empty({30}, DType::i64);
    const Tensor loss = autocast(low, [&] { return loss_of(h); });
    EXPECT_EQ(like_the_weight(low), 1);
    EXPECT_EQ(like_the_weight(DType::f32), low == DType::bf16);  // its gradient
    const Tensor first = grad({loss}, {h.w}, {.create_graph = true})[0];
    EXPECT_EQ(grad({sum(first)}, {h.w})[0].dtype(), DType::f32);
  }
}

// A table that is read and multiplied with, under autocast in several groups, against float64.
void expect_tied(Device& d) {
  Generator g(3);
  const auto numbers = [&](const Shape& s) {
    return round(normal(s, 0, 8, {.generator = &g})) / 8;
  };  // 16 bits hold them
  const Tensor start = numbers({20, 8}), rows = randint(0, 20, {30}, {.generator = &g}),
               target = where(eq(remainder(arange(30), 7), 3), -100, randint(0, 20, {30}, {.generator = &g}));
  const Tensor w = start.to(DType::f64).requires_grad_();
  const Tensor exact = cross_entropy(linear(embedding(w, rows) * 0.5, w), target), want = grad({exact}, {w})[0];
  const DeviceScope on(d);
  for (const DType low : {DType::bf16, DType::f16}) {
    const Parameter table(start.to(DType::f32).to(d));
    const Tensor loss = autocast(low, [&] {
      return linear_cross_entropy(embedding(table, rows.to(d)) * 0.5, table, target.to(d), {.rows = 7});
    });
    backward(loss);
    EXPECT_NEAR(loss.to(cpu()).item(), exact.item(), 4 * rounding(low) * exact.item()) << name_of(low);
    const Tensor off = abs(table.grad().to(cpu()).to(DType::f64) - want);
    EXPECT_LT(max(off).item(), 4 * rounding(low) * max(abs(want)).item()) << name_of(low);
  }
}
TEST(LinearCrossEntropy, OfATiedTableUnderAutocast) { expect_tied(cpu()); }
TEST(CudaLinearCrossEntropy, OfATiedTableUnderAutocast) {
  FLAME_NEEDS_GPU(d);
  expect_tied(d);
}

// Loss and gradient of one launch, whether it keeps the rows or reads them again, have the bits of two; the gradient
// lies where the logits did, unless someone else holds them.
void expect_both_as_apart(Device& d, DType t, int64_t classes, double smoothing) {
  constexpr int64_t rows = 4;
  Generator g(3);
  const Tensor all = normal({rows + 1, classes}, 0, 3, {.generator = &g}).to(t), some = all.narrow(0, 1, rows),
               target = Tensor::from(std::vector<int64_t>{classes - 1, -100, classes / 2, 0}, {rows}).to(d),
               factor = full({}, 0.375, t == DType::f64 ? t : DType::f32, d);
  factor.data();
  const CrossEntropyOptions o{.label_smoothing = smoothing, .reduction = Reduction::sum};
  for (const bool held : {false, true}) {
    const std::string what = std::string(name_of(t)) + " " + std::to_string(classes) + (held ? " held" : "");
    Tensor x = held ? all.to(d).narrow(0, 1, rows) : some.to(d);
    Tensor y = (held ? x.detach() : some.to(d)).requires_grad_();
    const Tensor loss = wide_cross_entropy("cross_entropy", y, target, o, Loc::current());
    const Tensor slope = grad({loss}, {y}, {.grad_outputs = {factor}})[0];
    x.data();
    const Storage* before = x.value().buffer().storage;
    const LossAndGradient both =
        cross_entropy_with_gradient("cross_entropy", std::move(x), target, o, factor, Loc::current());
    EXPECT_TRUE(same_bits(both.loss, loss)) << what;
    EXPECT_TRUE(same_bits(both.gradient, slope)) << what;
    EXPECT_EQ(both.gradient.value().buffer().storage == before, !held) << what;
    if (held) { EXPECT_EQ(bytes(y), bytes(some)) << what; }
  }
}
TEST(CudaLinearCrossEntropy, LossAndGradientInOneLaunch) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16, DType::f64})
    for (const int64_t classes : {1, 5, 1000, 1031, 9001, 50257, 120003})
      for (const double smoothing : {0.0, 0.1}) expect_both_as_apart(d, t, classes, smoothing);
}
TEST(EmulatedLinearCrossEntropy, LossAndGradientInOneLaunch) {
  FLAME_NEEDS_EMULATOR(d);
  expect_both_as_apart(d, DType::f32, 9001, 0.1);
  expect_both_as_apart(d, DType::f64, 13001, 0);  // does not fit
  if (!full()) return;
  for (const int64_t classes : {5, 1031, 30001}) expect_both_as_apart(d, DType::f32, classes, 0);
  expect_both_as_apart(d, DType::bf16, 9001, 0);
}

// Sums of products on a GPU are not rounded on the way to float32, whoever multiplies; a sum that somebody else holds
// stays.
TEST(CudaLinearCrossEntropy, ProductsAddUpInFloat32) {
  FLAME_NEEDS_GPU(d);
  if (!d.fuses()) GTEST_SKIP() << "an emulated GPU has no products of its own";
  Generator g(5);
  const auto noise = [&](const Shape& s, DType t) { return normal(s, 0, 1, {.generator = &g}).to(t); };
  for (const DType t : {DType::bf16, DType::f16, DType::f32, DType::f64})
    for (const auto& [n, step] : {std::pair<int64_t, int64_t>{64, 1}, {33, 1}, {24, 2}}) {
      // 33: an odd number of bytes between rows; every other column: no library takes it.
      Tensor sum, want, held, held_before;
      for (int i = 0; i < 3; ++i) {
        const Tensor a = noise({40, 70}, t), b = noise({40, n * step}, t);
        const auto columns = [&, n = n, step = step](const Tensor& x) { return x.slice(1, 0, n * step, step); };
        if (i == 2) {
          held = sum;
          held_before = sum.to(cpu());
        }
        sum = add_product(std::move(sum), a.to(d).t(), columns(b.to(d)), Loc::current());
        const Tensor product = matmul(a.to(DType::f64).t(), columns(b.to(DType::f64)));
        want = want.defined() ? want + product : product;
      }
      EXPECT_EQ(sum.dtype(), t == DType::f64 ? t : DType::f32);
      EXPECT_LT(error_of(sum, want).units, 64) << name_of(t) << n;
      EXPECT_EQ(difference(held.to(cpu()), held_before), "") << name_of(t) << n;
    }
}

// A group is two products each way, the loss, and what is added up by them; its logits become their gradient.
TEST(LinearCrossEntropy, LaunchesOfAGroup) {
  test::ListingDevice& d = test::listing_device();
  const DeviceScope scope(d);
  const Tensor target = Tensor::empty({1024}, DType::i64);
  const auto launches = [&](int64_t groups) {
    const Tensor x = Tensor::empty({1024, 64}, DType::bf16).requires_grad_();
    const Tensor w = Tensor::empty({512, 64}, DType::bf16).requires_grad_();
    d.take();
    const Tensor loss = linear_cross_entropy(x, w, target, {.rows = 1024 / groups});
    flush_pending();
    size_t n = 0;
    for (const auto& e : d.take()) n += !e.op.starts_with("class_range") && !e.op.starts_with("island");
    return n;
  };
  EXPECT_EQ(launches(8) - launches(4), 4 * 4u);

  // The table's gradient: a sum of products in float32, to which the rows that were read by index are added. No pass
  // over it besides.
  const Parameter table(Tensor::empty({600, 64}));
  for (int step = 0; step < 2; ++step) {
    table.zero_grad();
    d.take();
    const Tensor loss = autocast(DType::bf16, [&] {
      return linear_cross_entropy(embedding(table, target) * 0.5, table, target, {.rows = 256});
    });
    backward(loss);
    flush_pending();
  }
  std::vector<std::string> over_the_table;
  for (const auto& e : d.take())
    if (std::ranges::count(e.writes, size_t{600} * 64 * 4)) over_the_table.push_back(e.op);
  EXPECT_EQ(over_the_table, (std::vector<std::string>{"gemm", "gemm", "gemm", "gemm", "embedding"}));
  EXPECT_EQ(held_grad(table).dtype(), DType::f32);
}

}  // namespace
}  // namespace flame
