// Initialisers: fill a state with random numbers or a constant. Random ones draw from the default generator.
// Fans follow PyTorch: a weight is [out, in, ...]; fan_in = in * rest, fan_out = out * rest.
#pragma once
#include <numbers>

#include "flame/tensor/tensor.h"

namespace flame::nn {

void uniform(const State& p, double low, double high, Loc loc = Loc::current());
void normal(const State& p, double mean, double std, Loc loc = Loc::current());
void constant(const State& p, double value, Loc loc = Loc::current());

enum class Fan : uint8_t { in, out };
struct KaimingOptions {
  Fan fan = Fan::in;
  double gain = std::numbers::sqrt2;  // for relu; see gain()
};
// Uniform on +-gain * sqrt(3 / fan), or normal with deviation gain / sqrt(fan) (He et al. 2015).
void kaiming_uniform(const State& p, const KaimingOptions& o = {}, Loc loc = Loc::current());
void kaiming_normal(const State& p, const KaimingOptions& o = {}, Loc loc = Loc::current());
// Uniform on +-gain * sqrt(6 / (fan_in + fan_out)), or normal with deviation gain * sqrt(2 / (fan_in + fan_out))
// (Glorot and Bengio 2010).
void xavier_uniform(const State& p, double gain = 1, Loc loc = Loc::current());
void xavier_normal(const State& p, double gain = 1, Loc loc = Loc::current());

// The gain that keeps the variance through a nonlinearity; `slope` is leaky_relu's.
enum class Nonlinearity : uint8_t { linear, sigmoid, tanh, relu, leaky_relu, selu };
double gain(Nonlinearity n, double slope = 0.01);

struct Fans {
  int64_t in, out;
};
Fans fans(const Shape& weight, Loc loc = Loc::current());  // ShapeError below rank 2

}  // namespace flame::nn
