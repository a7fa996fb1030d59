// Values against States: whoever holds an old value keeps it, a State keeps its address, and nothing is copied unasked.
#include "flame/flame.h"

#include <gtest/gtest.h>

#include "tests/support/compare.h"

namespace flame {
namespace {

using namespace test;
using Numbers = std::vector<float>;

Tensor ramp(const Shape& s, float start = 1) {
  std::vector<float> v(static_cast<size_t>(numel(s)));
  for (size_t i = 0; i < v.size(); ++i) v[i] = start + static_cast<float>(i);
  return Tensor::from(v, s);
}
Numbers values(const Tensor& t) { return t.detach().to_vector<float>(); }
const void* address(const State& s) { return s.value().storage->data(); }
uint64_t launches_of(const std::function<void()>& fn) {
  flush_pending();
  const uint64_t before = stats().launches;
  fn();
  flush_pending();
  return stats().launches - before;
}

TEST(Values, AssignmentThroughOneHandleIsNotSeenThroughAnother) {
  Tensor x = ramp({3});
  const Tensor other = x, view = x.reshape({3, 1});
  x += ramp({3}, 10);
  EXPECT_EQ(values(x), (Numbers{11, 13, 15}));
  EXPECT_EQ(values(other), (Numbers{1, 2, 3}));
  EXPECT_EQ(values(view), (Numbers{1, 2, 3}));
  x *= 2;
  x -= 1;
  x /= 3;
  EXPECT_EQ(values(x), (Numbers{7, 25.0f / 3, 29.0f / 3}));
  EXPECT_EQ(values(other), (Numbers{1, 2, 3}));
}

TEST(States, CopyTheirFirstValue) {
  Tensor x = ramp({3});
  const State s(x);
  s.assign(ramp({3}, 5));
  EXPECT_EQ(values(x), (Numbers{1, 2, 3}));
  EXPECT_EQ(values(s.tensor()), (Numbers{5, 6, 7}));
}

TEST(States, HandlesShareOneCell) {
  const State a(ramp({2}));
  const State b = a;
  a.assign(ramp({2}, 8));
  EXPECT_EQ(values(b.tensor()), (Numbers{8, 9}));
  EXPECT_EQ(a.id(), b.id());
}

TEST(States, ReadersKeepTheOldBytes) {
  const State s(ramp({2, 3}));
  const void* home = address(s);
  const Tensor held = s.tensor(), turned = s.tensor().t(), row = s.tensor().select(0, 1),
               tail = s.tensor().slice(1, 2, 0, -1);
  const Tensor pending = s.tensor() * 2;  // not yet computed: it reads the old value all the same
  s.assign(ramp({2, 3}, 100));
  EXPECT_EQ(values(held), (Numbers{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(values(turned), (Numbers{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(values(row), (Numbers{4, 5, 6}));
  EXPECT_EQ(values(tail), (Numbers{3, 2, 6, 5}));
  EXPECT_EQ(values(pending), (Numbers{2, 4, 6, 8, 10, 12}));
  EXPECT_EQ(values(s.tensor()), (Numbers{100, 101, 102, 103, 104, 105}));
  EXPECT_EQ(address(s), home);
  // A view of a view, made after the first parting.
  const Tensor deep = s.tensor().t().narrow(0, 1, 2).t();
  s.assign(ramp({2, 3}));
  EXPECT_EQ(values(deep), (Numbers{101, 102, 104, 105}));
  EXPECT_EQ(address(s), home);
}

TEST(States, AreCopiedOnlyForThoseWhoStillHoldTheOldValue) {
  const State s(ramp({4}));
  const Tensor next = ramp({4}, 9);
  next.data();
  const uint64_t alone = launches_of([&] { s.assign(next); });
  EXPECT_EQ(alone, 1u);
  {
    const Tensor dropped = s.tensor();
    const Tensor view = dropped.reshape({2, 2});
  }
  EXPECT_EQ(launches_of([&] { s.assign(next); }), alone);
  const Tensor held = s.tensor();
  EXPECT_EQ(launches_of([&] { s.assign(next); }), alone + 1);  // the parting copy
  EXPECT_EQ(launches_of([&] { s.assign(next); }), alone);      // once
}

TEST(States, OutliveTheirViewsAndTheOtherWayRound) {
  Tensor view;
  {
    const State s(ramp({2, 2}));
    view = s.tensor().t();
  }
  EXPECT_EQ(values(view), (Numbers{1, 3, 2, 4}));
}

struct Model {
  Parameter w{ramp({2, 3}, -2)};
  optim::AdamW opt{{w}, {.lr = 0.1}};
  Tensor loss() const { return sum(square(matmul(w.tensor(), ramp({3, 2}))) * 0.01); }
};

TEST(States, OptimizerStepsKeepAddressAndPartOnlySharers) {
  Model m;
  const void* home = address(m.w);
  const Tensor copy = m.w.tensor(), turned = m.w.tensor().t();
  const Numbers before = values(copy), before_turned = values(turned);
  backward(m.loss());
  const uint64_t shared = launches_of([&] { m.opt.step(); });
  EXPECT_NE(values(m.w.tensor()), before);
  EXPECT_EQ(values(copy), before);
  EXPECT_EQ(values(turned), before_turned);
  EXPECT_EQ(address(m.w), home);
  backward(m.loss());
  flush_pending();
  const uint64_t alone = launches_of([&] { m.opt.step(); });
  EXPECT_EQ(alone, 1u);
  EXPECT_EQ(shared, 2u);
  EXPECT_EQ(address(m.w), home);
}

TEST(States, ARetainedGraphKeepsItsValuesAcrossAStep) {
  Model m;
  const Tensor loss = m.loss();
  const Tensor first = grad({loss}, {m.w.tensor()}, {.retain_graph = true})[0];
  const Numbers expected = values(first);
  backward(m.loss());
  m.opt.step();
  EXPECT_EQ(values(grad({loss}, {m.w.tensor()}, {.retain_graph = true})[0]), expected);
  backward(loss);  // a second backward, into the parameter
  EXPECT_EQ(values(m.w.grad()), expected);
  EXPECT_NE(values(grad({m.loss()}, {m.w.tensor()})[0]), expected);
}

TEST(States, AHeldGradientStaysWhileMoreArrive) {
  Model m;
  backward(m.loss());
  const Tensor held = m.w.grad();
  const Numbers once = values(held);
  backward(m.loss());
  Numbers twice = once;
  for (float& x : twice) x *= 2;
  EXPECT_EQ(values(m.w.grad()), twice);
  EXPECT_EQ(values(held), once);
  m.opt.step();
  EXPECT_FALSE(m.w.grad().defined());
  EXPECT_EQ(values(held), once);
}

TEST(States, BatchNormStatisticsMoveUnderTheirReaders) {
  const State mean(zeros({2})), var(ones({2}));
  const void* home = address(mean);
  const Tensor before = mean.tensor();
  const Tensor x = ramp({3, 2});
  const Tensor evaluated = batch_norm(x, mean, var, {}, {}, {.training = false});  // still pending
  batch_norm(x, mean, var);
  EXPECT_EQ(values(before), (Numbers{0, 0}));
  EXPECT_NEAR(values(mean.tensor())[0], 0.3, 1e-6);
  EXPECT_NEAR(values(mean.tensor())[1], 0.4, 1e-6);
  EXPECT_EQ(address(mean), home);
  EXPECT_NEAR(values(evaluated)[5], 6 / std::sqrt(1 + 1e-5), 1e-5);
}

TEST(States, TrainingDoesNotCopyParametersForItsOwnGraph) {
  nn::Linear layer({.in = 8, .out = 4});
  optim::AdamW opt{layer.parameters(), {.lr = 0.01}};
  const Tensor x = ramp({5, 8});
  x.data();
  std::vector<uint64_t> counts;
  for (int i = 0; i < 4; ++i)
    counts.push_back(launches_of([&] {
      backward(sum(square(layer(x))));
      opt.step();
    }));
  EXPECT_EQ(counts[1], counts[2]);
  EXPECT_EQ(counts[2], counts[3]);
  // The loss is still held while the optimizer writes: its graph was freed by backward, so nothing is parted.
  const uint64_t held = launches_of([&] {
    const Tensor loss = sum(square(layer(x)));
    backward(loss);
    opt.step();
  });
  EXPECT_EQ(held, counts[3]);
}

TEST(States, AssignCastsAndChecks) {
  const State s(ramp({2}));
  s.assign(Tensor::from(std::vector<double>{0.5, 2}, {2}));
  EXPECT_EQ(values(s.tensor()), (Numbers{0.5, 2}));
  EXPECT_THROW(s.assign(ramp({3})), ShapeError);
  EXPECT_EQ(values(s.tensor()), (Numbers{0.5, 2}));
  s.assign(s.tensor() + 1);
  s.assign(s.tensor());
  EXPECT_EQ(values(s.tensor()), (Numbers{1.5, 3}));
  const State square(ramp({2, 2}));
  square.assign(square.tensor().t());  // reads itself in another order
  EXPECT_EQ(values(square.tensor()), (Numbers{1, 3, 2, 4}));
  EXPECT_THROW(State().tensor(), ValueError);
}

}  // namespace
}  // namespace flame
