// Parameters and gradients of the golden numbers of optimizers and clipping: the formulas of tools/golden_optim.py.
#pragma once
#include <vector>

#include "flame/autograd/autograd.h"
#include "flame/ops/create.h"

namespace flame::test {

inline const std::vector<Shape> shapes = {{5}, {2, 3}, {19}};

inline Tensor start(size_t k, DType t) {
  std::vector<double> v(static_cast<size_t>(numel(shapes[k])));
  for (size_t i = 0; i < v.size(); ++i) v[i] = (static_cast<double>((i * 29 + k * 13) % 64) - 32) / 32;
  return Tensor::from(v, shapes[k]).to(t);
}
inline Tensor gradient(size_t k, size_t step, DType t) {
  std::vector<double> v(static_cast<size_t>(numel(shapes[k])));
  for (size_t i = 0; i < v.size(); ++i) v[i] = (static_cast<double>((i * 37 + step * 101 + k * 17) % 64) - 32) / 16;
  Tensor g = Tensor::from(v, shapes[k]).to(t);
  g.data();  // computed now, so that a step's launches are its own
  return g;
}
inline std::vector<Parameter> starts(DType t) {
  std::vector<Parameter> out;
  for (size_t k = 0; k < shapes.size(); ++k) out.emplace_back(start(k, t));
  return out;
}
inline void set_gradients(const std::vector<Parameter>& params, size_t step, DType t) {
  for (size_t k = 0; k < params.size(); ++k) params[k].set_grad(gradient(k, step, t));
}
inline std::vector<double> values(const std::vector<Parameter>& params) {
  std::vector<double> out;
  for (const Parameter& p : params)
    for (double v : p.tensor().detach().to(DType::f64).to_vector<double>()) out.push_back(v);
  return out;
}
inline std::vector<double> gradients(const std::vector<Parameter>& params) {
  std::vector<double> out;
  for (const Parameter& p : params)
    for (double v : p.grad().to(DType::f64).to_vector<double>()) out.push_back(v);
  return out;
}

}  // namespace flame::test
