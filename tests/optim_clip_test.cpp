// Clipping by any norm and by units against PyTorch, and gradients accumulated over micro-batches.
#include <gtest/gtest.h>

#include "tests/support/clipped_step.h"
#include "tests/support/error.h"
#include "tests/support/optim_cases.h"

namespace flame {
namespace {

using namespace test;

std::vector<double> gradients(const Parameters& params) {
  std::vector<double> out;
  for (const Parameter& p : params)
    for (double v : numbers(p.grad())) out.push_back(v);
  return out;
}
// At most twice PyTorch's own float32 error, or one rounding.
void expect_near(const std::vector<double>& got, const nlohmann::json& golden, DType t, const std::string& what) {
  const auto exact = golden["float64"].get<std::vector<double>>();
  const double torch = error_of(golden["float32"].get<std::vector<double>>(), exact, DType::f32).units;
  EXPECT_LE(error_of(got, exact, t).units, std::max(2 * torch, 1.0)) << what << " " << name_of(t);
}

TEST(ClipNorms, GoldenNumbers) {
  for (const DType t : {DType::f32, DType::f64})
    for (const auto& [name, golden] : optim_golden()["clip_norms"].items()) {
      const Parameters params = optim_starts(t);
      set_gradients(params, 3);
      const Tensor norm = optim::clip_grad_norm(params, 1.5, {.norm_type = name == "inf" ? INFINITY : std::stod(name)});
      const double exact = golden["float64"]["norm"], rounded = golden["float32"]["norm"];
      EXPECT_LE(std::abs(norm.item() - exact) / exact,
                std::max(2 * std::abs(rounded - exact) / exact * rounding(t) / rounding(DType::f32), 2 * rounding(t)))
          << name;
      expect_near(gradients(params),
                  {{"float64", golden["float64"]["scaled"]}, {"float32", golden["float32"]["scaled"]}}, t, name);
    }
}

TEST(ClipNorms, NaNReachesEveryNormAndNonFiniteIsRefused) {
  for (const double p : {0.5, 1.0, 2.0, 3.0, static_cast<double>(INFINITY)})
    for (const size_t at : {0u, 2u, 17u, 18u}) {
      Parameter a(zeros({19})), b(zeros({3}));
      std::vector<float> v(19, 1);
      v[at] = NAN;
      a.set_grad(Tensor::from(v, {19}));
      b.set_grad(ones({3}));
      EXPECT_THROW(optim::clip_grad_norm({a, b}, 1, {.norm_type = p, .error_if_nonfinite = true}), ValueError);
      EXPECT_EQ(numbers(b.grad()), (std::vector<double>{1, 1, 1}));
      EXPECT_TRUE(std::isnan(optim::clip_grad_norm({a, b}, 1, {.norm_type = p}).item())) << p;
      EXPECT_TRUE(std::isnan(numbers(b.grad())[0])) << p;
    }
  Parameter finite(zeros({2}));
  finite.set_grad(ones({2}));
  EXPECT_NEAR(optim::clip_grad_norm({finite}, 1, {.error_if_nonfinite = true}).item(), std::sqrt(2.0), 1e-6);
  EXPECT_NE(message_of<ValueError>([&] {
              optim::clip_grad_norm({finite}, 1, {.norm_type = 0});
            }).find("clip_grad_norm: expected norm_type above 0, got 0"),
            std::string::npos);
}

TEST(ClipNorms, WithinTheStepTheBitsAreTheSame) {
  expect_clipped_steps(cpu());
  Parameter p(ones({2}));
  optim::SGD sgd({p}, {.lr = 1});
  EXPECT_FALSE(sgd.step({.max_norm = 1}).defined()) << "there was no gradient";
  p.set_grad(full({2}, 3.0));
  EXPECT_FALSE(sgd.step().defined());
  const Tensor threes = full({2}, 3.0);
  threes.data();
  p.set_grad(threes);
  const uint64_t launches = stats().launches;
  EXPECT_NEAR(sgd.step({.max_norm = 1}).item(), std::sqrt(18.0), 1e-6);
  EXPECT_EQ(stats().launches - launches, 2u) << "the norm, and the step";
  EXPECT_NE(
      message_of<ValueError>([&] { sgd.step({.max_norm = -1}); }).find("SGD: expected a max_norm of 0 or more, got -1"),
      std::string::npos);
}

TEST(ClipAdaptive, GoldenNumbers) {
  for (const DType t : {DType::f32, DType::f64}) {
    const Parameters params = optim_starts(t);
    set_gradients(params, 3);
    params[1].set_grad(params[1].grad() * 0.05);
    const auto before = gradients(params);
    const Stats launched = stats();
    optim::clip_grad_adaptive(params, {.clip_factor = 0.3});
    EXPECT_LE(stats().launches - launched.launches, 2u);  // and the product above
    expect_near(gradients(params), optim_golden()["clip_adaptive"], t, "adaptive");
    size_t same = 0;
    for (size_t i = 0; i < before.size(); ++i) same += gradients(params)[i] == before[i];
    EXPECT_GT(same, 0u);  // some units were within their limit
    EXPECT_LT(same, before.size());
  }
}

TEST(ClipAdaptive, AnyDTypeAndLayout) {
  Parameter half(optim_start(1, DType::bf16)), turned(optim_start(1, DType::f32).t().contiguous().t()),
      still(ones({2}));
  half.set_grad(optim_gradient(1, 0, DType::bf16));
  turned.set_grad(optim_gradient(1, 0, DType::f32).t().contiguous().t());
  Parameter plain(optim_start(1, DType::f32));
  plain.set_grad(optim_gradient(1, 0, DType::f32));
  optim::clip_grad_adaptive({half, still, turned});
  optim::clip_grad_adaptive({plain});
  EXPECT_EQ(numbers(turned.grad()), numbers(plain.grad()));
  EXPECT_EQ(half.grad().dtype(), DType::bf16);
  EXPECT_LE(error_of(numbers(half.grad()), numbers(plain.grad()), DType::bf16, 0).units, 2);
  EXPECT_FALSE(still.grad().defined());
  EXPECT_THROW(optim::clip_grad_adaptive({plain}, {.clip_factor = 0}), ValueError);
  EXPECT_THROW(optim::clip_grad_adaptive({plain}, {.eps = -1}), ValueError);
}

// The pattern of optimizer.h: each micro-batch's loss over their number, backward for each, one step.
TEST(GradientAccumulation, OfMicroBatchesEqualsOneLargeBatch) {
  const int64_t parts = 4, rows = 8;
  std::vector<float> v(static_cast<size_t>(parts * rows * 6));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i * 37 % 127) / 64 - 1;
  const Tensor all = Tensor::from(v, {parts * rows, 6});
  const auto train = [&](int64_t micro, DType t, bool recorded) {
    manual_seed(3);
    nn::Sequential net{nn::layer<nn::Linear>({.in = 6, .out = 16}), nn::layer<nn::ReLU>(),
                       nn::layer<nn::Linear>({.in = 16, .out = 2})};
    Parameters params;
    for (const Parameter& p : net.parameters()) params.emplace_back(p.tensor().detach().to(t));
    optim::AdamW opt(params, {.lr = 0.01});
    const auto forward = [&](const Tensor& x) {
      return matmul(relu(matmul(x, params[0].tensor().t()) + params[1].tensor()), params[2].tensor().t()) +
             params[3].tensor();
    };
    const auto step = [&](const Tensor& x) {
      Tensor total;
      for (int64_t i = 0; i < micro; ++i) {
        const Tensor part = x.narrow(0, i * parts * rows / micro, parts * rows / micro);
        const Tensor loss = mean(square(forward(part) - part.narrow(1, 0, 2))) / static_cast<double>(micro);
        backward(loss);
        total = total.defined() ? total + loss.detach() : loss.detach();
      }
      opt.step();
      return total;
    };
    auto replayed = record(step);
    std::vector<double> losses;
    for (int i = 0; i < 6; ++i) losses.push_back((recorded ? replayed(all.to(t)) : step(all.to(t))).item());
    EXPECT_EQ(opt.step_count(), 6);
    EXPECT_EQ(replayed.stats().replays, recorded ? 4u : 0u) << replayed.stats().last_miss;
    EXPECT_LT(losses[5], losses[0]);
    for (double x : all_numbers(params)) losses.push_back(x);
    return losses;
  };
  const auto whole = train(1, DType::f64, false), in_parts = train(parts, DType::f64, false);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(in_parts[i], whole[i], 1e-9) << i;
  EXPECT_NE(in_parts, whole);  // to rounding, not bit for bit
  EXPECT_EQ(train(parts, DType::f32, true), train(parts, DType::f32, false));
}

}  // namespace
}  // namespace flame
