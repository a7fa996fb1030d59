// The kernels that turn Philox blocks into tensors. A draw reads no tensor, so it ends no island.
#include "flame/ops/random.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/core/philox.h"
#include "flame/device/cpu/parallel.h"
#include "flame/device/recorder.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/normal_internal.h"
#include "flame/ops/philox_internal.h"
#include "flame/ops/pointwise.h"

namespace flame {

namespace {

// Scalars of every launch: the block's address, delta, then the kernel's own.
struct Draw {
  explicit Draw(const Run& r) {
    const auto* block = static_cast<const Generator::Block*>(r.scalars[0].p);
    seed = block->seed;
    call = block->base + r.scalars[1].u;
  }
  PhiloxBlock at(int64_t index) const { return philox(seed, static_cast<uint64_t>(index), call); }
  uint64_t seed, call;
};

constexpr int64_t grain = 4096;    // blocks a piece
constexpr int64_t at_a_time = 64;  // blocks made before they are used

// Calls use(words, first word, count) on all words of n words, some hundreds at a time.
template <class F>
void each_words(const Run& r, int64_t n, F use) {
  const Draw draw(r);
  parallel_for((n + 3) / 4, grain, [&](int64_t begin, int64_t end) {
    uint32_t words[4 * at_a_time];
    for (int64_t b = begin; b < end; b += at_a_time) {
      const int64_t blocks = std::min(at_a_time, end - b);
      philox_words(draw.seed, static_cast<uint64_t>(b), draw.call, blocks, words);
      use(words, 4 * b, std::min(4 * blocks, n - 4 * b));
    }
  });
}
// out[i] = fn(32 bits), four elements a Philox block.
template <class T, class F>
void fill32(const Run& r, int64_t n, F fn) {
  T* out = static_cast<T*>(r.buffers[0]);
  each_words(r, n, [&](const uint32_t* words, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[first + i] = static_cast<T>(fn(words[i]));
  });
}
// Normals of mean r.scalars[2] and deviation r.scalars[3], four elements a block.
template <class T>
void fill_normal(const Run& r, int64_t n) {
  T* out = static_cast<T*>(r.buffers[0]);
  const auto shift = static_cast<float>(r.scalars[2].f), scale = static_cast<float>(r.scalars[3].f);
  each_words(r, n, [&](const uint32_t* words, int64_t first, int64_t count) {
    if constexpr (std::is_same_v<T, float>) return normals_of(words, count, shift, scale, out + first);
    float z[4 * at_a_time];
    normals_of(words, count, shift, scale, z);
    for (int64_t i = 0; i < count; ++i) out[first + i] = static_cast<T>(z[i]);
  });
}
// out[i] = fn(64 bits), two elements a block.
template <class T, class F>
void fill64(const Run& r, int64_t n, F fn) {
  T* out = static_cast<T*>(r.buffers[0]);
  each_words(r, 2 * n, [&](const uint32_t* words, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count / 2; ++i)
      out[first / 2 + i] = static_cast<T>(fn(words[2 * i] | uint64_t{words[2 * i + 1]} << 32));
  });
}

// The upper half of a * b.
uint64_t multiply_high(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}

void permutation(const Run& r, int64_t n) {
  const Draw draw(r);
  auto* out = static_cast<int64_t*>(r.buffers[0]);
  std::vector<std::pair<uint64_t, int64_t>> keys(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const PhiloxBlock bits = draw.at(i / 2);
    const size_t lane = i % 2 ? 2 : 0;
    keys[static_cast<size_t>(i)] = {bits[lane] | uint64_t{bits[lane + 1]} << 32, i};
  }
  std::sort(keys.begin(), keys.end());
  for (size_t i = 0; i < keys.size(); ++i) out[i] = keys[i].second;
}

enum class Kind : uint8_t { uniform, normal, truncated, integers, bernoulli, permutation };
constexpr const char* names[] = {"rand", "randn", "truncated_normal", "randint", "bernoulli", "randperm"};

// Uniform and normal take (shift, scale), truncated (mean, std, a, b, first, range), integers (low, range), bernoulli
// (threshold).
std::function<void(const Run&)> body(Kind kind, DType t, int64_t n) {
  switch (kind) {
    case Kind::uniform:
      if (t == DType::f64)
        return [n](const Run& r) {
          fill64<double>(r, n, [a = r.scalars[2].f, b = r.scalars[3].f](uint64_t w) {
            return a + b * (static_cast<double>(w >> 11) * 0x1p-53);
          });
        };
      return [n, t](const Run& r) {
        const auto fn = [a = static_cast<float>(r.scalars[2].f), b = static_cast<float>(r.scalars[3].f)](uint32_t w) {
          return a + b * (static_cast<float>(w >> 8) * 0x1p-24f);
        };
        t == DType::f32   ? fill32<float>(r, n, fn)
        : t == DType::f16 ? fill32<float16>(r, n, fn)
                          : fill32<bfloat16>(r, n, fn);
      };
    case Kind::normal:
      if (t == DType::f64)
        return [n](const Run& r) {
          fill64<double>(r, n, [a = r.scalars[2].f, b = r.scalars[3].f](uint64_t w) {
            return a + b * inverse_normal::from_bits(w);
          });
        };
      return [n, t](const Run& r) {
        t == DType::f32   ? fill_normal<float>(r, n)
        : t == DType::f16 ? fill_normal<float16>(r, n)
                          : fill_normal<bfloat16>(r, n);
      };
    case Kind::truncated:
      return [n, t](const Run& r) {
        const auto fn = [s = r.scalars](uint64_t w) {
          // One of the places that [a, b] has among 2^64 in order of size; from_bits counts from the middle outwards.
          const uint64_t place = s[6].u + multiply_high(w, s[7].u), half = uint64_t{1} << 63;
          const double z = inverse_normal::from_bits(place < half ? place | half : ~place);
          return std::clamp(s[2].f + s[3].f * z, s[4].f, s[5].f);
        };
        const auto narrow = [&](uint64_t w) { return static_cast<float>(fn(w)); };
        t == DType::f64   ? fill64<double>(r, n, fn)
        : t == DType::f32 ? fill64<float>(r, n, narrow)
        : t == DType::f16 ? fill64<float16>(r, n, narrow)
                          : fill64<bfloat16>(r, n, narrow);
      };
    case Kind::integers:
      return [n, t](const Run& r) {
        const auto fn = [low = r.scalars[2].u, range = r.scalars[3].u](uint64_t w) {
          return low + multiply_high(w, range);
        };
        t == DType::i64   ? fill64<int64_t>(r, n, fn)
        : t == DType::i32 ? fill64<int32_t>(r, n, fn)
                          : fill64<uint8_t>(r, n, fn);
      };
    case Kind::bernoulli:
      return
          [n](const Run& r) { fill32<bool>(r, n, [threshold = r.scalars[2].u](uint32_t w) { return w < threshold; }); };
    case Kind::permutation: break;
  }
  return [n](const Run& r) { permutation(r, n); };
}

Ref<Plan> device_plan(Device& d, Kind kind, DType t, int64_t n) {
  constexpr const char* entries[] = {"rand_uniform", "rand_normal", "rand_truncated", "rand_integers",
                                     "rand_bernoulli"};
  const char* name = names[static_cast<int>(kind)];
  if (n == 0) return make_ref<Plan>(name, [](const Run&) {});
  if (kind == Kind::permutation) {
    const DeviceRadix order(d, 1, n, 64);
    const std::string key = "-DFLAME_KEY=" + order.key_type();
    return make_ref<Plan>(
        name,
        [n, order, fill = device_kernel(d, "ops/sort.cu", "fill_random", t, {key}),
         put = device_kernel(d, "ops/sort.cu", "put_places", t, {key})](const Run& r) {
          const Draw draw(r);
          const DeviceRadix::Rows rows = order.rows(r.workspace);
          (*fill)({.blocks = blocks_for(n, 256)}, rows.keys, rows.places, draw.seed, draw.call, n);
          (*put)({.blocks = blocks_for(n, 256)}, order(r.workspace).places, r.buffers[0], n);
        },
        order.workspace());
  }
  const int64_t bits = kind == Kind::bernoulli || (kind <= Kind::normal && t != DType::f64) ? 32 : 64;
  return make_ref<Plan>(name, [k = device_kernel(d, "ops/random.cu", entries[static_cast<int>(kind)], t), kind, n, bits,
                               element = size_of(t)](const Run& r) {
    const Draw draw(r);
    DeviceDraw a(draw.seed, draw.call, n);
    const Word* own = r.scalars + 2;
    if (kind == Kind::integers) a.u[0] = own[0].u, a.u[1] = own[1].u;
    else if (kind == Kind::bernoulli) a.u[0] = own[0].u;
    else if (kind == Kind::truncated) {
      for (int i = 0; i < 4; ++i) a.f[i] = own[i].f;
      a.u[0] = own[4].u, a.u[1] = own[5].u;
    } else {
      for (int i = 0; i < 2; ++i) a.g[i] = static_cast<float>(a.f[i] = own[i].f);
    }
    (*k)(a.grid(bits, element), a, r.buffers[0]);
  });
}

class Random final : public Op {
 public:
  Random(Kind kind, const Meta& out, Device& d, Generator::Call call, std::vector<Word> own)
      : kind_(kind), out_(out), device_(d), call_(call), own_(std::move(own)) {}
  const char* name() const override { return names[static_cast<int>(kind_)]; }
  std::vector<Meta> infer(std::span<const Tensor>, Loc) const override { return {out_}; }
  Device* device() const override { return &device_; }
  std::vector<Word> scalars() const override {
    std::vector<Word> all{word(static_cast<const void*>(call_.block)), word(call_.delta)};
    all.insert(all.end(), own_.begin(), own_.end());
    return all;
  }
  Ref<Plan> prepare_cpu(std::span<const Meta>, std::span<const Meta> out) const override {
    return make_ref<Plan>(name(), body(kind_, out[0].dtype, numel(out[0].shape)));
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta>, std::span<const Meta> out) const override {
    return device_plan(d, kind_, out[0].dtype, numel(out[0].shape));
  }
  bool differentiable() const override { return false; }

 private:
  Kind kind_;
  Meta out_;
  Device& device_;
  Generator::Call call_;
  std::vector<Word> own_;
};

Tensor draw(const char* op, Kind kind, const Shape& shape, DType t, const RandomOptions& o, std::vector<Word> own,
            Loc loc) {
  check_sizes(op, shape, loc);
  const Generator::Call call = (o.generator ? *o.generator : default_generator()).next_call();
  Device& d = o.device ? *o.device : default_device();
  return dispatch(make_ref<Random>(kind, contiguous_meta(t, shape), d, call, std::move(own)), {}, loc);
}

DType need_float(const char* op, DType t, Loc loc) {
  if (!is_float(t)) fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", op, t);
  return t;
}

}  // namespace

Tensor uniform(const Shape& shape, double low, double high, const RandomOptions& o, Loc loc) {
  if (!(low <= high)) fail<ValueError>(loc, "uniform: expected low <= high, got {} and {}", low, high);
  return draw("uniform", Kind::uniform, shape, need_float("uniform", o.dtype.value_or(DType::f32), loc), o,
              {word(low), word(high - low)}, loc);
}
Tensor rand(const Shape& shape, const RandomOptions& o, Loc loc) {
  return draw("rand", Kind::uniform, shape, need_float("rand", o.dtype.value_or(DType::f32), loc), o,
              {word(0.0), word(1.0)}, loc);
}

Tensor normal(const Shape& shape, double mean, double std, const RandomOptions& o, Loc loc) {
  if (!(std >= 0)) fail<ValueError>(loc, "normal: expected a standard deviation of 0 or more, got {}", std);
  return draw("normal", Kind::normal, shape, need_float("normal", o.dtype.value_or(DType::f32), loc), o,
              {word(mean), word(std)}, loc);
}
Tensor randn(const Shape& shape, const RandomOptions& o, Loc loc) {
  return draw("randn", Kind::normal, shape, need_float("randn", o.dtype.value_or(DType::f32), loc), o,
              {word(0.0), word(1.0)}, loc);
}

namespace {
// How many of 2^64 equally likely places lie below z, at most all but one: to float64's rounding at both ends.
uint64_t places_below(double z) {
  const double tail = 0.5 * std::erfc(std::abs(z) / std::numbers::sqrt2) * 0x1p64;
  const uint64_t places = tail >= 0x1p63 ? uint64_t{1} << 63 : static_cast<uint64_t>(tail);
  return z < 0 ? places : ~std::max<uint64_t>(places, 1) + 1;
}
}  // namespace

Tensor truncated_normal(const Shape& shape, const TruncatedNormalOptions& t, const RandomOptions& o, Loc loc) {
  if (!(t.std > 0)) fail<ValueError>(loc, "truncated_normal: expected a standard deviation above 0, got {}", t.std);
  if (!(t.a < t.b)) fail<ValueError>(loc, "truncated_normal: expected a < b, got {} and {}", t.a, t.b);
  const uint64_t low = places_below((t.a - t.mean) / t.std), high = places_below((t.b - t.mean) / t.std);
  return draw("truncated_normal", Kind::truncated, shape,
              need_float("truncated_normal", o.dtype.value_or(DType::f32), loc), o,
              {word(t.mean), word(t.std), word(t.a), word(t.b), word(static_cast<int64_t>(low)),
               word(static_cast<int64_t>(high - low))},
              loc);
}

Tensor randint(int64_t low, int64_t high, const Shape& shape, const RandomOptions& o, Loc loc) {
  if (low >= high) fail<ValueError>(loc, "randint: expected low < high, got {} and {}", low, high);
  const DType t = o.dtype.value_or(DType::i64);
  const auto range = static_cast<int64_t>(static_cast<uint64_t>(high) - static_cast<uint64_t>(low));
  return draw("randint", Kind::integers, shape, is_integer(t) ? t : DType::i64, o, {word(low), word(range)}, loc)
      .to(t, loc);
}

Tensor randperm(int64_t n, const RandomOptions& o, Loc loc) {
  if (n < 0) fail<ValueError>(loc, "randperm: expected 0 or more elements, got {}", n);
  return draw("randperm", Kind::permutation, {n}, DType::i64, o, {}, loc).to(o.dtype.value_or(DType::i64), loc);
}

Tensor bernoulli(const Shape& shape, double p, const RandomOptions& o, Loc loc) {
  if (!(p >= 0 && p <= 1)) fail<ValueError>(loc, "bernoulli: expected a probability in [0, 1], got {}", p);
  const auto threshold = static_cast<int64_t>(p * 0x1p32);
  return draw("bernoulli", Kind::bernoulli, shape, DType::boolean, o, {word(threshold)}, loc)
      .to(o.dtype.value_or(DType::boolean), loc);
}
Tensor bernoulli(const Tensor& p, Generator* generator, Loc loc) {
  check_defined("bernoulli", p, loc);
  need_float("bernoulli", p.dtype(), loc);
  const DType t = p.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor u = rand(p.shape(), {t, &p.device(), generator}, loc);
  return lt(u, p.detach().to(t, loc), loc).to(p.dtype(), loc);
}

namespace {
RandomOptions as(const char* op, const Tensor& x, const RandomOptions& o, Loc loc) {
  check_defined(op, x, loc);
  return {o.dtype.value_or(x.dtype()), o.device ? o.device : &x.device(), o.generator};
}
}  // namespace
Tensor rand_like(const Tensor& x, const RandomOptions& o, Loc loc) {
  const RandomOptions r = as("rand_like", x, o, loc);
  need_float("rand_like", *r.dtype, loc);
  return rand(x.shape(), r, loc);
}
Tensor randn_like(const Tensor& x, const RandomOptions& o, Loc loc) {
  const RandomOptions r = as("randn_like", x, o, loc);
  need_float("randn_like", *r.dtype, loc);
  return randn(x.shape(), r, loc);
}
Tensor randint_like(const Tensor& x, int64_t low, int64_t high, const RandomOptions& o, Loc loc) {
  const RandomOptions r = as("randint_like", x, o, loc);
  if (low >= high) fail<ValueError>(loc, "randint_like: expected low < high, got {} and {}", low, high);
  return randint(low, high, x.shape(), r, loc);
}

namespace {
// Every case draws with a generator of its own, so that a second run gives the same numbers.
RegisterOp drawn(const char* name, const char* signature, const char* formula,
                 Tensor (*fn)(const Shape&, RandomOptions)) {
  return RegisterOp(
      {.name = name, .signature = signature, .formula = formula, .differentiable = false, .samples = [fn](DType t) {
         std::vector<SampleCase> out;
         for (const Shape& s : {Shape{}, Shape{1}, Shape{3, 5}, Shape{0, 2}, Shape{4099}})
           out.push_back({{},
                          [fn, s, t](const std::vector<Tensor>&) {
                            Generator g(7);
                            return std::vector<Tensor>{fn(s, {.dtype = t, .generator = &g})};
                          },
                          to_string(s)});
         return out;
       }});
}
const RegisterOp registered[] = {
    drawn("rand", "rand(shape, options)", "uniform on [0, 1)",
          [](const Shape& s, RandomOptions o) { return rand(s, o); }),
    drawn("uniform", "uniform(shape, low, high, options)", "uniform on [low, high)",
          [](const Shape& s, RandomOptions o) { return uniform(s, -2, 3, o); }),
    drawn("randn", "randn(shape, options)", "normal, mean 0, deviation 1",
          [](const Shape& s, RandomOptions o) { return randn(s, o); }),
    drawn("normal", "normal(shape, mean, std, options)", "normal",
          [](const Shape& s, RandomOptions o) { return normal(s, 1, 2, o); }),
    drawn("truncated_normal", "truncated_normal(shape, {mean, std, a, b}, options)",
          "normal, given that it lies in [a, b]",
          [](const Shape& s, RandomOptions o) {
            return truncated_normal(s, {.mean = 0.5, .std = 2, .a = -1, .b = 4}, o);
          }),
    drawn("rand_like", "rand_like(x, options)", "uniform on [0, 1), of x's shape and dtype",
          [](const Shape& s, RandomOptions o) {
            return rand_like(Tensor::empty(s, *o.dtype), {.generator = o.generator});
          }),
    drawn("randn_like", "randn_like(x, options)", "normal, of x's shape and dtype",
          [](const Shape& s, RandomOptions o) {
            return randn_like(Tensor::empty(s, *o.dtype), {.generator = o.generator});
          }),
    drawn("randint_like", "randint_like(x, low, high, options)", "integers of [low, high), of x's shape and dtype",
          [](const Shape& s, RandomOptions o) {
            return randint_like(Tensor::empty(s, *o.dtype), -4, 9, {.generator = o.generator});
          }),
    drawn("randint", "randint(low, high, shape, options)", "integers of [low, high)",
          [](const Shape& s, RandomOptions o) { return randint(-4, 9, s, o); }),
    drawn("bernoulli", "bernoulli(shape, p, options)", "1 with probability p, else 0",
          [](const Shape& s, RandomOptions o) { return bernoulli(s, 0.3, o); }),
    drawn("randperm", "randperm(n, options)", "0 .. n - 1 in a random order",
          [](const Shape& s, RandomOptions o) { return randperm(numel(s) % 999, o); }),
};
}  // namespace

}  // namespace flame
