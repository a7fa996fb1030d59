// The golden loop: PyTorch's values and first and second gradients (tools/golden.py) against an op, which a planted defect
// may replace.
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
inline Activation activation_of(const Json& options) {
  const std::string name = options.value("activation", "none");
  return name == "relu"        ? Activation::relu
         : name == "gelu"      ? Activation::gelu
         : name == "gelu_tanh" ? Activation::gelu_tanh
                               : Activation::none;
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
inline double golden_allowed(const Json& c, double peer, DType t, bool second) {
  const std::string label = c["label"].get<std::string>() + (second ? ", second" : "");
  for (const GoldenException& e : golden_exceptions)
    if (c["op"].get<std::string>() == e.op && label == e.label) return std::max(e.allowed, 2 * peer);
  return std::max(2 * peer, t == DType::f64 ? golden_floor_f64 : golden_floor_f32);
}

struct GoldenCheck {
  double worst = 0;     // error in roundings
  std::string failure;  // empty: passed
};

// Fixed eighths: incoming gradients, and what first gradients are multiplied by for the second ones. tools/golden_case.py
// has the same.
inline Tensor golden_seed(const Tensor& y) {
  std::vector<double> s(static_cast<size_t>(y.numel()));
  for (size_t i = 0; i < s.size(); ++i) s[i] = (static_cast<double>((i * 29 + 5) % 17) - 8) / 8;
  return Tensor::from(s, y.shape()).to(y.dtype());
}
inline Tensor golden_direction(const Tensor& g) {
  std::vector<double> s(static_cast<size_t>(g.numel()));
  for (size_t i = 0; i < s.size(); ++i) s[i] = (static_cast<double>((i * 23 + 7) % 19) - 9) / 8;
  return Tensor::from(s, g.shape()).to(g.dtype());
}

// One case in one dtype. Second gradients are those of the sum of direction * first gradient, with respect to inputs and
// incoming gradients, in float64.
class GoldenRun {
 public:
  GoldenRun(const Json& c, DType t) : c_(c), t_(t), wrt_(c["wrt"].get<std::vector<size_t>>()) {
    for (const Json& j : c["inputs"]) in_.push_back(tensor_of(j, t));
    for (size_t i : wrt_) leaves_.push_back(in_[i].requires_grad_());
  }
  GoldenCheck check(const GoldenFn& fn) {
    values(fn);
    if (result_.failure.empty()) gradients();
    if (result_.failure.empty() && t_ == DType::f64 && has_second(c_)) second_gradients();
    return result_;
  }
  static bool has_second(const Json& c) { return c.contains("second") && c["second"].is_object(); }

 private:
  const Json& c_;
  DType t_;
  std::vector<size_t> wrt_;
  std::vector<Tensor> in_, leaves_, smooth_, seeds_;
  GoldenCheck result_;

  void compare(const Tensor& got, const Json& want, const Json& torch_error, const std::string& what,
               bool second = false) {
    if (!result_.failure.empty()) return;
    const std::string name(flame::name_of(is_float(got.dtype()) ? DType::f64 : got.dtype()));
    if (got.shape() != dims_of(want["shape"])) result_.failure = what + " has shape " + to_string(got.shape());
    else if (name != want["dtype"].get<std::string>())
      result_.failure = what + " is " + std::string(flame::name_of(got.dtype()));
    else {
      const Deviation e = error_of(numbers(got), numbers_of(want), t_);
      const double peer = !torch_error.is_null() ? torch_error.get<double>() : t_ == DType::f64 ? 0 : HUGE_VAL;
      const double allowed = golden_allowed(c_, peer, t_, second);
      result_.worst = std::max(result_.worst, e.units);
      if (!(e.units <= allowed) && std::isfinite(allowed))
        result_.failure =
            what + ", element " + std::to_string(e.at) + ": " +
            (e.text.empty() ? std::to_string(e.units) + " roundings, allowed " + std::to_string(allowed) : e.text);
    }
  }
  void values(const GoldenFn& fn) {
    Json options = c_["options"];
    options["float"] = flame::name_of(t_);
    const std::vector<Tensor> out = fn(in_, options);
    const Json& outputs = c_[t_ == DType::f32 && c_.contains("outputs32") ? "outputs32" : "outputs"];
    if (out.size() != outputs.size()) result_.failure = "another number of outputs";
    for (size_t i = 0; i < out.size(); ++i) {
      compare(out[i], outputs[i], c_["float32_error"][i], "output " + std::to_string(i));
      if (!out[i].requires_grad()) continue;
      smooth_.push_back(out[i]);
      seeds_.push_back(golden_seed(out[i]));
    }
  }
  void gradients() {
    std::vector<Tensor> g(leaves_.size());
    if (!smooth_.empty())
      g = grad(smooth_, leaves_, {.grad_outputs = seeds_, .retain_graph = true, .allow_unused = true});
    for (size_t k = 0; k < wrt_.size(); ++k) {
      const Json& want = c_["gradients"][wrt_[k]];
      const std::string what = "gradient of input " + std::to_string(wrt_[k]);
      if (want.is_null()) continue;
      if (g[k].defined()) compare(g[k], want, c_["float32_gradient_error"][wrt_[k]], what);
      else if (result_.failure.empty()) result_.failure = what + " is missing";
    }
  }
  void second_gradients() {
    for (Tensor& s : seeds_) s = s.requires_grad_();
    std::vector<Tensor> first, directions, asked = leaves_;
    for (const Tensor& g :
         grad(smooth_, leaves_, {.grad_outputs = seeds_, .create_graph = true, .allow_unused = true})) {
      if (!g.defined() || !g.requires_grad()) continue;
      first.push_back(g);
      directions.push_back(golden_direction(g));
    }
    asked.insert(asked.end(), seeds_.begin(), seeds_.end());
    std::vector<Tensor> g(asked.size());
    if (!first.empty()) g = grad(first, asked, {.grad_outputs = directions, .allow_unused = true});
    for (size_t k = 0; k < asked.size(); ++k) {
      const bool input = k < wrt_.size();
      const char* kind = input ? "inputs" : "incoming";
      const size_t at = input ? wrt_[k] : k - wrt_.size();
      compare_second(g[k], asked[k], c_["second"][kind].at(at), c_["float32_second_error"][kind].at(at),
                     std::string("second gradient, ") + kind + " " + std::to_string(at));
    }
  }
  // That nothing flows is written as null by PyTorch, and zeros say the same.
  void compare_second(const Tensor& got, const Tensor& of, const Json& want, const Json& torch_error,
                      const std::string& what) {
    const Tensor given = got.defined() ? got : zeros_like(of);
    if (!want.is_null()) return compare(given, want, torch_error, what, true);
    for (double x : numbers(given))
      if (x != 0 && result_.failure.empty()) result_.failure = what + " is not zero";
  }
};

inline GoldenCheck check_golden(const Json& c, const GoldenFn& fn, DType t) { return GoldenRun(c, t).check(fn); }

}  // namespace flame::test
