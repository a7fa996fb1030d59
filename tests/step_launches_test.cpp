// The launches of a training step on a GPU, listed without one: what the blocks of examples/models may cost beside products and
// attention. A launch more is memory traffic that every step pays for.
#include <gtest/gtest.h>

#include <algorithm>

#include "examples/models/dit.h"
#include "examples/models/gpt2.h"
#include "examples/models/mlp.h"
#include "tests/support/compare.h"
#include "tests/emulator/emulated_device.h"
#include "tests/support/listing_device.h"

namespace flame {
namespace {

using test::ListingDevice;

struct Pass {
  std::vector<ListingDevice::Entry> forward, backward;
};
// The second step under autocast: the weights in 16 bits are there.
Pass pass_of(const std::function<Tensor()>& loss) {
  ListingDevice& d = test::listing_device();
  Pass p;
  for (int step = 0; step < 2; ++step) {
    d.take();
    const Tensor l = [&] {
      const AutocastScope scope(DType::bf16);
      return loss();
    }();
    flush_pending();
    p.forward = d.take();
    backward(l);
    flush_pending();
    p.backward = d.take();
  }
  return p;
}

Pass gpt2(int64_t layers) {
  const DeviceScope scope(test::listing_device());
  Gpt2 m({.vocabulary = 64, .context = 128, .width = 64, .heads = 4, .layers = layers});
  const Tensor x = Tensor::empty({2, 128}, DType::i64), y = Tensor::empty({2, 128}, DType::i64);
  return pass_of([&] { return m.loss(x, y); });
}
Pass dit(int64_t layers) {
  const DeviceScope scope(test::listing_device());
  Dit m({.patches = 128, .patch = 16, .width = 64, .heads = 4, .layers = layers, .classes = 5, .time = 32});
  const Tensor x = Tensor::empty({2, 128, 16}), t = Tensor::empty({2, 32}), c = Tensor::empty({2}, DType::i64),
               y = Tensor::empty({2, 128, 16});
  return pass_of([&] { return m.loss(x, t, c, y); });
}

// How many more launches of an op, or of all, two blocks make than one.
using Model = Pass (*)(int64_t);
int in_a_block(Model of, std::vector<ListingDevice::Entry> Pass::*way, const std::string& op = "") {
  const auto count = [&](int64_t layers) {
    int n = 0;
    const Pass p = of(layers);
    for (const ListingDevice::Entry& e : p.*way) n += e.op.starts_with(op);
    return n;
  };
  return count(2) - count(1);
}

// What `run` gives on the CPU, `fused`, it gives without fusion and on the emulated GPU too, bit for bit.
void expect_alike(const std::vector<Tensor>& fused, const std::function<std::vector<Tensor>(Device&)>& run) {
  set_fusion(false);
  const std::vector<Tensor> apart = run(cpu());
  set_fusion(true);
  for (size_t i = 0; i < fused.size(); ++i) EXPECT_TRUE(test::same_bits(fused[i], apart[i])) << i;
  if (emulated::under_sanitizer) return;
  const std::vector<Tensor> there = run(emulated::emulated_device());
  for (size_t i = 0; i < fused.size(); ++i) EXPECT_TRUE(test::same_bits(fused[i], there[i])) << i;
}

TEST(StepLaunches, GradientsOfQueriesKeysAndValuesAreNotCopied) {
  EXPECT_EQ(in_a_block(gpt2, &Pass::forward, "attention"), 1);
  EXPECT_EQ(in_a_block(gpt2, &Pass::backward, "attention_backward"), 1);
  EXPECT_EQ(in_a_block(gpt2, &Pass::backward, "cat"), 0);
  EXPECT_EQ(in_a_block(dit, &Pass::backward, "attention_backward"), 1);
  EXPECT_EQ(in_a_block(dit, &Pass::backward, "cat"), 1);  // of the condition's parts, a row a sample
}

TEST(StepLaunches, ABlockIsItsProductsAttentionAndNorms) {
  EXPECT_EQ(in_a_block(gpt2, &Pass::forward, "gemm"), 4);
  EXPECT_LE(in_a_block(gpt2, &Pass::forward), 4 + 1 + 2);
  EXPECT_EQ(in_a_block(gpt2, &Pass::backward, "gemm"), 8);
  EXPECT_LE(in_a_block(gpt2, &Pass::backward), 8 + 1 + 2 + 2);
}

TEST(StepLaunches, PiecesOfLikeSizeAreOneKernel) {
  ListingDevice& d = test::listing_device();
  const auto made = [&](const Dims& widths) {
    std::vector<Tensor> parts;
    for (const int64_t w : widths) parts.push_back(Tensor::empty({4, w}, DType::bf16, d));
    d.take();
    cat(parts, 1);
    return d.take().at(0).made.size();
  };
  EXPECT_EQ(made({64, 64, 64, 64, 64, 64}), 1u);
  EXPECT_EQ(made({64, 32, 64, 0, 64}), 2u);  // what moves nothing ends a run
  EXPECT_EQ(made({64, 64, 64, 4096}), 2u);   // else most blocks would have nothing to do
}

// A norm's result in float32 goes into a product alone, in 16 bits: sum, mean, deviation and that are written.
TEST(StepLaunches, WhatAutocastCastsOnTheWayIsNotWritten) {
  const Pass p = gpt2(2);
  int norms = 0;
  for (const ListingDevice::Entry& e : p.forward)
    if (e.op.starts_with("island") && e.writes.size() > 2 && e.reads.size() >= 4) {
      ++norms;
      EXPECT_EQ(e.writes.size(), 4u);
    }
  EXPECT_EQ(norms, 5);
}

TEST(StepLaunches, ModulatedNormsAreOneIslandEachWay) {
  const auto large = [](const std::vector<ListingDevice::Entry>& of, size_t bytes) {
    int n = 0;
    for (const ListingDevice::Entry& e : of)
      n += e.op.starts_with("island") && std::ranges::any_of(e.writes, [&](size_t w) { return w >= bytes; });
    return n;
  };
  const size_t rows = size_t{2} * 128 * 64 * 2;  // a stream in 16 bits
  const Pass one = dit(1), two = dit(2);
  EXPECT_EQ(large(two.forward, rows) - large(one.forward, rows), 2);
  EXPECT_EQ(large(two.backward, rows) - large(one.backward, rows), 4);
}

TEST(StepLaunches, APassingValueThatIsKeptIsThere) {
  Generator g(1);
  const auto noise = [&](const Shape& s) { return normal(s, 0, 1, {.generator = &g}); };
  const Tensor x = noise({8, 16}), y = noise({8, 16}), w = noise({4, 16}), expected = x * y + 1;
  expected.data();
  const AutocastScope scope(DType::bf16);
  const Tensor held = x * y + 1, z = linear(held, w), again = linear(held, w);
  EXPECT_TRUE(test::same_bits(z, again));
  EXPECT_TRUE(test::same_bits(held, expected));
  const State s(x);
  const Tensor reader = s.tensor() * 2, product = linear(reader, w);
  EXPECT_TRUE(reader.is_pending());
  s.assign(y);
  EXPECT_FALSE(reader.is_pending());
  EXPECT_TRUE(test::same_bits(reader, x * 2));
  EXPECT_TRUE(test::same_bits(product, linear((x * 2).to(DType::bf16), w)));
}

// Fused or not, the same bits; fused, in one launch for all that is large.
TEST(StepLaunches, SmallCastsJoinTheGroupThatTheySpreadOver) {
  Generator g(2);
  const Tensor x = normal({4, 33, 24}, 0, 1, {.generator = &g}),
               m = normal({4, 1, 24}, 0, 1, {.dtype = DType::bf16, .generator = &g});
  const auto run = [&] {
    const Tensor a = x * 3, scale = (1 + m).to(DType::f32), s = sum(a, 1, true), low = s.to(DType::bf16);
    return std::vector<Tensor>{a * scale, s, low, scale * 2, x - m.to(DType::f32)};
  };
  const Stats before = stats();
  const std::vector<Tensor> fused = run();
  for (const Tensor& t : fused) t.data();
  EXPECT_EQ(stats().launches - before.launches, 2u);
  set_fusion(false);
  const std::vector<Tensor> apart = run();
  set_fusion(true);
  for (size_t i = 0; i < fused.size(); ++i) EXPECT_TRUE(test::same_bits(fused[i], apart[i])) << i;
}

// Readers of one space over which a cast spreads along different axes, and rows that meet one.
TEST(StepLaunches, SmallCastsSpreadAsTheirReaderAsks) {
  Generator g(3);
  const Tensor column = normal({5, 1}, 0, 1, {.dtype = DType::bf16, .generator = &g}),
               a = normal({5, 5}, 0, 1, {.generator = &g}), b = normal({5, 5, 1}, 0, 1, {.generator = &g}),
               w = normal({}, 0, 1, {.generator = &g}), x = normal({5, 4, 40}, 0, 1, {.generator = &g}),
               low = normal({4}, 0, 1, {.dtype = DType::bf16, .generator = &g});
  const auto run = [&](Device& d) {
    const Tensor j = column.to(d).to(DType::f32), one = a.to(d) + j, other = b.to(d) + j;
    const Tensor rows = a.to(d).sum(1, true) * (w.to(d) * 2), more = x.to(d).sum(-1) + low.to(d).to(DType::f32);
    std::vector<Tensor> out;
    for (const Tensor& t : {one, other, rows, more}) t.data();
    for (const Tensor& t : {one, other, rows, more}) out.push_back(t.to(cpu()));
    return out;
  };
  const std::vector<Tensor> fused = run(cpu());
  expect_alike(fused, run);
}

// Where TF32 is allowed: a launch a layer each way, and what stands around them.
TEST(StepLaunches, LayersOfASmallNetAreOneLaunchEachWay) {
  ListingDevice& d = test::listing_device();
  const DeviceScope scope(d);
  const auto before = matmul_precision();
  set_matmul_precision("high");
  Mlp m;
  optim::AdamW o(m.parameters(), {.lr = 1e-4});
  const Tensor x = Tensor::empty({128, 1, 28, 28}), y = Tensor::empty({128}, DType::i64);
  std::vector<ListingDevice::Entry> made;
  for (int step = 0; step < 2; ++step) {
    d.take();
    backward(m.loss(x, y));
    o.step();
    made = d.take();
  }
  set_matmul_precision(before);
  const auto count = [&](const char* op) {
    return std::ranges::count_if(made, [&](const auto& e) { return e.op == op; });
  };
  EXPECT_EQ(count("gemm"), 3);
  EXPECT_EQ(count("linear_backward"), 3);
  EXPECT_EQ(made.size(), 11u);
}

// A number that nothing is read for, beside sums of all: one launch, and the bits of two.
TEST(StepLaunches, NumbersJoinTheSumsThatTheyMeet) {
  Generator g(4);
  const Tensor x = normal({5, 7}, 0, 1, {.generator = &g});
  const auto run = [&](Device& d) {
    const Tensor there = x.to(d), total = sum(there * 2), one = full({}, 3, DType::f32, d), share = one / total;
    const Tensor rows = sum(there, 1), places = arange(0, 5, 1, DType::f32, d), moved = rows + places;
    std::vector<Tensor> out{total, one, share, share * total, rows, places, moved, there - moved.unsqueeze(1)};
    for (const Tensor& t : out) t.data();
    for (Tensor& t : out) t = t.to(cpu());
    return out;
  };
  const Stats before = stats();
  const std::vector<Tensor> fused = run(cpu());
  EXPECT_EQ(stats().launches - before.launches, 2u);  // sums of all, and of rows
  expect_alike(fused, run);
}

}  // namespace
}  // namespace flame
