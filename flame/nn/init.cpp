// Initialisers over ops/random.h; 16-bit states get the float32 draws rounded.
#include "flame/nn/init.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "flame/core/format.h"
#include "flame/ops/create.h"
#include "flame/ops/normal_internal.h"
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

namespace {

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
// The inverse, through the tail's probability as 63 bits.
double normal_quantile(double p) {
  const double tail = std::min(p, 1 - p);
  const auto bits = static_cast<uint64_t>(std::min(tail * 0x1p64, 0x1.fffffffffffffp62));
  const double z = inverse_normal::from_bits(bits);
  return p < 0.5 ? -z : z;
}
void assign(const State& p, const std::vector<double>& v, Loc loc) {
  p.assign(Tensor::from(v, p.shape(), p.device(), loc).to(p.dtype(), loc), loc);
}

}  // namespace

void truncated_normal(const State& p, const TruncatedNormalOptions& o, Loc loc) {
  if (!(o.std > 0 && o.low < o.high))
    fail<ValueError>(loc, "truncated_normal: expected a deviation above 0 and low < high, got {}, {} and {}", o.std,
                     o.low, o.high);
  const double from = normal_cdf((o.low - o.mean) / o.std), to = normal_cdf((o.high - o.mean) / o.std);
  std::vector<double> v =
      flame::uniform(p.shape(), 0, 1, {.dtype = DType::f64, .device = &cpu()}, loc).to_vector<double>();
  for (double& x : v) x = std::clamp(o.mean + o.std * normal_quantile(from + x * (to - from)), o.low, o.high);
  assign(p, v, loc);
}

void eye(const State& p, Loc loc) {
  if (p.shape().rank() != 2) fail<ShapeError>(loc, "eye: expected a matrix, got shape {}", p.shape());
  p.assign(flame::eye(p.shape()[0], p.shape()[1], p.dtype(), p.device(), loc), loc);
}

void dirac(const State& p, int64_t groups, Loc loc) {
  const Shape& s = p.shape();
  if (s.rank() < 3 || s.rank() > 5) fail<ShapeError>(loc, "dirac: expected filters of rank 3 to 5, got shape {}", s);
  if (groups < 1 || s[0] % groups != 0)
    fail<ValueError>(loc, "dirac: expected groups that divide {} filters, got {}", s[0], groups);
  std::vector<double> v(static_cast<size_t>(p.numel()));
  int64_t places = 1, middle = 0;
  for (int i = 2; i < s.rank(); ++i) {
    places *= s[i];
    middle = middle * s[i] + s[i] / 2;
  }
  const int64_t outs = s[0] / groups;
  for (int64_t o = 0; o < s[0]; ++o)
    if (o % outs < s[1]) v[static_cast<size_t>((o * s[1] + o % outs) * places + middle)] = 1;
  assign(p, v, loc);
}

void orthogonal(const State& p, double gain, Loc loc) {
  if (p.shape().rank() < 2) fail<ShapeError>(loc, "orthogonal: expected rank 2 or more, got shape {}", p.shape());
  if (p.numel() == 0) return;
  const auto rows = static_cast<size_t>(p.shape()[0]), columns = static_cast<size_t>(p.numel()) / rows;
  const size_t count = std::min(rows, columns), length = std::max(rows, columns);
  // Gram-Schmidt, twice, of normal vectors: what QR gives whose R has a positive diagonal.
  std::vector<double> q = flame::randn({static_cast<int64_t>(count), static_cast<int64_t>(length)},
                                       {.dtype = DType::f64, .device = &cpu()}, loc)
                              .to_vector<double>();
  for (size_t i = 0; i < count; ++i) {
    double* a = q.data() + i * length;
    for (size_t pass = 0; pass < 2; ++pass)
      for (size_t j = 0; j < i; ++j) {
        const double* b = q.data() + j * length;
        const double dot = std::inner_product(a, a + length, b, 0.0);
        for (size_t k = 0; k < length; ++k) a[k] -= dot * b[k];
      }
    const double scale = 1 / std::sqrt(std::inner_product(a, a + length, a, 0.0));
    for (size_t k = 0; k < length; ++k) a[k] *= scale;
  }
  std::vector<double> v(q.size());
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < columns; ++c)
      v[r * columns + c] = gain * (rows <= columns ? q[r * length + c] : q[c * length + r]);
  assign(p, v, loc);
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
