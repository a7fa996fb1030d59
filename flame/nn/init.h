// Initialisers: fill a state with random numbers or a constant. Random ones draw from the default generator.
// Fans follow PyTorch: a weight is [out, in, ...]; fan_in = in * rest, fan_out = out * rest.
#pragma once
#include <numbers>

#include "flame/tensor/tensor.h"

namespace flame::nn {

void uniform(const State& p, double low, double high, Loc loc = Loc::current());
void normal(const State& p, double mean, double std, Loc loc = Loc::current());
void constant(const State& p, double value, Loc loc = Loc::current());
inline void zeros(const State& p, Loc loc = Loc::current()) { constant(p, 0, loc); }
inline void ones(const State& p, Loc loc = Loc::current()) { constant(p, 1, loc); }
// Normal, but only within [low, high], by the inverse distribution function of uniform numbers.
struct TruncatedNormalOptions {
  double mean = 0, std = 1, low = -2, high = 2;
};
void truncated_normal(const State& p, const TruncatedNormalOptions& o = {}, Loc loc = Loc::current());
// The identity of a matrix; ShapeError for other ranks.
void eye(const State& p, Loc loc = Loc::current());
// Filters [out, in, ...] of rank 3 to 5 that pass channel i of each group on to channel i; ShapeError, ValueError.
void dirac(const State& p, int64_t groups = 1, Loc loc = Loc::current());
// Rows, or columns if there are fewer, that are orthogonal and of length `gain`, uniform among all such (Saxe et al. 2013).
// The axes after the first are taken as one. Worked out in float64 on the host. ShapeError below rank 2.
void orthogonal(const State& p, double gain = 1, Loc loc = Loc::current());

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
