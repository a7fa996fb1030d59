// Every optimizer with the options of tools/golden_optim_runs.py, for the loops over all of them.
#pragma once
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "flame/flame.h"
#include "tests/support/compare.h"

namespace flame::test {

inline const nlohmann::json& optim_golden() {
  static const auto all = nlohmann::json::parse(std::ifstream(FLAME_SOURCE_DIR "/tests/golden/optim.json"));
  return all;
}

inline const std::vector<Shape> optim_shapes = {{5}, {3, 4}, {2, 2, 3}};

inline Tensor fractions(size_t k, size_t a, size_t b, double divisor, DType t) {
  std::vector<double> v(static_cast<size_t>(numel(optim_shapes[k])));
  for (size_t i = 0; i < v.size(); ++i) v[i] = (static_cast<double>((i * a + b) % 64) - 31.5) / divisor;
  const Tensor x = Tensor::from(v, optim_shapes[k]).to(t);
  x.data();
  return x;
}
inline Tensor optim_start(size_t k, DType t) { return fractions(k, 29, k * 13, 32, t); }
inline Tensor optim_gradient(size_t k, size_t step, DType t) { return fractions(k, 37, step * 101 + k * 17, 16, t); }
inline std::vector<Parameter> optim_starts(DType t) {
  std::vector<Parameter> out;
  for (size_t k = 0; k < optim_shapes.size(); ++k) out.emplace_back(optim_start(k, t));
  return out;
}
inline void set_gradients(const std::vector<Parameter>& params, size_t step) {
  for (size_t k = 0; k < params.size(); ++k) params[k].set_grad(optim_gradient(k, step, params[k].dtype()));
}
inline std::vector<double> all_numbers(const std::vector<Parameter>& params) {
  std::vector<double> out;
  for (const Parameter& p : params)
    for (double v : numbers(p.tensor())) out.push_back(v);
  return out;
}

using Parameters = std::vector<Parameter>;
using MakeOptimizer = std::function<optim::Optimizer(const Parameters&)>;

// Parameter 0 with the first options, the others with the second.
template <class Options>
MakeOptimizer two_groups(const Options& first, const Options& second) {
  return [=](const Parameters& p) {
    return optim::OptimizerOf<Options>({{{p[0]}, first}, {Parameters(p.begin() + 1, p.end()), second}});
  };
}

struct OptimCase {
  const char* name;
  MakeOptimizer make;
};
inline std::vector<OptimCase> optim_cases() {
  using namespace optim;
  return {
      {"sgd",
       two_groups<SGDOptions>({.lr = 0.1}, {.lr = 0.03, .momentum = 0.9, .dampening = 0.2, .weight_decay = 0.05})},
      {"sgd_nesterov", two_groups<SGDOptions>({.lr = 0.05, .momentum = 0.8, .nesterov = true},
                                              {.lr = 0.02, .momentum = 0.9, .weight_decay = 0.1, .nesterov = true})},
      {"adam",
       two_groups<AdamOptions>({.lr = 0.03}, {.lr = 0.01, .betas = {0.8, 0.95}, .eps = 1e-6, .weight_decay = 0.1})},
      {"adam_amsgrad",
       two_groups<AdamOptions>({.lr = 0.03, .amsgrad = true}, {.lr = 0.01, .weight_decay = 0.1, .amsgrad = true})},
      {"adamw", two_groups<AdamWOptions>({.lr = 0.03}, {.lr = 0.01, .betas = {0.3, 0.9}, .weight_decay = 0.1})},
      {"adamw_amsgrad",
       two_groups<AdamWOptions>({.lr = 0.03, .amsgrad = true}, {.lr = 0.01, .betas = {0.8, 0.6}, .amsgrad = true})},
      {"rmsprop",
       two_groups<RMSpropOptions>({.lr = 0.02}, {.lr = 0.01, .alpha = 0.9, .eps = 1e-6, .weight_decay = 0.1})},
      {"rmsprop_momentum",
       two_groups<RMSpropOptions>({.lr = 0.01, .momentum = 0.9}, {.lr = 0.005, .alpha = 0.9, .momentum = 0.5})},
      {"rmsprop_centered",
       two_groups<RMSpropOptions>({.lr = 0.02, .centered = true}, {.lr = 0.01, .alpha = 0.4, .centered = true})},
      {"rmsprop_centered_momentum",
       two_groups<RMSpropOptions>({.lr = 0.01, .momentum = 0.9, .centered = true},
                                  {.lr = 0.005, .alpha = 0.9, .weight_decay = 0.1, .momentum = 0.5, .centered = true})},
      {"adagrad",
       two_groups<AdagradOptions>({.lr = 0.1}, {.lr = 0.05, .lr_decay = 0.1, .weight_decay = 0.1, .eps = 1e-6})},
      {"adagrad_initial",
       [](const Parameters& p) { return Adagrad(p, {.lr = 0.1, .initial_accumulator_value = 0.5}); }},
      {"nadam", two_groups<NAdamOptions>(
                    {.lr = 0.02}, {.lr = 0.01, .betas = {0.8, 0.95}, .weight_decay = 0.1, .momentum_decay = 0.01})},
      {"nadam_decoupled", two_groups<NAdamOptions>({.lr = 0.02, .decoupled_decay = true},
                                                   {.lr = 0.01, .weight_decay = 0.1, .decoupled_decay = true})},
      {"radam", two_groups<RAdamOptions>({.lr = 0.02}, {.lr = 0.01, .betas = {0.8, 0.9}, .weight_decay = 0.1})},
      {"radam_decoupled", two_groups<RAdamOptions>({.lr = 0.02, .decoupled_decay = true},
                                                   {.lr = 0.01, .weight_decay = 0.1, .decoupled_decay = true})},
      {"adamax",
       two_groups<AdamaxOptions>({.lr = 0.02}, {.lr = 0.01, .betas = {0.8, 0.9}, .eps = 1e-4, .weight_decay = 0.1})},
      {"lion", two_groups<LionOptions>({.lr = 0.02}, {.lr = 0.01, .betas = {0.81, 0.95}, .weight_decay = 0.3})},
      {"adafactor",
       two_groups<AdafactorOptions>({.lr = 0.3}, {.lr = 0.1, .beta2_decay = -0.5, .d = 2, .weight_decay = 0.05})},
      {"adafactor_eps",
       two_groups<AdafactorOptions>({.lr = 0.3, .eps1 = 1.5, .eps2 = 0.7}, {.lr = 0.1, .eps1 = 0.8, .eps2 = 0.9})},
      {"adafactor_absolute", two_groups<AdafactorOptions>(
                                 {.lr = 0.03, .relative_step = false},
                                 {.lr = 0.01, .weight_decay = 0.1, .relative_step = false, .scale_parameter = false})},
      {"maximize", two_groups<AdamWOptions>({.lr = 0.03, .maximize = true}, {.lr = 0.01})},
  };
}

}  // namespace flame::test
