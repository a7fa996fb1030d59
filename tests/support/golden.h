// The golden loop: PyTorch's values and gradients (tools/golden.py) against an op, which a planted defect may replace.
#pragma once
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "flame/flame.h"
#include "tests/support/compare.h"

namespace flame::test {

using Json = nlohmann::json;
using GoldenFn = std::function<std::vector<Tensor>(const std::vector<Tensor>&, const Json& options)>;

inline const Json& golden_cases() {
  static const Json all = Json::parse(std::ifstream(FLAME_SOURCE_DIR "/tests/golden/ops.json"))["cases"];
  return all;
}

inline double number_of(const Json& j) {
  if (j.is_boolean()) return j.get<bool>();
  if (!j.is_string()) return j.get<double>();
  const std::string s = j;
  return s == "nan" ? std::nan("") : s == "inf" ? HUGE_VAL : -HUGE_VAL;
}
inline std::vector<double> numbers_of(const Json& tensor) {
  std::vector<double> out;
  for (const Json& x : tensor["data"]) out.push_back(number_of(x));
  return out;
}
inline Dims dims_of(const Json& j) {
  Dims d;
  for (const Json& x : j) d.push_back(x.get<int64_t>());
  return d;
}
inline DType dtype_named(const std::string& name) {
  for (DType t : all_dtypes)
    if (flame::name_of(t) == name) return t;
  throw std::runtime_error("no dtype " + name);
}
inline Tensor tensor_of(const Json& j, DType floating) {
  const DType t = dtype_named(j["dtype"]);
  return Tensor::from(numbers_of(j), dims_of(j["shape"])).to(is_float(t) ? floating : t);
}

inline Axes axes_of(const Json& o) { return Axes(dims_of(o.value("axes", Json::array()))); }
inline Reduction reduction_of(const Json& o) {
  const std::string r = o.value("reduction", "mean");
  return r == "none" ? Reduction::none : r == "sum" ? Reduction::sum : Reduction::mean;
}
inline Pair pair_of(const Json& o, const char* key, int64_t otherwise) {
  if (!o.contains(key)) return otherwise;
  return {o[key][0].get<int64_t>(), o[key][1].get<int64_t>()};
}
inline Tensor at(const std::vector<Tensor>& in, size_t i) { return i < in.size() ? in[i] : Tensor(); }

// How each op of the golden file is called.
inline const std::map<std::string, GoldenFn>& golden_functions() {
  using In = const std::vector<Tensor>&;
  using O = const Json&;
  using Out = std::vector<Tensor>;
  static const std::map<std::string, GoldenFn> table = [] {
    std::map<std::string, GoldenFn> f;
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
        {"sum", sum},   {"prod", prod},     {"mean", mean},           {"amax", amax},
        {"amin", amin}, {"norm", norm},     {"logsumexp", logsumexp}, {"any", any},
        {"all", all},   {"argmax", argmax}, {"argmin", argmin}};
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
    f["squeeze"] = [](In in, O o) { return Out{in[0].squeeze(o["axis"].get<int64_t>())}; };
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
    f["embedding"] = [](In in, O) { return Out{embedding(in[0], in[1])}; };

    f["matmul"] = [](In in, O) { return Out{matmul(in[0], in[1])}; };
    f["linear"] = [](In in, O) { return Out{linear(in[0], in[1], at(in, 2))}; };
    f["conv2d"] = [](In in, O o) {
      return Out{conv2d(in[0], in[1], at(in, 2),
                        {.stride = pair_of(o, "stride", 1),
                         .padding = pair_of(o, "padding", 0),
                         .dilation = pair_of(o, "dilation", 1),
                         .groups = o.value("groups", int64_t{1})})};
    };
    f["max_pool2d"] = [](In in, O o) {
      return Out{max_pool2d(in[0], {.kernel = pair_of(o, "kernel", 2),
                                    .stride = pair_of(o, "stride", 0),
                                    .padding = pair_of(o, "padding", 0),
                                    .dilation = pair_of(o, "dilation", 1),
                                    .ceil_mode = o.value("ceil_mode", false)})};
    };
    f["avg_pool2d"] = [](In in, O o) {
      return Out{avg_pool2d(in[0], {.kernel = pair_of(o, "kernel", 2),
                                    .stride = pair_of(o, "stride", 0),
                                    .padding = pair_of(o, "padding", 0),
                                    .ceil_mode = o.value("ceil_mode", false),
                                    .count_include_pad = o.value("count_include_pad", true)})};
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
      return Out{nll_loss(in[0], in[1], {.weight = at(in, 2), .reduction = reduction_of(o)})};
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
    return f;
  }();
  return table;
}

// A result may be off by twice what PyTorch's own float32 result is off from its float64 one, in roundings of the dtype.
// Less than the floor is a few roundings more in another order of the same sum.
inline constexpr double golden_floor_f64 = 16, golden_floor_f32 = 4;

struct GoldenException {
  std::string_view op, label;
  double allowed;
  const char* why;
};
inline constexpr GoldenException golden_exceptions[] = {
    {"pow", "0-d", 12, "the base's gradient is a sum of four terms ten times its size"},
    {"batch_norm", "two values", 160,
     "the gradient cancels to eps; PyTorch's CPU kernel sums statistics of float32 in float64"},
};
inline double golden_allowed(const Json& c, double peer, DType t) {
  for (const GoldenException& e : golden_exceptions)
    if (c["op"].get<std::string>() == e.op && c["label"].get<std::string>() == e.label)
      return std::max(e.allowed, 2 * peer);
  return std::max(2 * peer, t == DType::f64 ? golden_floor_f64 : golden_floor_f32);
}

struct GoldenCheck {
  double worst = 0;     // error in roundings
  std::string failure;  // empty: passed
};

// Values and gradients of one case in one dtype.
inline GoldenCheck check_golden(const Json& c, const GoldenFn& fn, DType t) {
  GoldenCheck result;
  std::vector<Tensor> in, leaves;
  const std::vector<size_t> wrt = c["wrt"];
  for (const Json& j : c["inputs"]) in.push_back(tensor_of(j, t));
  for (size_t i : wrt) leaves.push_back(in[i].requires_grad_());
  Json options = c["options"];
  options["float"] = flame::name_of(t);
  const std::vector<Tensor> out = fn(in, options);
  const Json& outputs = c[t == DType::f32 && c.contains("outputs32") ? "outputs32" : "outputs"];
  const auto compare = [&](const Tensor& got, const Json& want, const Json& torch_error, const std::string& what) {
    if (!result.failure.empty()) return;
    const std::string name(flame::name_of(is_float(got.dtype()) ? DType::f64 : got.dtype()));
    if (got.shape() != dims_of(want["shape"])) result.failure = what + " has shape " + to_string(got.shape());
    else if (name != want["dtype"].get<std::string>())
      result.failure = what + " is " + std::string(flame::name_of(got.dtype()));
    else {
      const Deviation e = error_of(numbers(got), numbers_of(want), t);
      const double peer = !torch_error.is_null() ? torch_error.get<double>() : t == DType::f64 ? 0 : HUGE_VAL;
      const double allowed = golden_allowed(c, peer, t);
      result.worst = std::max(result.worst, e.units);
      if (!(e.units <= allowed) && std::isfinite(allowed))
        result.failure =
            what + ", element " + std::to_string(e.at) + ": " +
            (e.text.empty() ? std::to_string(e.units) + " roundings, allowed " + std::to_string(allowed) : e.text);
    }
  };
  if (out.size() != outputs.size()) result.failure = "another number of outputs";
  for (size_t i = 0; i < out.size(); ++i)
    compare(out[i], outputs[i], c["float32_error"][i], "output " + std::to_string(i));
  if (!result.failure.empty()) return result;

  std::vector<Tensor> smooth, seeds;
  for (const Tensor& y : out)
    if (y.requires_grad()) {
      std::vector<double> s(static_cast<size_t>(y.numel()));
      for (size_t i = 0; i < s.size(); ++i) s[i] = (static_cast<double>((i * 29 + 5) % 17) - 8) / 8;
      smooth.push_back(y);
      seeds.push_back(Tensor::from(s, y.shape()).to(y.dtype()));
    }
  std::vector<Tensor> g(leaves.size());
  if (!smooth.empty()) g = grad(smooth, leaves, {.grad_outputs = seeds, .allow_unused = true});
  for (size_t k = 0; k < wrt.size(); ++k) {
    const Json& want = c["gradients"][wrt[k]];
    const std::string what = "gradient of input " + std::to_string(wrt[k]);
    if (want.is_null()) continue;
    if (g[k].defined()) compare(g[k], want, c["float32_gradient_error"][wrt[k]], what);
    else if (result.failure.empty()) result.failure = what + " is missing";
  }
  return result;
}

}  // namespace flame::test
