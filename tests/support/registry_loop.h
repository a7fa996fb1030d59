// The one loop over the registry: every op, dtype, sample and layout against float64, gradients by differences, and
// what an op must not do (write beside its output, read on the host). Planted defects run through the same loop.
#pragma once
#include <cstdio>
#include <map>
#include <set>

#include "flame/fuse/island.h"
#include "flame/tensor/op.h"
#include "tests/support/forms.h"
#include "tests/support/guarded_device.h"
#include "tests/support/tolerances.h"

namespace flame::test {

struct Finding {
  std::string op, check, detail;
};
struct LoopReport {
  std::map<std::string, std::map<DType, Seen>> seen;
  std::vector<Finding> findings;
  size_t cases = 0, gradchecks = 0, gradgradchecks = 0;
  std::map<std::string, std::set<DType>> unsupported;

  bool found(const std::string& check) const {
    return std::any_of(findings.begin(), findings.end(), [&](const Finding& f) { return f.check == check; });
  }
  std::string text() const {
    std::string out;
    for (const Finding& f : findings) out += f.op + ": " + f.check + ": " + f.detail + "\n";
    return out;
  }
};

class RegistryLoop {
 public:
  explicit RegistryLoop(LoopReport& report) : report_(report) {}

  void run(const OpEntry& entry) {
    entry_ = &entry;
    DefaultDevice device(guarded());
    if (!entry.samples) return note("samples", "has none");
    for (DType t : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
      std::vector<SampleCase> cases;
      try {
        cases = entry.samples(t);
      } catch (const Error& e) {
        note("samples", std::string(flame::name_of(t)) + ": " + e.what());
        continue;
      }
      if (cases.empty()) note("samples", "has none for " + std::string(flame::name_of(t)));
      for (size_t i = 0; i < cases.size(); ++i) {
        if (quick() && i % 3 != 0 && t != DType::f32) continue;
        guard(cases[i], t, [&] { check_case(cases[i], t); });
      }
    }
  }

 private:
  using Tensors = std::vector<Tensor>;
  LoopReport& report_;
  const OpEntry* entry_ = nullptr;
  std::string where_;

  void note(const std::string& check, const std::string& detail) {
    report_.findings.push_back({entry_->name, check, detail});
  }

  template <class F>
  void guard(const SampleCase& c, DType t, F&& fn) {
    where_ = std::string(flame::name_of(t)) + ", " + c.label;
    try {
      fn();
    } catch (const NotImplemented&) {
      if (t == DType::f32 || t == DType::f64) note("dtype", where_ + ": not implemented");
      report_.unsupported[entry_->name].insert(t);
    } catch (const std::exception& e) { note("exception", where_ + ": " + e.what()); }
  }

  static bool wanted(const SampleCase& c, size_t i) {
    return c.inputs[i].defined() && is_float(c.inputs[i].dtype()) && (c.wrt < 0 || i < static_cast<size_t>(c.wrt));
  }

  // Outputs, and gradients of the inputs that have one, for incoming gradients that are fixed fractions.
  struct Result {
    Tensors outputs, gradients;
  };
  Result evaluate(const SampleCase& c, const Tensors& inputs, bool expanded_seed = false) const {
    Tensors in = inputs, leaves;
    for (size_t i = 0; i < in.size(); ++i)
      if (wanted(c, i)) leaves.push_back(in[i].requires_grad_());
    Result r{c.fn(in), {}};
    Tensors outputs, seeds;
    for (const Tensor& y : r.outputs)
      if (y.requires_grad()) {
        outputs.push_back(y);
        seeds.push_back(expanded_seed
                            ? Tensor::from(std::vector<double>{0.75}, {}, y.device()).to(y.dtype()).expand(y.shape())
                            : seed_like(y));
      }
    if (!outputs.empty() && entry_->differentiable)
      r.gradients = grad(outputs, leaves, {.grad_outputs = seeds, .retain_graph = true, .allow_unused = true});
    return r;
  }
  // Multiples of 1/8, exact in every dtype.
  static Tensor seed_like(const Tensor& y) {
    std::vector<double> v(static_cast<size_t>(y.numel()));
    for (size_t i = 0; i < v.size(); ++i) v[i] = (static_cast<double>((i * 29 + 5) % 17) - 8) / 8;
    return Tensor::from(v, y.shape(), y.device()).to(y.dtype());
  }

  void compare(const Tensors& got, const Tensors& want, const char* check, const std::string& form, double& worst,
               double allowed) {
    if (got.size() != want.size()) return note(check, where_ + form + ": another number of results");
    for (size_t i = 0; i < got.size(); ++i) {
      if (got[i].defined() != want[i].defined()) {
        note(check, where_ + form + ": one of two is undefined");
        continue;
      }
      if (!got[i].defined()) continue;
      const Deviation e = error_of(got[i], want[i]);
      worst = std::max(worst, e.units);
      if (e.units > allowed)
        note(check,
             where_ + form + ": result " + std::to_string(i) + ", element " + std::to_string(e.at) + ", " +
                 (e.text.empty() ? "error " + std::to_string(e.units) + " roundings, allowed " + std::to_string(allowed)
                                 : e.text));
    }
  }

  void check_case(const SampleCase& c, DType t) {
    const Allowed allowed = allowed_error(entry_->name, t);
    Seen& seen = report_.seen[entry_->name][t];
    for (Form f : all_forms) {
      if (quick() && (f == Form::gaps || f == Form::backwards) && t != DType::f32) continue;
      const std::string form = std::string(", ") + name_of(f);
      Tensors inputs, reference;
      for (const Tensor& x : c.inputs) {
        inputs.push_back(x.defined() ? in_form(x, f) : x);
        reference.push_back(doubled(inputs.back()));
      }
      ++report_.cases;
      // The registry's own layout once more, since samples bring forms of their own.
      const Tensors& given = f == Form::dense ? c.inputs : inputs;
      const Tensors before = copies(given);
      const uint64_t reads = guarded().host_reads();
      const Result got = evaluate(c, given);
      flush_pending();
      if (guarded().host_reads() != reads && !c.reads_host)
        note("host copy", where_ + form + ": a value was read on the host");
      const Result want = evaluate(c, reference);
      const double ill = f == Form::expanded ? condition_of_equal_numbers(entry_->name) : 1;
      Seen worst;
      compare(got.outputs, want.outputs, "value", form, worst.value, allowed.value * ill);
      compare(got.gradients, want.gradients, "gradient", form, worst.gradient, allowed.gradient * ill);
      if (ill == 1) seen = {std::max(seen.value, worst.value), std::max(seen.gradient, worst.gradient)};
      for (size_t i = 0; i < given.size(); ++i)
        if (given[i].defined() && !same_bits(given[i], before[i])) note("input changed", where_ + form);
      if (f == Form::dense) check_dense(c, given, reference, got, t);
      if (const std::string v = guarded().violations(); !v.empty()) note("out of bounds", where_ + form + ": " + v);
    }
  }

  static Tensors copies(const Tensors& in) {
    Tensors out;
    for (const Tensor& x : in) out.push_back(x.defined() ? dense(x) : x);
    return out;
  }

  void check_dense(const SampleCase& c, const Tensors& inputs, const Tensors& reference, const Result& got, DType t) {
    const Result expanded = evaluate(c, inputs, true);
    double& worst = report_.seen[entry_->name][t].gradient;
    compare(expanded.gradients, evaluate(c, reference, true).gradients, "expanded gradient", "", worst,
            allowed_error(entry_->name, t).gradient);
    set_fusion(false);
    const Result alone = evaluate(c, inputs);
    set_fusion(true);
    for (size_t i = 0; i < got.outputs.size(); ++i)
      if (const std::string d = difference(got.outputs[i], alone.outputs[i]); !d.empty())
        note("fusion", where_ + ": " + d);
    for (size_t i = 0; i < got.gradients.size(); ++i)
      if (const std::string d = difference(got.gradients[i], alone.gradients[i]); !d.empty())
        note("fusion", where_ + ", gradient: " + d);
    if (t == DType::f64 && entry_->differentiable) check_gradients(c, reference);
  }

  void check_gradients(const SampleCase& c, const Tensors& inputs) {
    Tensors moving;
    std::vector<size_t> at;
    int64_t elements = 0;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (wanted(c, i)) {
        moving.push_back(inputs[i]);
        at.push_back(i);
        elements += inputs[i].numel();
      }
    if (moving.empty()) return note("gradcheck", where_ + ": nothing to differentiate");
    const TensorFn fn = [&](const Tensors& in) {
      Tensors all = inputs;
      for (size_t k = 0; k < at.size(); ++k) all[at[k]] = in[k];
      return c.fn(all);
    };
    const bool any = [&] {
      for (const Tensor& y : evaluate(c, inputs).outputs)
        if (y.requires_grad()) return true;
      return false;
    }();
    if (!any) return note("gradcheck", where_ + ": no output has a gradient");
    const int64_t limit = quick() ? 40 : full() ? 100000 : 600;
    if (elements > limit) return;
    try {
      gradcheck(fn, moving);
      ++report_.gradchecks;
    } catch (const AutogradError& e) { return note("gradcheck", where_ + ": " + e.what()); }
    try {
      gradgradcheck(fn, moving);
      ++report_.gradgradchecks;
    } catch (const AutogradError& e) { note("gradgradcheck", where_ + ": " + e.what()); }
  }
};

inline void print_errors(const LoopReport& report) {
  constexpr DType columns[] = {DType::f64, DType::f32, DType::f16, DType::bf16};
  std::printf("largest error in roundings of the dtype, against float64: value / gradient\n%-18s", "op");
  for (DType t : columns) std::printf(" %17s", std::string(flame::name_of(t)).c_str());
  std::printf("\n");
  for (const auto& [op, row] : report.seen) {
    std::printf("%-18s", op.c_str());
    for (DType t : columns) {
      const auto it = row.find(t);
      if (it == row.end()) std::printf(" %17s", "-");
      else std::printf(" %8.3g/%8.3g", it->second.value, it->second.gradient);
    }
    std::printf("\n");
  }
}

}  // namespace flame::test
