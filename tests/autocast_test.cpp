// Autocast: every op of the registry does what the list says and no other does anything, with gradients of the casts; weights
// are cast once; scopes nest.
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/node.h"
#include "flame/device/planted.h"
#include "flame/tensor/op.h"
#include "flame/tensor/internal.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;
using Tensors = std::vector<Tensor>;
constexpr DType half = DType::bf16;

// Inputs as leaves, the function's results, and the gradients of their sum with fixed weights.
struct Ran {
  Tensors out;
  std::vector<std::vector<unsigned char>> values, gradients;
  std::vector<DType> dtypes;
};
using Cast = std::function<Tensor(size_t, const Tensor&)>;
Ran run(const SampleCase& c, const Tensors& inputs, const Cast& cast, std::optional<DType> scope, bool differentiable) {
  Ran r;
  Tensors leaves, in;
  const size_t wanted = c.wrt < 0 ? inputs.size() : static_cast<size_t>(c.wrt);
  for (size_t i = 0; i < inputs.size(); ++i) {
    Tensor x = inputs[i].detach();
    if (differentiable && i < wanted && is_float(x.dtype())) {
      x.requires_grad_();
      leaves.push_back(x);
    }
    in.push_back(cast ? cast(i, x) : x);
  }
  {
    const AutocastScope amp(scope);
    r.out = c.fn(in);
  }
  Tensor total;
  for (const Tensor& y : r.out) {
    r.dtypes.push_back(y.dtype());
    r.values.push_back(bytes(y));
    if (!y.requires_grad()) continue;
    Tensor part = sum(y.to(DType::f64) * 0.75);
    total = total.defined() ? total + part : part;
  }
  if (!total.defined()) return r;
  backward(total);
  for (const Tensor& x : leaves) {
    const Tensor g = x.grad();
    r.gradients.push_back(g.defined() ? bytes(g) : std::vector<unsigned char>{});
    EXPECT_TRUE(!g.defined() || g.dtype() == x.dtype())
        << c.label << " " << r.out[0].edge().node()->name << (scope ? " in a scope" : "");
  }
  return r;
}
void expect_equal(const Ran& a, const Ran& b, const std::string& what) {
  EXPECT_EQ(a.dtypes, b.dtypes) << what;
  EXPECT_EQ(a.values, b.values) << what;
  EXPECT_EQ(a.gradients, b.gradients) << what;
}

// fn(op, its case) for the registry's samples of a dtype.
template <class F>
void each_case(DType t, const F& fn) {
  for (const OpEntry& e : Registry::global().entries()) {
    if (!e.samples) continue;
    try {
      for (const SampleCase& c : e.samples(t)) fn(e, c);
    } catch (const NotImplemented&) {}  // no such dtype
  }
}

// Of the ops named, or of all; of each case, or of an op's first alone.
void expect_the_list(Device& d, const std::set<std::string>& ops = {}) {
  const DeviceScope on(d);
  std::set<std::string> done;
  for (const DType t : {DType::f32, DType::f16, DType::bf16}) {
    std::set<std::string> met;
    each_case(t, [&](const OpEntry& e, const SampleCase& c) {
      if (!ops.empty() && (!ops.count(e.name) || !met.insert(e.name).second || t == DType::f16)) return;
      const auto p = precision_of(e.name);
      const std::string what = e.name + ", " + name_of(t).data() + ": " + c.label;
      const DType to = !p ? t : *p == Precision::low ? half : *p == Precision::wide ? DType::f32 : t;
      const Cast cast = [&](size_t, const Tensor& x) { return is_float(x.dtype()) ? x.to(to) : x; };
      const Ran got = run(c, c.inputs, {}, half, e.differentiable);
      // A mask of attention comes as it is.
      const bool masked = e.name == "scaled_dot_product_attention" && c.inputs.size() > 3;
      if (!masked) expect_equal(got, run(c, c.inputs, p ? cast : Cast(), {}, e.differentiable), what);
      done.insert(e.name);
      for (const DType out : got.dtypes)
        if (is_float(out) && p) { EXPECT_EQ(out, to) << what; }
    });
  }
  if (!ops.empty()) {
    EXPECT_EQ(done, ops);
    return;
  }
  for (const auto list : {std::span<const std::string_view>(low_ops), std::span<const std::string_view>(wide_ops),
                          std::span<const std::string_view>(widest_ops)})
    for (const std::string_view name : list) EXPECT_TRUE(done.count(std::string(name))) << name;
}

TEST(Autocast, EveryOpDoesWhatTheListSays) { expect_the_list(cpu()); }

TEST(Autocast, TheWidestInputDecides) {
  size_t cases = 0;
  each_case(DType::f32, [&](const OpEntry& e, const SampleCase& c) {
    if (precision_of(e.name) != Precision::widest) return;
    Tensors mixed = c.inputs;
    mixed[0] = mixed[0].to(half);
    if (std::none_of(mixed.begin(), mixed.end(), [](const Tensor& x) { return x.dtype() == DType::f32; })) return;
    const Cast wide = [](size_t, const Tensor& x) { return is_float(x.dtype()) ? x.to(DType::f32) : x; };
    expect_equal(run(c, mixed, {}, half, e.differentiable), run(c, mixed, wide, {}, e.differentiable),
                 e.name + ": " + c.label);
    ++cases;
  });
  EXPECT_GT(cases, 30u);
}

TEST(Autocast, Float64AndIntegersStay) {
  each_case(DType::f64, [&](const OpEntry& e, const SampleCase& c) {
    for (const Tensor& x : c.inputs)
      if (is_float(x.dtype()) && x.dtype() != DType::f64) return;
    const Ran got = run(c, c.inputs, {}, half, false), want = run(c, c.inputs, {}, {}, false);
    EXPECT_EQ(got.dtypes, want.dtypes) << e.name;
    EXPECT_EQ(got.values, want.values) << e.name << ": " << c.label;
  });
  const AutocastScope amp{half};
  const Tensor a = ones({2, 2}, DType::i64);
  EXPECT_EQ(matmul(a, a).dtype(), DType::i64);
  EXPECT_EQ(sum(a).dtype(), DType::i64);
  EXPECT_EQ(matmul(rand({2, 2}, {.dtype = DType::f64}), rand({2, 2})).dtype(), DType::f64);
}

TEST(Autocast, ThePageHasTheList) {
  std::stringstream page;
  page << std::ifstream(FLAME_SOURCE_DIR "/docs/mixed-precision.md").rdbuf();
  std::string text = page.str();
  const auto section = [&](const std::string& title) {
    const size_t at = text.find("**" + title + "**"), end = text.find("\n\n", at);
    EXPECT_NE(at, std::string::npos) << title;
    std::set<std::string> names;
    for (size_t i = text.find('`', at); i < end; i = text.find('`', i)) {
      const size_t close = text.find('`', i + 1);
      names.insert(text.substr(i + 1, close - i - 1));
      i = close + 1;
    }
    return names;
  };
  const auto set_of = [](std::span<const std::string_view> list) {
    return std::set<std::string>(list.begin(), list.end());
  };
  EXPECT_EQ(section("16 bits"), set_of(low_ops));
  EXPECT_EQ(section("float32"), set_of(wide_ops));
  EXPECT_EQ(section("the widest input"), set_of(widest_ops));
}

TEST(Autocast, ScopesNestAndBelongToTheirThread) {
  const Tensor x = rand({2, 2});
  EXPECT_EQ(matmul(x, x).dtype(), DType::f32);
  {
    const AutocastScope amp{DType::bf16};
    EXPECT_EQ(matmul(x, x).dtype(), DType::bf16);
    {
      const AutocastScope other{DType::f16};
      EXPECT_EQ(matmul(x, x).dtype(), DType::f16);
      const NoAutocast off;
      EXPECT_EQ(matmul(x, x).dtype(), DType::f32);
      EXPECT_FALSE(autocast_dtype());
    }
    EXPECT_EQ(matmul(x, x.to(DType::f16)).dtype(), DType::bf16);
    std::thread([&] { EXPECT_EQ(matmul(x, x).dtype(), DType::f32); }).join();
    EXPECT_THROW(matmul(x, rand({3, 3})), ShapeError);
    EXPECT_EQ(autocast_dtype(), DType::bf16);
    EXPECT_THROW(no_grad([&] { throw std::runtime_error("no"); }), std::runtime_error);
  }
  EXPECT_EQ(autocast(DType::f16, [&] { return matmul(x, x); }).dtype(), DType::f16);
  EXPECT_FALSE(autocast_dtype());
  EXPECT_THROW(AutocastScope{DType::f32}, DTypeError);
  EXPECT_THROW(AutocastScope{DType::i32}, DTypeError);
}

TEST(Autocast, AWeightIsCastOnceAndItsGradientIsFloat32) {
  const Parameter w(uniform({4, 3}, -1, 1)), b(uniform({4}, -1, 1));
  const Tensor x = uniform({5, 3}, -1, 1).to(half);
  const AutocastScope amp{half};
  linear(x, w, b).data();
  const Stats before = stats();
  Tensor y = linear(x, w, b);
  y.data();
  EXPECT_EQ(stats().launches - before.launches, 1u);  // no cast
  // Its transpose, a part of it and a second use read the same bytes.
  const Tensor z =
      matmul(y, w.tensor()) + matmul(x, w.tensor().t()).slice(1, 0, 3) + matmul(x, w.tensor().narrow(0, 1, 3).t());
  z.data();
  EXPECT_EQ(w.value().cell->shadows[1].cell->value->ref_count() > 1, true);
  backward(sum(z));
  EXPECT_EQ(w.grad().dtype(), DType::f32);
  EXPECT_EQ(b.grad().dtype(), DType::f32);
}

// Uses of a weight add up in float32, not in the casts' 16 bits.
TEST(Autocast, GradientsAddUpInFloat32) {
  const Parameter w(uniform({3, 3}, -1, 1));
  const Tensor a = uniform({2, 3}, 0.5, 1), b = uniform({2, 3}, 100, 300);
  const auto gradient = [&](const Tensor& x) {
    w.zero_grad();
    backward(sum(autocast(half, [&] { return matmul(x, w); }).to(DType::f32)));
    return w.grad();
  };
  const Tensor one = gradient(a), other = gradient(b);
  EXPECT_EQ(bytes(one), bytes(one.to(half).to(DType::f32)));  // each comes from a product in 16 bits
  const std::vector<unsigned char> want = bytes(other + one);
  EXPECT_NE(want, bytes((other.to(half) + one.to(half)).to(DType::f32)));
  w.zero_grad();
  for (const Tensor& x : {b, a}) backward(sum(autocast(half, [&] { return matmul(x, w); }).to(DType::f32)));
  EXPECT_EQ(bytes(w.grad()), want);
  w.zero_grad();
  const AutocastScope amp{half};
  backward(sum(matmul(a, w).to(DType::f32)) + sum(matmul(b, w).to(DType::f32)));
  EXPECT_EQ(bytes(w.grad()), want);
  w.zero_grad();
  backward(sum(matmul(cat({b, a}), w)));  // and so does a backward inside the scope
  EXPECT_EQ(w.grad().dtype(), DType::f32);
}

TEST(Autocast, HigherDerivativesAreThoseOfTheCasts) {
  const auto second = [](bool scope, bool rows) {
    const Parameter w(arange(0, 6, 1, DType::f32).reshape({2, 3}) * 0.37 - 1);
    Tensor x = arange(0, 8, 1, DType::f32).reshape({4, 2}) * 0.21 - 0.8;
    x.requires_grad_();
    const Tensor y = [&] {
      const AutocastScope amp(scope ? std::optional(half) : std::nullopt);
      const auto cast = [&](const Tensor& t, DType to) { return scope ? t : t.to(to); };
      const Tensor z = tanh(matmul(cast(x, half), cast(w, half)));
      return rows ? softmax(cast(z, DType::f32)) : matmul(z, cast(w, half).t());
    }();
    const Tensor g = grad({sum((y * y).to(DType::f32))}, {x}, {.create_graph = true})[0];
    EXPECT_EQ(g.dtype(), DType::f32);
    backward(sum(g * g));
    return Tensors{y, g, x.grad(), w.grad()};
  };
  const Tensors got = second(true, false), want = second(false, false);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(bytes(got[i]), bytes(want[i])) << i;
  // Here gradients that meet at z are rounded before they are added, not after.
  const Tensors near = second(true, true), exact = second(false, true);
  for (size_t i = 0; i < near.size(); ++i) EXPECT_LT(error_of(numbers(near[i]), numbers(exact[i]), half).units, 4) << i;
}

// The gradient of a weight used once is read by the optimizer as the product wrote it; the numbers are those of float32.
TEST(Autocast, AnOptimizerReadsGradientsAsTheyCome) {
  for (const double clip : {0.0, 0.01}) {
    const Parameter w(uniform({4, 3}, -1, 1)), v(w.tensor().detach());
    const Tensor x = uniform({5, 3}, -1, 1).to(half), g = uniform({5, 4}, -1, 1).to(half);
    optim::AdamW a({w}, {.lr = 0.1}), b({v}, {.lr = 0.1});
    for (int i = 0; i < 3; ++i) {
      const AutocastScope amp{half};
      backward(linear(x, w), {.gradient = g});
      backward(linear(x, v), {.gradient = g});
      EXPECT_EQ(held_grad(w).dtype(), half);
      EXPECT_EQ(v.grad().dtype(), DType::f32);
      EXPECT_EQ(held_grad(v).dtype(), DType::f32);
      EXPECT_EQ(bytes(held_grad(w).to(DType::f32)), bytes(v.grad()));
      flush_pending();
      const Stats before = stats();
      const Tensor norm = a.step({.max_norm = clip});
      EXPECT_EQ(stats().launches - before.launches, clip > 0 ? 2u : 1u);
      const Tensor want = b.step({.max_norm = clip});
      if (clip > 0) { EXPECT_EQ(bytes(norm), bytes(want)); }
      EXPECT_EQ(bytes(w.tensor()), bytes(v.tensor())) << i;
    }
  }
  // Hooks and grad() see float32.
  const Parameter w(uniform({4, 3}, -1, 1));
  const Tensor leaf = w.tensor(), x = uniform({2, 3}, -1, 1);
  DType seen = DType::boolean;
  leaf.register_hook([&](const Tensor& g) {
    seen = g.dtype();
    return Tensor();
  });
  const AutocastScope amp{half};
  backward(sum(linear(x, w)));
  EXPECT_EQ(seen, DType::f32);
  EXPECT_EQ(grad({sum(linear(x, w))}, {leaf})[0].dtype(), DType::f32);
}

// What the list says holds on every device; here that the casts are made on this one.
TEST(CudaAutocast, OpsDoWhatTheListSays) {
  FLAME_NEEDS_GPU(d);
  expect_the_list(d, {"matmul", "linear", "conv2d", "sum", "exp", "cat", "relu"});
}
// In 16 bits a thread takes twice the logits at a time, so they are added in another order.
TEST(CudaAutocast, CrossEntropyReadsLogitsIn16Bits) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope on(d);
  const Tensor z = uniform({8, 1000}, -3, 3).to(half), y = randint(0, 1000, {8});
  const auto losses = [&](bool scope) {
    Tensor x = z.detach();
    x.requires_grad_();
    const Tensor loss =
        scope ? autocast(half, [&] { return cross_entropy(x, y); }) : cross_entropy(x.to(DType::f32), y);
    EXPECT_EQ(loss.dtype(), DType::f32);
    backward(loss);
    return std::pair(loss, x.grad());
  };
  const auto [got, slope] = losses(true);
  const auto [want, other] = losses(false);
  EXPECT_NEAR(got.item(), want.item(), 1e-6 * want.item());
  EXPECT_LT(error_of(numbers(slope), numbers(other), half, 1e-4).units, 2);
}
// A layer norm, the sum before it and the cast behind it are one launch.
TEST(CudaAutocast, LayerNormJoinsWhatIsAroundIt) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope on(d);
  for (const DType t : {DType::f32, half}) {
    const Tensor start = normal({48, 96}, 0, 1).to(t), more = normal({48, 96}, 0, 1).to(half),
                 by = normal({96, 32}, 0, 1).to(half);
    const Parameter w(uniform({96}, 0.5, 2)), b(uniform({96}, -1, 1));
    std::vector<Tensor> found[2];
    for (const bool scope : {false, true}) {
      Tensor x = start.detach();
      x.requires_grad_();
      for (const Parameter* p : {&w, &b}) p->zero_grad();
      for (const Tensor& in : {x, more, by}) in.data();
      flush_pending();
      const AutocastScope amp(scope ? std::optional(half) : std::nullopt);
      const Stats before = stats();
      const Tensor sum = x + more, y = layer_norm(scope ? sum : sum.to(DType::f32), {96}, w, b);
      const Tensor z = matmul(scope ? y : y.to(half), by);
      z.data();
      if (scope) { EXPECT_EQ(stats().launches - before.launches, 2u); }
      EXPECT_EQ(y.dtype(), DType::f32);
      backward(z, {.gradient = full(z.shape(), 1.0, half)});
      found[scope] = {y, z, x.grad(), w.grad(), b.grad()};
    }
    for (size_t i = 0; i < found[0].size(); ++i)
      EXPECT_LT(error_of(numbers(found[1][i]), numbers(found[0][i]), i == 0 ? DType::f32 : half).units, i == 0 ? 8 : 3)
          << i;
  }
}
// A gradient that comes from a product in 16 bits is not copied to float32 before a norm's backward reads it.
TEST(CudaAutocast, NormsReadGradientsIn16Bits) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope on(d);
  for (const bool rms : {false, true})
    for (const int64_t width : {64, 1000}) {
      const Tensor start = normal({96, width}, 0, 1), by = normal({width, 32}, 0, 1).to(half);
      const Parameter w(uniform({width}, 0.5, 2)), b(uniform({width}, -1, 1));
      uint64_t launches[2];
      std::vector<std::vector<unsigned char>> found[2];
      for (const bool read : {false, true}) {
        Tensor x = start.detach();
        x.requires_grad_();
        for (const Parameter* p : {&w, &b}) p->zero_grad();
        const Tensor y = rms ? rms_norm(x, {width}, w) : layer_norm(x, {width}, w, b);
        if (read)
          y.register_hook([](const Tensor& g) {
            g.data();
            return Tensor();
          });
        const Tensor loss = sum(autocast(half, [&] { return matmul(y, by); }).to(DType::f32));
        loss.data();
        const Stats before = stats();
        backward(loss);
        for (const Tensor& g : {x.grad(), w.grad()}) g.data();
        launches[read] = stats().launches - before.launches;
        found[read] = {bytes(x.grad()), bytes(w.grad())};
        if (!rms) found[read].push_back(bytes(b.grad()));
      }
      EXPECT_EQ(found[0], found[1]) << (rms ? "rms " : "layer ") << width;
      EXPECT_EQ(launches[0] + 1, launches[1]);
    }
}
}  // namespace
}  // namespace flame
