// Anomaly mode over all ops: a NaN that enters an op's backward, or is made in it, is reported with the op's own name and
// the line of its forward call. The calls are those of the golden files, so that the line is one of a test.
#include <gtest/gtest.h>

#include "flame/tensor/op.h"
#include "tests/support/chosen.h"
#include "tests/support/error.h"
#include "tests/support/golden.h"

namespace flame {
namespace {

using namespace test;
using Tensors = std::vector<Tensor>;

// The calls of the golden loop; those of pointwise ops stand in a table there, so they get a line of this file.
GoldenCalls calls(Loc here = Loc::current()) {
  GoldenCalls f = golden_functions();
#define FLAME_CALL_1(name) \
  f[#name] = [here](const Tensors& in, const Json&) { return Tensors{flame::name(in[0], here)}; };
#define FLAME_CALL_2(name) \
  f[#name] = [here](const Tensors& in, const Json&) { return Tensors{flame::name(in[0], in[1], here)}; };
#define FLAME_CALL_3(name) \
  f[#name] = [here](const Tensors& in, const Json&) { return Tensors{flame::name(in[0], in[1], in[2], here)}; };
#define FLAME_POINTWISE(name, arity, ...) FLAME_CALL_##arity(name)
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
#undef FLAME_CALL_1
#undef FLAME_CALL_2
#undef FLAME_CALL_3
  return f;
}

struct Made {
  Tensors outputs, leaves;
};
// A case's forward pass, all its floating inputs of `fill` if that is given.
Made make(const Json& c, std::optional<double> fill = {}) {
  static const GoldenCalls functions = calls();
  Tensors in;
  Made made;
  for (const Json& j : c["inputs"]) {
    Tensor t = tensor_of(j, DType::f64);
    in.push_back(fill && is_float(t.dtype()) ? full_like(t, *fill) : t);
  }
  for (size_t i : c["wrt"].get<std::vector<size_t>>()) made.leaves.push_back(in[i].requires_grad_());
  Json options = c["options"];
  options["float"] = "float64";
  for (const Tensor& y : functions.at(c["op"])(in, options))
    if (y.requires_grad() && y.numel() > 0) made.outputs.push_back(y);
  return made;
}
Tensors gradients(const Made& m, double seed, bool retain = false) {
  GradOptions o{.retain_graph = retain, .allow_unused = true};
  for (const Tensor& y : m.outputs) o.grad_outputs.push_back(full_like(y, seed));
  return grad(m.outputs, m.leaves, o);
}
bool finite(const Tensors& all) {
  for (const Tensor& g : all)
    if (g.defined() && numbers(flame::all(isfinite(g)))[0] == 0) return false;
  return true;
}
// The op that a report names: "backward of exp: ...".
std::string named(const std::string& message) {
  const size_t at = message.find("backward of "), end = message.find(':', at);
  return at == std::string::npos ? "" : message.substr(at + 12, end - at - 12);
}

// The cases of every differentiable op with something to differentiate.
std::vector<const Json*> cases() {
  std::vector<const Json*> out;
  for (const Json& c : golden_cases()) {
    const OpEntry* e = Registry::global().find(c["op"].get<std::string>());
    if (!e || !e->differentiable || !chosen(c["op"]) || c["wrt"].empty()) continue;
    const Made m = make(c);
    const bool itself =
        !m.outputs.empty() && m.outputs[0].value_ref() == m.leaves[0].value_ref();  // such as a whole slice
    if (m.outputs.empty() || itself || !finite(m.outputs)) continue;
    out.push_back(&c);
  }
  return out;
}

void expect_report(const std::function<void()>& fn, const std::string& op) {
  const AnomalyMode on;
  try {
    fn();
    ADD_FAILURE() << op << ": no report";
  } catch (const AutogradError& e) {
    const std::string m = e.what();
    EXPECT_NE(m.find("NaN or Inf"), std::string::npos) << op << ": " << m;
    const bool alias = (op == "max" || op == "min") && named(m) == "a" + op;  // without an axis
    EXPECT_TRUE(named(m) == op || alias) << op << ", not by its own name: " << m;
    EXPECT_NE(std::string(e.where().file_name()).find("tests/"), std::string::npos)
        << op << ": not the line of the forward call: " << m;
  }
}

TEST(Anomaly, NaNThatEntersAnOpIsReportedForEveryOp) {
  const auto all = cases();
  for (const Json* c : all) {
    const std::string op = (*c)["op"];
    const Made m = make(*c);
    expect_report([&] { gradients(m, NAN, true); }, op);
    expect_report([&] { gradients(m, HUGE_VAL, true); }, op);
    const AnomalyMode on;
    EXPECT_NO_THROW(gradients(make(*c), 0.5)) << op;  // and what is finite is not
  }
  std::printf("%zu calls of differentiable ops reported\n", all.size());
  if (!all_ops()) return;
  std::set<std::string> tried;
  for (const Json* c : all) tried.insert((*c)["op"]);
  for (const OpEntry& e : Registry::global().entries()) {
    // PyTorch has no gradient of the last two, so their cases have none either.
    if (!e.differentiable || e.name == "floor_divide" || e.name == "heaviside") continue;
    EXPECT_TRUE(tried.contains(e.name)) << e.name << " has no case";
  }
}

TEST(Anomaly, NaNMadeInBackwardIsReportedForEveryOp) {
  std::set<std::string> makers;
  for (const Json* c : cases()) {
    const std::string op = (*c)["op"];
    // Inputs at which rules divide by zero, overflow or meet a NaN; a finite gradient comes in.
    for (const double fill : {0.0, 1.0, -1.0, 1e200, HUGE_VAL, static_cast<double>(NAN)}) {
      const Made m = make(*c, fill);
      if (finite(gradients(m, 1e150, true))) continue;
      makers.insert(op);
      expect_report([&] { gradients(m, 1e150, true); }, op);
    }
  }
  std::printf("%zu ops made a NaN or Inf in backward\n", makers.size());
  EXPECT_TRUE(makers.size() > 30u || !all_ops());
}

TEST(Anomaly, NamesTheForwardLine) {
  const AnomalyMode on;
  Tensor x = full({3}, 0.0).requires_grad_();
  const Loc here = Loc::current();
  const Tensor y = sum(sqrt(x));  // one line below `here`
  try {
    backward(y);
    FAIL();
  } catch (const AutogradError& e) {
    EXPECT_EQ(e.where().line(), here.line() + 1) << e.what();
    EXPECT_EQ(named(e.what()), "sqrt");
  }
  EXPECT_FALSE(x.grad().defined());
}

TEST(Anomaly, SeesSeedsHooksAndSums) {
  const AnomalyMode on;
  Tensor x = full({2}, 1.0).requires_grad_();
  const auto message = [&](const std::function<void()>& fn) { return named(message_of<AutogradError>(fn)); };
  EXPECT_EQ(message([&] { backward(x * 2, {.gradient = full({2}, NAN)}); }), "mul");
  const Tensor hooked = exp(x);
  hooked.register_hook([](const Tensor& g) { return g * NAN; });
  EXPECT_EQ(message([&] { backward(sum(hooked)); }), "exp");
  const Tensor wide = exp(full({2}, 1.0, DType::f64).requires_grad_());
  EXPECT_EQ(message([&] { backward(sum(wide * 1e308) + sum(wide * 1e308)); }), "exp");
  // Inside a checkpoint: the line of the op there.
  const Tensor c = checkpoint([](const Tensor& t) { return sqrt(t - t); }, x);
  EXPECT_EQ(message([&] { backward(sum(c)); }), "sqrt");
}

TEST(Anomaly, EndsWithItsScope) {
  Tensor x = full({2}, 1.0).requires_grad_();
  {
    const AnomalyMode outer;
    { const AnomalyMode inner; }
    EXPECT_THROW(backward(x * 2, {.gradient = full({2}, NAN)}), AutogradError);
  }
  EXPECT_NO_THROW(backward(x * 2, {.gradient = full({2}, NAN)}));
}

}  // namespace
}  // namespace flame
