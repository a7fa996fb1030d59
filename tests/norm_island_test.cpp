// Norms of many rows under autocast, whose backward is left to islands, and what an island leaves unwritten for them: gradients
// beside the CPU's, how many islands a block's backward is, and the bits of what sleeps.
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "examples/models/dit.h"
#include "examples/models/gpt2.h"
#include "flame/fuse/island.h"
#include "tests/emulator/emulated_device.h"
#include "tests/support/compare.h"
#include "tests/support/listing_device.h"

namespace flame {
namespace {

using Tensors = std::vector<Tensor>;

Tensor noise(const Shape& s, uint64_t seed) {
  Generator g(seed);
  return normal(s, 0.25, 1, {.generator = &g});
}

constexpr int64_t batch = 3, rows = 8192, width = 64;
constexpr size_t stream = batch * rows * width * 4;  // bytes

// The gradients of fn's inputs on a device, where fn runs under autocast.
template <class F>
Tensors gradients(const F& fn, const Tensors& inputs, const Tensor& g, Device& d) {
  Tensors in, out;
  for (const Tensor& x : inputs) in.push_back(x.to(d).detach().requires_grad_());
  const Tensor y = autocast(DType::bf16, [&] { return fn(in); });
  for (const Tensor& t : grad({y}, in, {.grad_outputs = {g.to(d)}})) out.push_back(t.to(cpu()));
  return out;
}
// What arrives (x * 2), the norm, its weights, a product, and the gradient of its bias beside what makes the gradient.
TEST(EmulatedNormIslands, GradientsAreTheCpus) {
  if (emulated::under_sanitizer) GTEST_SKIP();
  const Tensors in{noise({batch, rows, width}, 1), noise({width}, 2), noise({width}, 3),
                   noise({width, width}, 4) * 0.125, noise({width}, 5)};
  const auto fn = [](const Tensors& i) { return i[0] * 2 + linear(layer_norm(i[0], {width}, i[1], i[2]), i[3], i[4]); };
  const Tensor g = noise({batch, rows, width}, 9);
  const Tensors want = gradients(fn, in, g, cpu()), got = gradients(fn, in, g, emulated::emulated_device());
  for (size_t i = 0; i < want.size(); ++i) {
    const test::Deviation e =
        test::error_of(test::numbers(got[i]), test::numbers(want[i]), i < 3 ? DType::f32 : DType::bf16);
    EXPECT_LE(e.units, i < 3 ? 64 : 2) << "input " << i << " at " << e.at << " " << e.text;
  }
}

struct Ends {
  int all = 0;
  std::vector<test::ListingDevice::Entry> forward, backward;
};
// Of a model's second step: its weights in 16 bits are there.
template <class Loss>
Ends ends_of(const nn::Module& m, const Loss& loss) {
  test::ListingDevice& d = test::listing_device();
  Ends e;
  for (int step = 0; step < 2; ++step) {
    m.zero_grad();
    flush_pending();
    d.take();
    const Tensor l = autocast(DType::bf16, loss);
    flush_pending();
    e.forward = d.take();
    explain();
    backward(l);
    flush_pending();
    e.backward = d.take();
    std::istringstream lines(explain());
    e.all = 0;
    for (std::string line; std::getline(lines, line);) e.all += std::stoi(line);
  }
  return e;
}
Ends gpt2(int64_t layers) {
  const DeviceScope scope(test::listing_device());
  Gpt2 m({.vocabulary = 64, .context = rows, .width = width, .heads = 1, .layers = layers});
  const Tensor x = Tensor::empty({batch, rows}, DType::i64), y = Tensor::empty({batch, rows}, DType::i64);
  return ends_of(m, [&] { return m.loss(x, y); });
}
Ends dit(int64_t layers) {
  const DeviceScope scope(test::listing_device());
  Dit m({.patches = rows, .patch = 16, .width = width, .heads = 1, .layers = layers, .classes = 5, .time = 32});
  const Tensor x = Tensor::empty({batch, rows, 16}), t = Tensor::empty({batch, 32}),
               c = Tensor::empty({batch}, DType::i64), y = Tensor::empty({batch, rows, 16});
  return ends_of(m, [&] { return m.loss(x, t, c, y); });
}

TEST(NormIslands, ABlocksBackwardIsOneForEachBranch) {
  const Ends g1 = gpt2(1), g2 = gpt2(2), d1 = dit(1), d2 = dit(2);
  EXPECT_EQ(g2.all - g1.all, 2);
  const bool joined = sums_beside_rows(test::listing_device(), batch * rows, width);
  EXPECT_EQ(d2.all - d1.all, joined ? 2 : 4);
  const auto large = [](const Ends& e) {
    return std::ranges::count_if(e.backward, [](const test::ListingDevice::Entry& l) {
      return l.op.starts_with("island") && std::ranges::any_of(l.reads, [](size_t b) { return b >= stream / 2; });
    });
  };
  EXPECT_EQ(large(g2) - large(g1), 2);  // sums of columns included
  EXPECT_EQ(large(d2) - large(d1), joined ? 2 : 4);
}

TEST(NormIslands, AModulatedNormIsNotWrittenForBackward) {
  const auto written = [&](const std::vector<test::ListingDevice::Entry>& all) {
    int n = 0;
    for (const auto& e : all)
      if (e.op.starts_with("island")) n += static_cast<int>(std::ranges::count(e.writes, stream));
    return n;
  };
  EXPECT_EQ(written(dit(2).forward) - written(dit(1).forward), 2);  // the streams
}

// What sleeps has the bits that it would have had: read by a backward, by the one who holds it, once a State it reads is written.
TEST(EmulatedAsleep, HasItsBits) {
  Device& d = emulated::emulated_device();
  const Tensor start = noise({512, 512}, 1), by = noise({512, 1}, 2), weight = noise({4, 512}, 3),
               row = noise({512}, 4);
  const auto run = [&](bool hold) {
    const State s(row.to(d));
    const Tensor x = start.to(d).detach().requires_grad_(), m = by.to(d), w = weight.to(d);
    const Tensor n = (x - 1) * m, k = (x + s.tensor()) * 0.5, a = n * n * 3 + k * k;
    Tensor kept = hold ? n : Tensor(), y = linear(a, w);
    EXPECT_EQ(n.is_pending(), fusion_enabled() && !hold);
    s.assign(row.to(d) * 2);
    Tensors out{y, k};
    for (int pass = 0; pass < 2; ++pass)
      out.push_back(grad({y}, {x}, {.grad_outputs = {y * 1}, .retain_graph = true})[0]);
    if (hold) out.push_back(kept);
    flush_pending();
    for (const Tensor& t : out) EXPECT_FALSE(t.is_pending());
    for (Tensor& t : out) t = t.to(cpu());
    return out;
  };
  for (const bool hold : {false, true}) {
    const Tensors fused = run(hold);
    set_fusion(false);
    const Tensors apart = run(hold);
    set_fusion(true);
    for (size_t i = 0; i < fused.size(); ++i) EXPECT_TRUE(test::same_bits(fused[i], apart[i])) << i;
  }
}

}  // namespace
}  // namespace flame
