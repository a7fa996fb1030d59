// Whole layers against PyTorch's, weights loaded by its names; weight sharing; initialisers; what layers cost in launches.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "tests/support/golden.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using namespace test;
using Inputs = std::vector<Tensor>;

struct Made {
  std::shared_ptr<nn::Module> module;
  std::function<Inputs(const Inputs&)> call;
};
template <class M, class F>
Made made(std::shared_ptr<M> m, F call) {
  return {m, [m, call](const Inputs& in) { return call(*m, in); }};
}
template <class M>
Made plain(const typename M::Options& o) {
  return made(std::make_shared<M>(o), [](M& m, const Inputs& in) { return Inputs{m(in[0])}; });
}

template <class M>
Made recurrent(const Json& o, DType t) {
  auto m = std::make_shared<M>(nn::RecurrentOptions{.in = o["in"],
                                                    .hidden = o["hidden"],
                                                    .layers = o.value("layers", int64_t{1}),
                                                    .bias = o.value("bias", true),
                                                    .batch_first = o.value("batch_first", false),
                                                    .bidirectional = o.value("bidirectional", false),
                                                    .projection = o.value("projection", int64_t{0}),
                                                    .dtype = t});
  return made(m, [](M& m, const Inputs& in) {
    const nn::RecurrentResult r = m(in[0], {.h = at(in, 1), .c = at(in, 2)});
    Inputs out{r.out};
    if (in.size() > 1) out.push_back(r.state.h);
    if (in.size() > 2) out.push_back(r.state.c);
    return out;
  });
}

Made multihead(const Json& c, DType t) {
  const Json& o = c["options"];
  auto m = std::make_shared<nn::MultiheadAttention>(
      nn::MultiheadAttentionOptions{.width = o["width"],
                                    .heads = o["heads"],
                                    .bias = o.value("bias", true),
                                    .add_bias_kv = o.value("add_bias_kv", false),
                                    .add_zero_attn = o.value("add_zero_attn", false),
                                    .key_width = o.value("key_width", int64_t{0}),
                                    .value_width = o.value("value_width", int64_t{0}),
                                    .batch_first = o.value("batch_first", false),
                                    .dtype = t});
  return made(m, [o, label = c["label"].get<std::string>()](nn::MultiheadAttention& m, const Inputs& in) {
    nn::AttentionCall call{.need_weights = o.value("need_weights", false), .average_weights = o.value("average", true)};
    const bool self = in.size() == 1 || in[1].dtype() == DType::boolean;
    if (label == "padding") call.key_padding_mask = in[1];
    if (label == "mask") call.mask = in[1];
    if (label.starts_with("padding and mask")) {
      call.key_padding_mask = in[1];
      call.mask = in[2];
    }
    const nn::AttentionResult r = self ? m.forward(in[0], in[0], in[0], call) : m.forward(in[0], in[1], in[2], call);
    return r.weights.defined() ? Inputs{r.out, r.weights} : Inputs{r.out};
  });
}

Made encoder(const Json& o, DType t) {
  auto m = std::make_shared<nn::TransformerEncoderLayer>(nn::TransformerEncoderLayerOptions{
      .width = o["width"],
      .heads = o["heads"],
      .hidden = o["hidden"],
      .dropout = 0,
      .activation = o.value("activation", "relu") == "gelu" ? nn::Activation::gelu : nn::Activation::relu,
      .batch_first = true,
      .norm_first = o.value("norm_first", false),
      .dtype = t});
  return made(m, [](nn::TransformerEncoderLayer& m, const Inputs& in) {
    return Inputs{in.size() == 1 ? m(in[0]) : m(in[0], {.mask = in[2], .key_padding_mask = in[1]})};
  });
}

Made made_of(const Json& c, DType t) {
  const std::string layer = c["layer"];
  const Json& o = c["options"];
  if (layer == "RNN") return recurrent<nn::RNN>(o, t);
  if (layer == "LSTM") return recurrent<nn::LSTM>(o, t);
  if (layer == "GRU") return recurrent<nn::GRU>(o, t);
  if (layer == "MultiheadAttention") return multihead(c, t);
  if (layer == "TransformerEncoderLayer") return encoder(o, t);
  nn::BatchNormOptions batch{.channels = 3, .dtype = t};
  if (o.value("average", false)) batch.momentum.reset();
  if (layer == "BatchNorm1d") return plain<nn::BatchNorm1d>(batch);
  if (layer == "BatchNorm2d") return plain<nn::BatchNorm2d>(batch);
  if (layer == "BatchNorm3d") return plain<nn::BatchNorm3d>(batch);
  const nn::InstanceNormOptions instance{.channels = 3, .affine = true, .track = true, .dtype = t};
  if (layer == "InstanceNorm1d") return plain<nn::InstanceNorm1d>(instance);
  if (layer == "InstanceNorm2d") return plain<nn::InstanceNorm2d>(instance);
  if (layer == "InstanceNorm3d") return plain<nn::InstanceNorm3d>(instance);
  if (layer == "GroupNorm") return plain<nn::GroupNorm>({.groups = 2, .channels = 4, .dtype = t});
  if (layer == "RMSNorm") return plain<nn::RMSNorm>({.normalized = {6}, .dtype = t});
  if (layer == "LayerNorm") return plain<nn::LayerNorm>({.normalized = {6}, .dtype = t});
  if (layer == "Embedding") return plain<nn::Embedding>({.count = 5, .width = 3, .dtype = t});
  throw std::runtime_error("no layer " + layer);
}

// The worst error in roundings of float64, over outputs, gradients and buffers.
double worst_of(const Json& c) {
  double worst = 0;
  const auto compare = [&](const Tensor& got, const Json& want, const std::string& what) {
    ASSERT_EQ(got.shape(), dims_of(want["shape"])) << what;
    const Deviation d = error_of(numbers(got), numbers_of(want), DType::f64);
    EXPECT_TRUE(d.text.empty()) << what << ": " << d.text;
    EXPECT_LE(d.units, 64) << what;
    worst = std::max(worst, d.units);
  };
  const std::string title = c["layer"].get<std::string>() + ", " + c["label"].get<std::string>() + ": ";
  const Made m = made_of(c, DType::f64);
  nn::NamedTensors state;
  for (const auto& [name, t] : c["state"].items()) state.emplace_back(name, tensor_of(t, DType::f64));
  m.module->load_state(state);  // every name must be PyTorch's
  Inputs in, leaves;
  for (const Json& t : c["inputs"]) {
    in.push_back(tensor_of(t, DType::f64));
    if (is_float(in.back().dtype())) leaves.push_back(in.back().requires_grad_());
  }
  const std::string layer = c["layer"];
  const int steps = layer.starts_with("BatchNorm") ? 3 : layer.starts_with("InstanceNorm") ? 2 : 1;
  Inputs out;
  for (int i = 0; i < steps; ++i) out = m.call(in);
  EXPECT_EQ(out.size(), c["outputs"].size()) << title;
  Inputs seeds;
  for (size_t i = 0; i < out.size(); ++i) {
    compare(out[i], c["outputs"][i], title + "output " + std::to_string(i));
    std::vector<double> s(static_cast<size_t>(out[i].numel()));
    for (size_t k = 0; k < s.size(); ++k) s[k] = (static_cast<double>((k * 29 + 5) % 17) - 8) / 8;
    seeds.push_back(Tensor::from(s, out[i].shape()));
  }
  const size_t inputs = leaves.size();
  std::vector<std::string> names;
  for (const auto& [name, p] : m.module->named_parameters()) {
    leaves.push_back(p.tensor());
    names.push_back(name);
  }
  const Inputs g = grad(out, leaves, {.grad_outputs = seeds});
  for (size_t i = 0; i < g.size(); ++i)
    compare(g[i], i < inputs ? c["input_gradients"][i] : c["gradients"][names[i - inputs]],
            title + "gradient of " + (i < inputs ? "input " + std::to_string(i) : names[i - inputs]));
  for (const auto& [name, s] : m.module->named_buffers())
    compare(s.tensor().to(DType::f64), c["after"][name], title + name);
  return worst;
}

TEST(GoldenLayers, AreAsPyTorchs) {
  const Json all = Json::parse(std::ifstream(FLAME_SOURCE_DIR "/tests/golden/layers.json"))["cases"];
  std::map<std::string, double> worst;
  for (const Json& c : all) {
    double& w = worst[c["layer"]];
    w = std::max(w, worst_of(c));
  }
  for (const auto& [layer, w] : worst) std::printf("%-24s %6.3g roundings of float64\n", layer.c_str(), w);
  EXPECT_GE(all.size(), 35u);
}

TEST(GoldenLayers, SecondDerivatives) {
  Generator g(4);
  const GeneratorScope scope(g);
  nn::LSTM lstm{{.in = 2, .hidden = 2, .bidirectional = true, .dtype = DType::f64}};
  nn::GRU gru{{.in = 2, .hidden = 2, .layers = 2, .dtype = DType::f64}};
  nn::MultiheadAttention mha{{.width = 4, .heads = 2, .dtype = DType::f64}};
  const Tensor x = randn({3, 1, 2}, {.dtype = DType::f64}), y = randn({3, 1, 4}, {.dtype = DType::f64});
  for (const auto& [fn, in] : std::vector<std::pair<TensorFn, Tensor>>{
           {[&](const Inputs& in) { return Inputs{lstm(in[0]).out}; }, x},
           {[&](const Inputs& in) { return Inputs{gru(in[0]).out}; }, x},
           {[&](const Inputs& in) { return Inputs{mha(in[0], in[0], in[0], {.causal = true})}; }, y}}) {
    gradcheck(fn, {in});
    gradgradcheck(fn, {in});
  }
}

TEST(Layers, KeysThatAnAttentionAddsAreSeenByEveryQuery) {
  nn::MultiheadAttention m{{.width = 8, .heads = 2, .add_bias_kv = true, .add_zero_attn = true, .dtype = DType::f64}};
  const Tensor x = randn({4, 2, 8}, {.dtype = DType::f64}), at = arange(0, 4, 1, DType::i64);
  const Tensor want = m(x, x, x, {.mask = at.reshape({4, 1}) < at});
  for (const bool weights : {false, true}) {
    const nn::AttentionResult r = m.forward(x, x, x, {.causal = true, .need_weights = weights});
    EXPECT_LE(amax(abs(r.out - want)).item(), 1e-14);
    if (!weights) continue;
    EXPECT_EQ(r.weights.shape(), (Shape{2, 4, 6}));
    EXPECT_TRUE(all(r.weights.narrow(2, 4, 2) > 0).item<bool>());
  }
}

TEST(Layers, DropoutOnlyWhileTraining) {
  nn::TransformerEncoderLayer layer{{.width = 8, .heads = 2, .hidden = 16, .dropout = 0.5, .batch_first = true}};
  nn::LSTM lstm{{.in = 8, .hidden = 8, .layers = 2, .dropout = 0.5}};
  const Tensor x = randn({2, 5, 8});
  const auto twice_equal = [&](auto&& fn) {
    return fn().template to_vector<float>() == fn().template to_vector<float>();
  };
  const auto encode = [&] { return layer(x).detach(); };
  const auto recur = [&] { return lstm(x).out.detach(); };
  EXPECT_FALSE(twice_equal(encode));
  EXPECT_FALSE(twice_equal(recur));
  layer.eval();
  lstm.eval();
  EXPECT_TRUE(twice_equal(encode));
  EXPECT_TRUE(twice_equal(recur));
}

struct Tied : nn::Module {
  nn::Embedding embed{*this, "embed", {.count = 7, .width = 4}};
  nn::Linear head{*this, "head", {.in = 4, .out = 7, .bias = false}};
  Tied() { head.weight.share(embed.weight); }
  Tensor loss(const Tensor& index) { return cross_entropy(head(embed(index)), index); }
};

TEST(WeightSharing, OneParameterUnderTwoNames) {
  Tied net;
  ASSERT_EQ(net.parameters().size(), 1u);
  EXPECT_EQ(net.named_parameters()[0].first, "embed.weight");
  EXPECT_EQ(net.state_dict().size(), 2u);
  EXPECT_NE(net.summary().find(" 28\n"), std::string::npos) << net.summary();  // counted once

  // The gradient is the sum of both uses, and one step moves both.
  const Tensor index = Tensor::from<int64_t>({1, 3, 3}, {3});
  backward(net.loss(index));
  const Tensor w = net.embed.weight.tensor().detach();
  Tensor a = w, b = w;
  a.requires_grad_();
  b.requires_grad_();
  const Inputs g = grad({cross_entropy(matmul(embedding(a, index), b.t()), index)}, {a, b});
  EXPECT_LE(amax(abs(net.embed.weight.grad() - (g[0] + g[1]))).item(), 1e-7);
  const std::vector<float> before = w.to_vector<float>(), slope = net.embed.weight.grad().to_vector<float>();
  optim::SGD(net.parameters(), {.lr = 0.5}).step();
  const std::vector<float> after = net.head.weight.tensor().detach().to_vector<float>();
  for (size_t i = 0; i < after.size(); ++i) EXPECT_FLOAT_EQ(after[i], before[i] - 0.5f * slope[i]);

  // Saved under both names, loaded under both.
  Tied other;
  other.load_state(net.state_dict());
  EXPECT_EQ(other.embed.weight.tensor().detach().to_vector<float>(), after);
  EXPECT_EQ(other.embed.weight.id(), other.head.weight.id());
  EXPECT_MESSAGE(ShapeError, nn::Linear({.in = 2, .out = 2}).weight.share(net.embed.weight),
                 "share: expected a parameter of shape [2, 2], got [7, 4]");
}

std::vector<double> doubles(const State& s) { return s.tensor().detach().to(DType::f64).to_vector<double>(); }

TEST(Initialisers, OrthogonalRowsOrColumns) {
  for (const Shape& s : {Shape{4, 9}, Shape{9, 4}, Shape{5, 5}, Shape{3, 2, 2, 2}}) {
    const State p(zeros(s, DType::f64));
    nn::orthogonal(p, 2);
    const Tensor m = p.tensor().reshape({s[0], numel(s) / s[0]});
    const Tensor square = m.size(0) <= m.size(1) ? matmul(m, m.t()) : matmul(m.t(), m);
    EXPECT_LE(amax(abs(square - eye(square.size(0), DType::f64) * 4)).item(), 1e-12);
  }
  EXPECT_MESSAGE(ShapeError, nn::orthogonal(State(zeros({3}))), "orthogonal: expected rank 2 or more");
}

TEST(Initialisers, TruncatedNormalIsNormalWithinItsLimits) {
  const State p(zeros({200, 250}));
  nn::truncated_normal(p, {.mean = 1, .std = 2, .low = -1, .high = 3});  // one deviation each way
  const std::vector<double> v = doubles(p);
  double mean = 0, var = 0;
  for (double x : v) {
    EXPECT_GE(x, -1);
    EXPECT_LE(x, 3);
    mean += x / static_cast<double>(v.size());
  }
  for (double x : v) var += (x - mean) * (x - mean) / static_cast<double>(v.size());
  EXPECT_NEAR(mean, 1, 0.02);
  EXPECT_NEAR(var, 4 * 0.29112509, 0.02);          // 1 - 2 phi(1) / (2 Phi(1) - 1)
  nn::truncated_normal(p, {.low = 5, .high = 6});  // a far tail
  EXPECT_GE(amin(p.tensor()).item(), 5);
  EXPECT_MESSAGE(ValueError, nn::truncated_normal(p, {.low = 2, .high = 2}), "truncated_normal: expected a deviation");
}

TEST(Initialisers, ExactOnes) {
  const State m(zeros({2, 3})), filters(zeros({4, 2, 3}));
  nn::eye(m);
  EXPECT_EQ(doubles(m), (std::vector<double>{1, 0, 0, 0, 1, 0}));
  nn::dirac(filters, 2);
  const Tensor x = randn({1, 4, 6});
  EXPECT_EQ(doubles(filters),
            (std::vector<double>{0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}));
  nn::ones(m);
  EXPECT_EQ(doubles(m), std::vector<double>(6, 1));
  nn::zeros(m);
  EXPECT_EQ(doubles(m), std::vector<double>(6, 0));
}

uint64_t launches(const std::function<void()>& fn) {
  fn();
  flush_pending();
  const uint64_t before = stats().launches;
  fn();
  flush_pending();
  return stats().launches - before;
}

TEST(Layers, LaunchesAreFew) {
  const Tensor x = randn({4, 16, 32}), images = randn({4, 6, 8, 8});
  for (const Tensor& t : {x, images}) t.data();
  const auto both_ways = [](auto& layer, const Tensor& x) {
    return launches([&] {
      Tensor leaf = x.detach();
      leaf.requires_grad_();
      Inputs leaves{leaf};
      for (const Parameter& p : layer.parameters()) leaves.push_back(p.tensor());
      const Tensor y = layer(leaf);
      y.data();
      for (const Tensor& g : grad({y}, leaves, {.grad_outputs = {x}})) g.data();
    });
  };
  nn::RMSNorm rms{{.normalized = {32}}};
  nn::LayerNorm norm{{.normalized = {32}}};
  nn::GroupNorm group{{.groups = 3, .channels = 6}};
  nn::TransformerEncoderLayer layer{{.width = 32, .heads = 4, .hidden = 64, .dropout = 0, .batch_first = true}};
  const uint64_t r = both_ways(rms, x), l = both_ways(norm, x), g = both_ways(group, images), t = both_ways(layer, x);
  std::printf("launches forward and backward: RMSNorm %llu, LayerNorm %llu, GroupNorm %llu, encoder layer %llu\n",
              static_cast<unsigned long long>(r), static_cast<unsigned long long>(l),
              static_cast<unsigned long long>(g), static_cast<unsigned long long>(t));
  EXPECT_LE(r, 4u);
  EXPECT_LE(l, 5u);
  EXPECT_LE(g, 7u);
  EXPECT_LE(t, 40u);
}

}  // namespace
}  // namespace flame
