// Planted defects: ops that are wrong in one way each, run through the same loops as the real ones. Each must be caught,
// by name; their honest twins must pass.
#include <gtest/gtest.h>

#include "flame/autograd/node.h"
#include "tests/support/golden.h"
#include "tests/support/registry_loop.h"

namespace flame {
namespace {

using namespace test;
using Tensors = std::vector<Tensor>;

OpEntry planted(const char* name, Tensor (*fn)(const Tensor&)) {
  return {
      .name = name, .signature = "planted", .formula = "planted", .samples = [fn](DType t) {
        std::vector<double> v(15);
        for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>((i * 7 + 3) % 15) / 8 + 0.25;
        return std::vector<SampleCase>{
            {{Tensor::from(v, {3, 5}).to(t)}, [fn](const Tensors& in) { return Tensors{fn(in[0])}; }, "matrix", -1}};
      }};
}
LoopReport loop_over(const char* name, Tensor (*fn)(const Tensor&)) {
  LoopReport r;
  RegistryLoop loop(r);
  loop.run(planted(name, fn));
  std::printf("%s: %zu findings%s%s\n", name, r.findings.size(), r.findings.empty() ? "" : ", first: ",
              r.findings.empty() ? "" : (r.findings[0].check + ", " + r.findings[0].detail).c_str());
  for (const Finding& f : r.findings) EXPECT_EQ(f.op, name);
  return r;
}

// The square of x with a gradient rule of choice.
template <class Rule>
Tensor square_with(const Tensor& x, Rule rule) {
  const Tensor y = no_grad([&] { return square(x); });
  return with_rule(
      "planted_square", {&x, 1}, {y}, {x}, [rule](const CustomContext& c) { return Tensors{rule(c)}; },
      Loc::current())[0];
}

// An opaque copy of float32 and float64 tensors whose kernel does what `body` says with element counts.
class PlantedCopy final : public Op {
 public:
  enum class Defect { none, ignores_strides, writes_beyond } defect;
  explicit PlantedCopy(Defect d) : defect(d) {}
  const char* name() const override { return "planted_copy"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), in[0].shape())};
  }
  Layout layout(int, const Meta&) const override { return defect == Defect::none ? Layout::contiguous : Layout::any; }
  void key(Key& k) const override { k << defect; }
  bool saves_input(int) const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    const size_t bytes = static_cast<size_t>(numel(in[0].shape)) * size_of(in[0].dtype);
    const Meta m = in[0];
    return make_ref<Plan>(name(), [bytes, m, d = defect](const Run& r) {
      if (d == Defect::ignores_strides && m.shape.rank() == 2 && m.strides[1] >= 0 && m.strides[0] > 0) {
        std::memcpy(r.buffers[1], r.buffers[0], bytes);
        return;
      }
      for (int64_t i = 0, n = numel(m.shape); i < n; ++i) {
        int64_t at = 0;
        for (int64_t k = m.shape.rank() - 1, rest = i; k >= 0; rest /= m.shape[static_cast<int>(k)], --k)
          at += rest % m.shape[static_cast<int>(k)] * m.strides[static_cast<int>(k)];
        const auto size = static_cast<int64_t>(size_of(m.dtype));
        std::memcpy(static_cast<char*>(r.buffers[1]) + i * size, static_cast<const char*>(r.buffers[0]) + at * size,
                    static_cast<size_t>(size));
      }
      if (d == Defect::writes_beyond) std::memset(static_cast<char*>(r.buffers[1]) + bytes, 0, 1);
    });
  }
  void vjp(Vjp& v) const override { v.give(0, v.grad(0)); }
};
template <PlantedCopy::Defect d>
Tensor planted_copy(const Tensor& x) {
  return dispatch(make_ref<PlantedCopy>(d), {x}, Loc::current());
}

TEST(Defects, HonestOpsPass) {
  for (const LoopReport& r : {loop_over("honest_square",
                                        [](const Tensor& x) {
                                          return square_with(
                                              x, [](const CustomContext& c) { return c.grads[0] * c.saved[0] * 2; });
                                        }),
                              loop_over("honest_copy", planted_copy<PlantedCopy::Defect::none>)}) {
    EXPECT_TRUE(r.findings.empty()) << r.text();
    EXPECT_GT(r.gradchecks, 0u);
    EXPECT_GT(r.gradgradchecks, 0u);
  }
}

TEST(Defects, WrongValueInOneDType) {
  const LoopReport r = loop_over(
      "wrong_value", [](const Tensor& x) { return x.dtype() == DType::f32 ? square(x) * 1.0001 : square(x); });
  EXPECT_TRUE(r.found("value")) << r.text();
}
TEST(Defects, WrongGradient) {
  const LoopReport r = loop_over("wrong_gradient", [](const Tensor& x) {
    return square_with(x, [](const CustomContext& c) { return c.grads[0] * c.saved[0]; });
  });
  EXPECT_TRUE(r.found("gradcheck")) << r.text();
  EXPECT_FALSE(r.found("value")) << r.text();
}
TEST(Defects, WrongSecondGradient) {
  const LoopReport r = loop_over("wrong_second_gradient", [](const Tensor& x) {
    return square_with(x, [](const CustomContext& c) { return c.grads[0] * c.saved[0].detach() * 2; });
  });
  EXPECT_TRUE(r.found("gradgradcheck")) << r.text();
  EXPECT_FALSE(r.found("gradcheck")) << r.text();
}
TEST(Defects, WrongGradientForExpandedIncomingOnes) {
  const LoopReport r = loop_over("dense_gradient_expected", [](const Tensor& x) {
    return square_with(x, [](const CustomContext& c) {
      const Tensor& g = c.grads[0];
      const bool expanded = g.numel() > 1 && !g.is_pending() && g.strides()[0] == 0;
      return (expanded && c.saved[0].dtype() == DType::f32 ? g * 0.5 : g) * c.saved[0] * 2;
    });
  });
  EXPECT_TRUE(r.found("expanded gradient")) << r.text();
}
TEST(Defects, IgnoredOffset) {
  const LoopReport r = loop_over("ignored_offset", [](const Tensor& x) {
    materialize(x.value());
    const bool positive = x.strides()[0] >= 0 && x.strides()[1] >= 0;
    const int64_t offset = x.dtype() == DType::f64 || !positive ? x.value().offset : 0;
    return square(Tensor(Value::view(x.value(), x.shape(), x.strides(), offset), x.edge()));
  });
  EXPECT_TRUE(r.found("value")) << r.text();
}
TEST(Defects, IgnoredStride) {
  const LoopReport r = loop_over("ignored_stride", planted_copy<PlantedCopy::Defect::ignores_strides>);
  EXPECT_TRUE(r.found("value")) << r.text();
}
TEST(Defects, HiddenHostCopy) {
  const LoopReport r = loop_over("hidden_host_copy", [](const Tensor& x) {
    const Tensor y = no_grad([&] { return Tensor::from(numbers(square(x)), x.shape(), x.device()).to(x.dtype()); });
    return with_rule(
        "planted_square", {&x, 1}, {y}, {x},
        [](const CustomContext& c) { return Tensors{c.grads[0] * c.saved[0] * 2}; }, Loc::current())[0];
  });
  EXPECT_TRUE(r.found("host copy")) << r.text();
}
TEST(Defects, OutOfBoundsWrite) {
  const LoopReport r = loop_over("writes_beyond", planted_copy<PlantedCopy::Defect::writes_beyond>);
  EXPECT_TRUE(r.found("out of bounds")) << r.text();
  EXPECT_FALSE(r.found("value")) << r.text();
}
TEST(Defects, UnroundedIntermediate) {
  const LoopReport r = loop_over("depends_on_fusion",
                                 [](const Tensor& x) { return fusion_enabled() ? square(x) : square(x) * 1.0000001; });
  EXPECT_TRUE(r.found("fusion")) << r.text();
}
TEST(Defects, ChangedInput) {
  const LoopReport r = loop_over("changes_its_input", [](const Tensor& x) {
    const Tensor y = square(x);
    materialize(y.value());
    *static_cast<char*>(x.data()) ^= 1;
    return y;
  });
  EXPECT_TRUE(r.found("input changed")) << r.text();
}

// Defects that float64 shares need another judge: PyTorch's values.
size_t golden_failures(const std::string& op, const GoldenFn& fn) {
  size_t failures = 0;
  for (const Json& c : golden_cases()) {
    if (c["op"] != op) continue;
    try {
      failures += !check_golden(c, fn, DType::f64).failure.empty();
    } catch (const Error&) { ++failures; }
  }
  return failures;
}
TEST(Defects, WrongOpIsSeenByTheGoldenValues) {
  EXPECT_EQ(golden_failures("sin", golden_functions().at("sin")), 0u);
  EXPECT_GT(golden_failures("sin", [](const Tensors& in, const Json&) { return Tensors{abs(in[0])}; }), 0u);
}
TEST(Defects, DroppedKeepdim) {
  EXPECT_EQ(golden_failures("sum", golden_functions().at("sum")), 0u);
  EXPECT_GT(
      golden_failures("sum", [](const Tensors& in, const Json& o) { return Tensors{sum(in[0], axes_of(o), false)}; }),
      0u);
}
TEST(Defects, IgnoredSecondAxis) {
  const auto first_axis_only = [](const Tensors& in, const Json& o) {
    const Axes axes = axes_of(o);
    if (axes.list().rank() < 2) return Tensors{mean(in[0], axes, o.value("keepdim", false))};
    const int64_t n =
        in[0].shape()[static_cast<int>(axes.list()[1])];  // divides by all, reduces one: the shape is repaired
    return Tensors{(mean(in[0], static_cast<int>(axes.list()[0]), true) / static_cast<double>(n))
                       .expand(in[0].shape())
                       .select(0, 0)};
  };
  EXPECT_EQ(golden_failures("mean", golden_functions().at("mean")), 0u);
  EXPECT_GT(golden_failures("mean", first_axis_only), 0u);
  EXPECT_GT(golden_failures("mean",
                            [](const Tensors& in, const Json& o) {
                              const Axes axes = axes_of(o);
                              return Tensors{axes.list().rank() > 1 ? mean(in[0], static_cast<int>(axes.list()[0]),
                                                                           o.value("keepdim", false))
                                                                    : mean(in[0], axes, o.value("keepdim", false))};
                            }),
            0u);
}

}  // namespace
}  // namespace flame
