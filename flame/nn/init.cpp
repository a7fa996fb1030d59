// Initialisers over ops/random.h; 16-bit states get the float32 draws rounded.
#include "flame/nn/init.h"

#include <cmath>

#include "flame/core/format.h"
#include "flame/ops/create.h"
#include "flame/ops/random.h"

namespace flame::nn {

void uniform(const State& p, double low, double high, Loc loc) {
  if (!(low <= high)) fail<ValueError>(loc, "uniform: expected low <= high, got {} and {}", low, high);
  p.assign(flame::uniform(p.shape(), low, high, {.dtype = p.dtype(), .device = &p.device()}, loc), loc);
}
void normal(const State& p, double mean, double std, Loc loc) {
  if (!(std >= 0)) fail<ValueError>(loc, "normal: expected a deviation of 0 or more, got {}", std);
  p.assign(flame::normal(p.shape(), mean, std, {.dtype = p.dtype(), .device = &p.device()}, loc), loc);
}
void constant(const State& p, double value, Loc loc) {
  p.assign(full(p.shape(), value, p.dtype(), p.device(), loc), loc);
}

Fans fans(const Shape& weight, Loc loc) {
  if (weight.rank() < 2) fail<ShapeError>(loc, "init: fans need a weight of rank 2 or more, got shape {}", weight);
  int64_t rest = 1;
  for (int i = 2; i < weight.rank(); ++i) rest *= weight[i];
  return {weight[1] * rest, weight[0] * rest};
}

namespace {
double deviation(const State& p, const KaimingOptions& o, Loc loc) {
  const Fans f = fans(p.shape(), loc);
  return o.gain / std::sqrt(static_cast<double>(o.fan == Fan::in ? f.in : f.out));
}
double deviation(const State& p, double gain, Loc loc) {
  const Fans f = fans(p.shape(), loc);
  return gain * std::sqrt(2.0 / static_cast<double>(f.in + f.out));
}
void uniform_of(const State& p, double std, Loc loc) {
  if (p.numel() == 0) return;
  uniform(p, -std * std::numbers::sqrt3, std * std::numbers::sqrt3, loc);
}
void normal_of(const State& p, double std, Loc loc) {
  if (p.numel() == 0) return;
  normal(p, 0, std, loc);
}
}  // namespace

void kaiming_uniform(const State& p, const KaimingOptions& o, Loc loc) { uniform_of(p, deviation(p, o, loc), loc); }
void kaiming_normal(const State& p, const KaimingOptions& o, Loc loc) { normal_of(p, deviation(p, o, loc), loc); }
void xavier_uniform(const State& p, double gain, Loc loc) { uniform_of(p, deviation(p, gain, loc), loc); }
void xavier_normal(const State& p, double gain, Loc loc) { normal_of(p, deviation(p, gain, loc), loc); }

double gain(Nonlinearity n, double slope) {
  switch (n) {
    case Nonlinearity::linear:
    case Nonlinearity::sigmoid: return 1;
    case Nonlinearity::tanh: return 5.0 / 3;
    case Nonlinearity::relu: return std::numbers::sqrt2;
    case Nonlinearity::leaky_relu: return std::sqrt(2 / (1 + slope * slope));
    case Nonlinearity::selu: break;
  }
  return 0.75;
}

}  // namespace flame::nn
