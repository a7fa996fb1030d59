// How the golden loop calls the ops: inputs and options of a case to FLAME's function.
#include "tests/support/golden.h"

namespace flame::test {
namespace {

using In = const std::vector<Tensor>&;
using O = const Json&;
using Out = std::vector<Tensor>;

const AddGoldenCalls calls([](GoldenCalls& f) {
#define FLAME_CALL_1(name) f[#name] = [](In in, O) { return Out{name(in[0])}; };
#define FLAME_CALL_2(name) f[#name] = [](In in, O) { return Out{name(in[0], in[1])}; };
#define FLAME_CALL_3(name) f[#name] = [](In in, O) { return Out{name(in[0], in[1], in[2])}; };
#define FLAME_POINTWISE(name, arity, ...) FLAME_CALL_##arity(name)
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
#undef FLAME_CALL_1
#undef FLAME_CALL_2
#undef FLAME_CALL_3
  using Reducer = Tensor (*)(const Tensor&, const Axes&, bool, Loc);
  const std::pair<const char*, Reducer> reducers[] = {
      {"sum", sum}, {"prod", prod}, {"mean", mean},     {"amax", amax},    {"amin", amin}, {"logsumexp", logsumexp},
      {"any", any}, {"all", all},   {"argmax", argmax}, {"argmin", argmin}};
  for (const auto& [name, fn] : reducers)
    f[name] = [fn](In in, O o) { return Out{fn(in[0], axes_of(o), o.value("keepdim", false), Loc::current())}; };
  const auto var_options = [](O o) {
    return VarOptions{.correction = o.value("correction", 1.0), .keepdim = o.value("keepdim", false)};
  };
  f["var"] = [=](In in, O o) { return Out{var(in[0], axes_of(o), var_options(o))}; };
  f["std"] = [=](In in, O o) { return Out{flame::std(in[0], axes_of(o), var_options(o))}; };

  f["reshape"] = [](In in, O o) { return Out{in[0].reshape(dims_of(o["shape"]))}; };
  f["flatten"] = [](In in, O o) { return Out{in[0].flatten(o["from"].get<int64_t>(), o["to"].get<int64_t>())}; };
  f["permute"] = [](In in, O o) { return Out{in[0].permute(dims_of(o["order"]))}; };
  f["transpose"] = [](In in, O o) {
    return Out{in[0].transpose(o["axes"][0].get<int64_t>(), o["axes"][1].get<int64_t>())};
  };
  f["expand"] = [](In in, O o) { return Out{in[0].expand(dims_of(o["shape"]))}; };
  f["unsqueeze"] = [](In in, O o) { return Out{in[0].unsqueeze(o["axis"].get<int64_t>())}; };
  f["narrow"] = [](In in, O o) { return Out{in[0].narrow(o["axis"], o["start"], o["length"])}; };
  f["slice"] = [](In in, O o) { return Out{in[0].slice(o["axis"], o["start"], o["stop"], o["step"])}; };
  f["select"] = [](In in, O o) { return Out{in[0].select(o["axis"], o["index"])}; };
  f["flip"] = [](In in, O o) { return Out{flip(in[0], dims_of(o["axes"]))}; };
  f["contiguous"] = [](In in, O) { return Out{in[0].transpose(0, 2).contiguous()}; };
  f["slice_scatter"] = [](In in, O o) {
    return Out{slice_scatter(in[0], dims_of(o["shape"]), o["axis"], o["start"], o["step"])};
  };
  f["cat"] = [](In in, O o) { return Out{cat(in, o["axis"].get<int64_t>())}; };
  f["stack"] = [](In in, O o) { return Out{stack(in, o["axis"].get<int64_t>())}; };
  f["gather"] = [](In in, O o) { return Out{gather(in[0], o["axis"], in[1])}; };
  f["scatter_add"] = [](In in, O o) { return Out{scatter_add(in[0], o["axis"], in[1], in[2])}; };
  f["index_select"] = [](In in, O o) { return Out{index_select(in[0], o["axis"], in[1])}; };

  f["matmul"] = [](In in, O) { return Out{matmul(in[0], in[1])}; };
  f["linear"] = [](In in, O o) { return Out{linear(in[0], in[1], at(in, 2), {.activation = activation_of(o)})}; };
  f["feed_forward"] = [](In in, O o) {
    const bool biased = in.size() == 5;
    const Tensor &w2 = in[biased ? 3 : 2], b1 = biased ? in[2] : Tensor(), b2 = biased ? in[4] : Tensor();
    return Out{feed_forward(in[0], in[1], b1, w2, b2, {.activation = activation_of(o)})};
  };

  f["softmax"] = [](In in, O o) { return Out{softmax(in[0], o["axis"].get<int64_t>())}; };
  f["log_softmax"] = [](In in, O o) { return Out{log_softmax(in[0], o["axis"].get<int64_t>())}; };
  f["cross_entropy"] = [](In in, O o) {
    return Out{cross_entropy(in[0], in[1],
                             {.weight = at(in, 2),
                              .ignore_index = o.value("ignore_index", int64_t{-100}),
                              .label_smoothing = o.value("label_smoothing", 0.0),
                              .reduction = reduction_of(o)})};
  };
  f["nll_loss"] = [](In in, O o) {
    return Out{nll_loss(
        in[0], in[1],
        {.weight = at(in, 2), .ignore_index = o.value("ignore_index", int64_t{-100}), .reduction = reduction_of(o)})};
  };
  f["mse_loss"] = [](In in, O o) { return Out{mse_loss(in[0], in[1], reduction_of(o))}; };
  f["l1_loss"] = [](In in, O o) { return Out{l1_loss(in[0], in[1], reduction_of(o))}; };
  f["bce_with_logits"] = [](In in, O o) {
    return Out{bce_with_logits(in[0], in[1], {.weight = in[2], .pos_weight = in[3], .reduction = reduction_of(o)})};
  };
  f["batch_norm"] = [](In in, O o) {
    const State mean(in[1]), var(in[2]);
    const Tensor y = batch_norm(
        in[0], mean, var, at(in, 3), at(in, 4),
        {.training = o.value("training", true), .momentum = o.value("momentum", 0.1), .eps = o.value("eps", 1e-5)});
    return Out{y, mean.tensor(), var.tensor()};
  };
  f["layer_norm"] = [](In in, O o) {
    return Out{layer_norm(in[0], dims_of(o["normalized"]), at(in, 1), at(in, 2), o.value("eps", 1e-5))};
  };
  f["dropout"] = [](In in, O o) {
    Generator g(o.value("seed", uint64_t{0}));
    return Out{dropout(in[0], o["p"].get<double>(), o["training"].get<bool>(), &g)};
  };

  const auto made = [&f](const char* name, auto make) {
    f[name] = [make](In, O o) {
      return Out{make(o, dims_of(o.value("shape", Json::array())), dtype_named(o["float"]))};
    };
  };
  made("full", [](O o, const Shape& s, DType t) { return full(s, number_of(o["value"]), t); });
  made("eye", [](O, const Shape& s, DType t) { return eye(s[0], s[1], t); });
  made("arange", [](O o, const Shape&, DType t) {
    return arange(number_of(o["start"]), number_of(o["stop"]), number_of(o["step"]), t);
  });
  made("linspace", [](O o, const Shape&, DType t) { return linspace(o["start"], o["stop"], o["count"], t); });
  f["one_hot"] = [](In in, O o) { return Out{one_hot(in[0], o["classes"])}; };
  const auto drawn = [&f](const char* name, auto draw) {
    f[name] = [draw](In, O o) {
      Generator g(o["seed"].get<uint64_t>());
      return Out{draw(o, dims_of(o["shape"]), RandomOptions{.dtype = dtype_named(o["float"]), .generator = &g})};
    };
  };
  drawn("rand", [](O, const Shape& s, const RandomOptions& r) { return rand(s, r); });
  drawn("randn", [](O, const Shape& s, const RandomOptions& r) { return randn(s, r); });
  drawn("uniform", [](O o, const Shape& s, const RandomOptions& r) { return uniform(s, o["low"], o["high"], r); });
  drawn("normal", [](O o, const Shape& s, const RandomOptions& r) { return normal(s, o["mean"], o["std"], r); });
  drawn("randint", [](O o, const Shape& s, const RandomOptions& r) {
    return randint(o["low"], o["high"], s, {.generator = r.generator});
  });
  drawn("bernoulli", [](O o, const Shape& s, const RandomOptions& r) {
    return bernoulli(s, o["p"].get<double>(), {.generator = r.generator});
  });
  drawn("randperm",
        [](O, const Shape& s, const RandomOptions& r) { return randperm(s[0], {.generator = r.generator}); });
});

}  // namespace
}  // namespace flame::test
