// Random tensors. Philox4x32-10: the key is the seed, the counter (element index, call number), so a draw depends on seed,
// call and element alone: not on threads, device or layout. Each call takes the next call number.
#pragma once
#include <optional>

#include "flame/tensor/generator.h"
#include "flame/tensor/tensor.h"

namespace flame {

struct RandomOptions {
  std::optional<DType> dtype = {};  // float32; int64 for randint and randperm, bool for bernoulli
  Device* device = nullptr;         // default_device()
  Generator* generator = nullptr;   // default_generator()
};
// Uniform on [0, 1): 24 bits in float32, 53 in float64; float16 and bfloat16 are the float32 values rounded (so 1 can occur).
Tensor rand(const Shape& shape, const RandomOptions& o = {}, Loc loc = Loc::current());
Tensor uniform(const Shape& shape, double low, double high, const RandomOptions& o = {}, Loc loc = Loc::current());
// Standard normal, by the inverse distribution function of 32 (float32) or 64 (float64) random bits: |z| up to 6.3 or 9.1.
// Made of integer operations, +, *, / and square roots in a fixed order, so every device makes the same bits.
Tensor randn(const Shape& shape, const RandomOptions& o = {}, Loc loc = Loc::current());
Tensor normal(const Shape& shape, double mean, double std, const RandomOptions& o = {}, Loc loc = Loc::current());
// Normal with mean and standard deviation std > 0, given that it lies in [a, b]: the quantile of a uniform number, made in
// float64 as randn is and rounded. ValueError unless a < b.
struct TruncatedNormalOptions {
  double mean = 0, std = 1, a = -2, b = 2;
};
Tensor truncated_normal(const Shape& shape, const TruncatedNormalOptions& t = {}, const RandomOptions& o = {},
                        Loc loc = Loc::current());
// Integers uniform on [low, high), biased by less than (high - low) / 2^64.
Tensor randint(int64_t low, int64_t high, const Shape& shape, const RandomOptions& o = {}, Loc loc = Loc::current());
// A random order of 0 .. n-1: the order of 64 random bits each.
Tensor randperm(int64_t n, const RandomOptions& o = {}, Loc loc = Loc::current());
// True with probability p (to within 2^-32; 0 and 1 are exact). ValueError if p is outside [0, 1].
Tensor bernoulli(const Shape& shape, double p, const RandomOptions& o = {}, Loc loc = Loc::current());
// One draw per element of `p`, in p's dtype.
Tensor bernoulli(const Tensor& p, Generator* generator = nullptr, Loc loc = Loc::current());

// The same shape, dtype and device as `x` unless `o` says otherwise.
Tensor rand_like(const Tensor& x, const RandomOptions& o = {}, Loc loc = Loc::current());
Tensor randn_like(const Tensor& x, const RandomOptions& o = {}, Loc loc = Loc::current());
Tensor randint_like(const Tensor& x, int64_t low, int64_t high, const RandomOptions& o = {}, Loc loc = Loc::current());

}  // namespace flame
