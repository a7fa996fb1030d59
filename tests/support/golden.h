// The golden loop: PyTorch's values and gradients (tools/golden.py) against an op, which a planted defect may replace.
#pragma once
#include <filesystem>
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
  static const Json all = [] {
    Json cases = Json::array();
    for (const auto& file : std::filesystem::directory_iterator(FLAME_SOURCE_DIR "/tests/golden/ops")) {
      Json part = Json::parse(std::ifstream(file.path()));
      for (Json& c : part["cases"]) cases.push_back(std::move(c));
    }
    return cases;
  }();
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

// How each op of the golden files is called. Test files add theirs by a `const AddGoldenCalls` at namespace scope.
using GoldenCalls = std::map<std::string, GoldenFn>;
inline GoldenCalls& golden_functions() {
  static GoldenCalls all;
  return all;
}
struct AddGoldenCalls {
  explicit AddGoldenCalls(void (*add)(GoldenCalls&)) { add(golden_functions()); }
};

// A result may be off by twice what PyTorch's own float32 result is off from its float64 one, in roundings of the dtype.
// Less than the floor is a few roundings more in another order of the same sum.
inline constexpr double golden_floor_f64 = 16, golden_floor_f32 = 4;

struct GoldenException {
  std::string_view op, label;
  double allowed;
  const char* why;
};
inline constexpr GoldenException golden_exceptions[] = {
#include "tests/support/golden_exceptions.def"
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
