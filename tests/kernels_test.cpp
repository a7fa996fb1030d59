// Block kernels against the C library in long double, on every instruction set here: accuracy, special values
// and ragged ends. Prints the largest error per op and dtype.
#include "flame/fuse/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "flame/ops/normal_internal.h"
#include "flame/ops/philox_internal.h"
#include "tests/kernels_support.h"

namespace flame {
namespace {

using test::Kernels, test::dt, test::targets;

using Wide = long double;
constexpr double inf = std::numeric_limits<double>::infinity();

// Reference, range of the random inputs (both sides), and the largest error allowed in ulp for float32 and float64. A
// result of less than `least` is measured in the ulp of that: where two terms cancel, or a root has no exact argument.
struct Reference {
  std::function<Wide(Wide, Wide)> fn;
  double lo, hi;
  double ulp32, ulp64;
  double least = 0;
};
Wide erfc_of(Wide x) { return std::erfc(x); }
constexpr Wide pi = 3.14159265358979323846264338327950288L;
Wide log_add(Wide a, Wide b) {
  return a == b ? a + std::log(Wide(2)) : std::max(a, b) + std::log1p(std::exp(-std::fabs(a - b)));
}
// The root of erf(y) = x by Newton's steps, in terms of erfc where erf is near 1.
Wide erfinv_of(Wide x) {
  const Wide t = std::fabs(x);
  if (!(t <= 1)) return NAN;
  if (t == 1) return std::copysign(Wide(inf), x);
  Wide y = t > 0.7L ? std::sqrt(-std::log1p(-t)) : t * std::sqrt(pi) / 2;
  for (int i = 0; i < 60; ++i) {
    const Wide off = t > 0.5L ? std::erfc(y) - (1 - t) : t - std::erf(y);
    y += off * std::sqrt(pi) / 2 * std::exp(y * y);
  }
  return std::copysign(y, x);
}
// From the asymptotic series at x + 40.
Wide digamma_of(Wide x) {
  if (x == 0) return std::copysign(Wide(inf), -x);
  if (x < 0) return x == std::floor(x) ? NAN : digamma_of(1 - x) - pi / std::tan(pi * (x - std::nearbyint(x)));
  if (std::isinf(x)) return x;
  Wide y = 0;
  for (; x < 40; x += 1) y -= 1 / x;
  const Wide z = 1 / (x * x);
  return y + std::log(x) - 1 / (2 * x) -
         z * (1 / 12.0L - z * (1 / 120.0L - z * (1 / 252.0L - z * (1 / 240.0L - z / 132))));
}
Wide sinc_of(Wide x) {
  if (x == 0) return 1;
  const Wide n = std::nearbyint(x), s = std::sin(pi * (x - n));
  return (std::fmod(n, Wide(2)) == 0 ? s : -s) / (pi * x);
}
Wide gelu_tanh_of(Wide x) { return x / (1 + std::exp(-2 * std::sqrt(2 / pi) * (x + 0.044715L * x * x * x))); }
Wide mish_of(Wide x) {
  const Wide e = std::exp(std::min(x, Wide(50))), w = e * (e + 2);
  return x * (w / (w + 2));
}
const std::map<std::string, Reference>& references() {
  static const std::map<std::string, Reference> table = {
      {"add", {[](Wide a, Wide b) { return a + b; }, -100, 100, 0.5, 0.5}},
      {"sub", {[](Wide a, Wide b) { return a - b; }, -100, 100, 0.5, 0.5}},
      {"mul", {[](Wide a, Wide b) { return a * b; }, -100, 100, 0.5, 0.5}},
      {"div", {[](Wide a, Wide b) { return a / b; }, -100, 100, 0.51, 0.51}},
      {"pow", {[](Wide a, Wide b) { return std::pow(a, b); }, 0, 30, 0.51, 1}},
      {"neg", {[](Wide a, Wide) { return -a; }, -100, 100, 0, 0}},
      {"abs", {[](Wide a, Wide) { return std::fabs(a); }, -100, 100, 0, 0}},
      {"square", {[](Wide a, Wide) { return a * a; }, -100, 100, 0.5, 0.5}},
      {"reciprocal", {[](Wide a, Wide) { return 1 / a; }, -100, 100, 0.51, 0.51}},
      {"sqrt", {[](Wide a, Wide) { return std::sqrt(a); }, 0, 1e6, 0.51, 0.51}},
      {"rsqrt", {[](Wide a, Wide) { return 1 / std::sqrt(a); }, 0, 1e6, 1.5, 1.5}},
      {"exp", {[](Wide a, Wide) { return std::exp(a); }, -103, 89, 1.5, 1.5}},
      {"expm1", {[](Wide a, Wide) { return std::expm1(a); }, -40, 89, 0.51, 3}},
      {"log", {[](Wide a, Wide) { return std::log(a); }, 0, 3, 1.5, 1.5}},
      {"log1p", {[](Wide a, Wide) { return std::log1p(a); }, -1, 4, 0.51, 2}},
      {"log2", {[](Wide a, Wide) { return std::log2(a); }, 0, 3, 0.51, 3}},
      {"log10", {[](Wide a, Wide) { return std::log10(a); }, 0, 3, 0.51, 3}},
      {"sin", {[](Wide a, Wide) { return std::sin(a); }, -1000, 1000, 0.51, 1}},
      {"cos", {[](Wide a, Wide) { return std::cos(a); }, -1000, 1000, 0.51, 1}},
      {"tan", {[](Wide a, Wide) { return std::tan(a); }, -100, 100, 1.5, 1.5}},
      {"asin", {[](Wide a, Wide) { return std::asin(a); }, -1, 1, 1.5, 1}},
      {"acos", {[](Wide a, Wide) { return std::acos(a); }, -1, 1, 1.5, 1}},
      {"atan", {[](Wide a, Wide) { return std::atan(a); }, -50, 50, 1.5, 1}},
      {"atan2", {[](Wide a, Wide b) { return std::atan2(a, b); }, -50, 50, 1.5, 1}},
      {"sinh", {[](Wide a, Wide) { return std::sinh(a); }, -88, 88, 2, 2.5}},
      {"cosh", {[](Wide a, Wide) { return std::cosh(a); }, -88, 88, 2, 2.5}},
      {"tanh", {[](Wide a, Wide) { return std::tanh(a); }, -20, 20, 0.51, 3}},
      {"sigmoid", {[](Wide a, Wide) { return 1 / (1 + std::exp(-a)); }, -87, 87, 2, 2.5}},
      {"silu", {[](Wide a, Wide) { return a / (1 + std::exp(-a)); }, -87, 87, 0.51, 3}},
      {"gelu",
       {[](Wide a, Wide) { return a * erfc_of(-a * 0.70710678118654752440084436210485L) / 2; }, -13, 13, 0.51, 5}},
      {"erf", {[](Wide a, Wide) { return std::erf(a); }, -6, 6, 0.51, 2}},
      {"softplus",
       {[](Wide a, Wide) { return (a > 0 ? a : 0) + std::log1p(std::exp(-std::fabs(a))); }, -87, 87, 0.51, 3}},
      {"exp2", {[](Wide a, Wide) { return std::exp2(a); }, -149, 127, 0.51, 1.5}},
      {"asinh", {[](Wide a, Wide) { return std::asinh(a); }, -100, 100, 1.5, 2}},
      {"acosh", {[](Wide a, Wide) { return std::acosh(a); }, 1, 100, 2, 2}},
      {"atanh", {[](Wide a, Wide) { return std::atanh(a); }, -1, 1, 1.5, 2}},
      {"sinc", {[](Wide a, Wide) { return sinc_of(a); }, -20, 20, 0.51, 3}},
      {"erfc", {[](Wide a, Wide) { return erfc_of(a); }, -6, 9, 0.51, 5}},
      {"erfinv", {[](Wide a, Wide) { return erfinv_of(a); }, -1, 1, 0.51, 8}},
      {"lgamma", {[](Wide a, Wide) { return std::lgamma(a); }, 0, 100, 3, 3, 0.5}},
      {"digamma", {[](Wide a, Wide) { return digamma_of(a); }, 0, 100, 0.51, 4, 1}},
      {"logit",
       {[](Wide a, Wide) {
          return a == 1                        ? Wide(inf)
                 : std::fabs(a - 0.5L) < 0.25L ? std::log1p((2 * a - 1) / (1 - a))
                                               : std::log(a) - std::log1p(-a);
        },
        0, 1, 0.51, 4}},
      {"xlogy", {[](Wide a, Wide b) { return a == 0 && !std::isnan(b) ? 0 : a * std::log(b); }, 0, 30, 2, 2}},
      {"xlog1py",
       {[](Wide a, Wide b) { return a == 0 && !std::isnan(b) ? 0 : a * std::log1p(b); }, -0.9, 30, 1.5, 2.5}},
      {"logaddexp", {log_add, -80, 80, 0.51, 2, 1}},
      {"logaddexp2",
       {[](Wide a, Wide b) {
          return a == b ? a + 1 : log_add(a * std::log(Wide(2)), b * std::log(Wide(2))) / std::log(Wide(2));
        },
        -80, 80, 0.51, 2, 1}},
      {"hypot", {[](Wide a, Wide b) { return std::hypot(a, b); }, -100, 100, 1, 1}},
      {"deg2rad", {[](Wide a, Wide) { return a * (pi / 180); }, -400, 400, 1.5, 1.5}},
      {"rad2deg", {[](Wide a, Wide) { return a * (180 / pi); }, -10, 10, 1.5, 1.5}},
      {"frac", {[](Wide a, Wide) { return a - std::trunc(a); }, -100, 100, 0, 0}},
      {"copysign", {[](Wide a, Wide b) { return std::copysign(a, b); }, -100, 100, 0, 0}},
      {"elu", {[](Wide a, Wide b) { return a > 0 ? a : b * std::expm1(a); }, -40, 40, 0.51, 3}},
      {"selu",
       {[](Wide a, Wide) {
          return a > 0 ? a * 1.0507009873554804934193349852946L : 1.7580993408473768599402175208123L * std::expm1(a);
        },
        -40, 40, 0.51, 3}},
      {"gelu_tanh", {[](Wide a, Wide) { return gelu_tanh_of(a); }, -5, 8, 0.51, 40}},
      {"mish", {[](Wide a, Wide) { return mish_of(a); }, -80, 80, 0.51, 4}},
      {"log_sigmoid",
       {[](Wide a, Wide) { return (a < 0 ? a : 0) - std::log1p(std::exp(-std::fabs(a))); }, -87, 87, 0.51, 3}},
      {"tanhshrink", {[](Wide a, Wide) { return a - std::tanh(a); }, -20, 20, 0.51, 2, 1}},
      {"softsign", {[](Wide a, Wide) { return a / (1 + std::fabs(a)); }, -100, 100, 1.5, 1.5}},
      {"hardsigmoid",
       {[](Wide a, Wide) { return std::isnan(a) ? a : std::clamp(a + 3, Wide(0), Wide(6)) / 6; }, -5, 5, 1.5, 1.5,
        0.5}},
      {"leaky_relu", {[](Wide a, Wide b) { return a > 0 ? a : a * b; }, -100, 100, 0.5, 0.5}},
      {"fmod", {[](Wide a, Wide b) { return std::fmod(a, b); }, -100, 100, 0, 0}},
      {"floor", {[](Wide a, Wide) { return std::floor(a); }, -100, 100, 0, 0}},
      {"ceil", {[](Wide a, Wide) { return std::ceil(a); }, -100, 100, 0, 0}},
      {"round", {[](Wide a, Wide) { return std::nearbyint(a); }, -100, 100, 0, 0}},
      {"trunc", {[](Wide a, Wide) { return std::trunc(a); }, -100, 100, 0, 0}},
  };
  return table;
}

Code code_of(const std::string& name) {
  static const char* const names[] = {
#define FLAME_POINTWISE(name, ...) #name,
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
  };
  for (size_t i = 0; i < std::size(names); ++i)
    if (name == names[i]) return static_cast<Code>(i);
  ADD_FAILURE() << "no row " << name;
  return Code::count;
}

template <class T>
double ulp_error(T got, Wide want, double least) {
  const T rounded = static_cast<T>(want);
  if (std::isnan(want) || std::isnan(got)) return std::isnan(want) && std::isnan(got) ? 0 : inf;
  if (std::isinf(rounded) || std::isinf(got))
    return rounded == got ? 0 : std::isinf(want) ? inf : std::fabs(got) == std::numeric_limits<T>::max() ? 1 : inf;
  int exponent = 0;
  std::frexp(std::max(std::fabs(want), Wide(least)), &exponent);
  const int lowest = std::numeric_limits<T>::min_exponent - std::numeric_limits<T>::digits;
  const Wide ulp = std::ldexp(Wide(1), std::max(exponent - std::numeric_limits<T>::digits, lowest));
  return static_cast<double>(std::fabs(static_cast<Wide>(got) - want) / ulp);
}

INSTANTIATE_TEST_SUITE_P(InstructionSets, Kernels, ::testing::ValuesIn(targets()),
                         [](const auto& p) { return std::string(hwy::TargetName(p.param)); });

template <class T>
void check_accuracy(const std::string& name, const Reference& r, double allowed, int64_t target) {
  std::mt19937_64 rng(7);
  std::vector<T> a, b;
  std::uniform_real_distribution<double> uniform(r.lo, r.hi);
  for (int i = 0; i < 40000; ++i) {
    a.push_back(static_cast<T>(uniform(rng)));
    b.push_back(static_cast<T>(uniform(rng)));
  }
  // The same range on a logarithmic scale, down to the subnormals.
  std::uniform_real_distribution<double> exponent(std::is_same_v<T, float> ? -148 : -1070, 0);
  for (int i = 0; i < 20000; ++i) {
    const double scale = std::exp2(exponent(rng));
    a.push_back(static_cast<T>((r.lo < 0 && i % 2 ? r.lo : r.hi) * scale));
    b.push_back(static_cast<T>(uniform(rng)));
  }
  std::vector<T> y(a.size());
  const BlockFn fn = block_kernel(code_of(name), dt<T>);
  ASSERT_NE(fn, nullptr) << name;
  fn(a.data(), b.data(), nullptr, y.data(), static_cast<int64_t>(a.size()));
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double e = ulp_error(y[i], r.fn(a[i], b[i]), r.least);
    if (e > worst) worst = e, at = i;
  }
  std::printf("  %-10s %-8s %-8s largest error %.3f ulp\n", hwy::TargetName(target), name.c_str(),
              name_of(dt<T>).data(), worst);
  EXPECT_LE(worst, allowed) << name << " of " << a[at] << ", " << b[at] << " gave " << y[at] << ", want "
                            << static_cast<double>(r.fn(a[at], b[at]));
}
TEST_P(Kernels, Accuracy) {
  for (const auto& [name, r] : references()) {
    check_accuracy<float>(name, r, r.ulp32, GetParam());
    check_accuracy<double>(name, r, r.ulp64, GetParam());
  }
}

template <class T>
std::vector<T> special_values() {
  using L = std::numeric_limits<T>;
  std::vector<T> v = {T(0),
                      T(0.5),
                      T(1),
                      T(1.5),
                      T(2),
                      T(2.5),
                      T(3),
                      T(22.5),
                      T(40),
                      T(88.7),
                      T(89),
                      T(103.9),
                      T(105),
                      T(709.7),
                      T(746),
                      T(1e5),
                      T(3e6),
                      T(1e15),
                      T(1e30),
                      L::min(),
                      L::denorm_min(),
                      L::max(),
                      L::infinity(),
                      L::epsilon(),
                      T(1) - L::epsilon() / 2,
                      T(0.70710678118654752),
                      T(1.5707963267948966)};
  const size_t n = v.size();
  for (size_t i = 0; i < n; ++i) v.push_back(-v[i]);
  v.push_back(L::quiet_NaN());
  return v;
}
template <class T>
void check_specials(const std::string& name, const Reference& r, double allowed) {
  std::vector<T> a, b;
  for (T x : special_values<T>())
    for (T z : special_values<T>()) a.push_back(x), b.push_back(z);
  std::vector<T> y(a.size());
  block_kernel(code_of(name), dt<T>)(a.data(), b.data(), nullptr, y.data(), static_cast<int64_t>(a.size()));
  for (size_t i = 0; i < a.size(); ++i) {
    Wide want = r.fn(a[i], b[i]);
    // -inf * 0, as PyTorch's.
    if ((name == "silu" || name == "gelu" || name == "gelu_tanh" || name == "mish") && a[i] == -inf) want = NAN;
    if ((name == "silu" || name == "mish") && std::is_same_v<T, double> && a[i] < -708 && a[i] > -750)
      continue;  // its sigmoid is subnormal
    EXPECT_LE(ulp_error(y[i], want, r.least), std::max(allowed, 0.5))
        << name << " of " << a[i] << ", " << b[i] << " gave " << y[i] << ", want " << static_cast<double>(want);
    const bool zeros = want == 0 && y[i] == 0;
    EXPECT_TRUE(!zeros || std::signbit(want) == std::signbit(y[i])) << name << " of " << a[i] << ", " << b[i];
  }
}
TEST_P(Kernels, SpecialValues) {
  for (const auto& [name, r] : references()) {
    check_specials<float>(name, r, r.ulp32);
    check_specials<double>(name, r, r.ulp64);
  }
}

TEST_P(Kernels, NaNWinsInMaximumAndMinimum) {
  const std::vector<float> a = {1, NAN, 3, NAN, -1, static_cast<float>(inf), NAN},
                           b = {2, 1, NAN, NAN, -2, NAN, static_cast<float>(-inf)};
  std::vector<float> y(a.size());
  for (bool greatest : {true, false}) {
    block_kernel(greatest ? Code::maximum : Code::minimum, DType::f32)(a.data(), b.data(), nullptr, y.data(), 7);
    for (size_t i = 0; i < a.size(); ++i) {
      if (std::isnan(a[i]) || std::isnan(b[i])) EXPECT_TRUE(std::isnan(y[i])) << i;
      else EXPECT_EQ(y[i], greatest ? std::max(a[i], b[i]) : std::min(a[i], b[i]));
    }
  }
  block_kernel(Code::relu, DType::f32)(a.data(), nullptr, nullptr, y.data(), 7);
  EXPECT_TRUE(std::isnan(y[1]));
  EXPECT_EQ(y[4], 0);
}

TEST_P(Kernels, WhereSelectsAndComparisonsGiveBool) {
  const std::vector<uint8_t> cond = {1, 0, 1, 0};
  const std::vector<double> a = {1, NAN, 3, 4}, b = {NAN, 6, 3, 8};
  std::vector<double> y(4);
  block_kernel(Code::where, DType::f64)(cond.data(), a.data(), b.data(), y.data(), 4);
  EXPECT_EQ(y, (std::vector<double>{1, 6, 3, 8}));
  std::vector<uint8_t> t(4);
  block_kernel(Code::eq, DType::f64)(a.data(), b.data(), nullptr, t.data(), 4);
  EXPECT_EQ(t, (std::vector<uint8_t>{0, 0, 1, 0}));
  block_kernel(Code::ne, DType::f64)(a.data(), b.data(), nullptr, t.data(), 4);
  EXPECT_EQ(t, (std::vector<uint8_t>{1, 1, 0, 1}));
  block_kernel(Code::isnan, DType::f64)(a.data(), nullptr, nullptr, t.data(), 4);
  EXPECT_EQ(t, (std::vector<uint8_t>{0, 1, 0, 0}));
  const std::vector<float> z = {static_cast<float>(-inf), 0, NAN, 1e38f};
  block_kernel(Code::isinf, DType::f32)(z.data(), nullptr, nullptr, t.data(), 4);
  EXPECT_EQ(t, (std::vector<uint8_t>{1, 0, 0, 0}));
  block_kernel(Code::isfinite, DType::f32)(z.data(), nullptr, nullptr, t.data(), 4);
  EXPECT_EQ(t, (std::vector<uint8_t>{0, 1, 0, 1}));
}

// Every row: an element has the same bits at any place in a block of any length, also when out is an input.
template <class T>
void check_places() {
  constexpr int64_t longest = 70;
  for (int c = 0; c < static_cast<int>(Code::copy); ++c) {
    const BlockFn fn = block_kernel(static_cast<Code>(c), dt<T>);
    if (!fn) continue;
    const bool select = static_cast<Code>(c) == Code::where;
    const bool is_bool = static_cast<Code>(c) >= Code::eq && static_cast<Code>(c) <= Code::logical_not;
    const size_t bytes = is_bool ? 1 : sizeof(T);
    std::vector<T> a(longest), b(longest), cc(longest);
    for (int64_t i = 0; i < longest; ++i) {
      const auto k = static_cast<size_t>(i);
      a[k] = static_cast<T>(0.05 + 0.01 * static_cast<double>(i * 37 % 71));
      b[k] = static_cast<T>(0.3 + 0.02 * static_cast<double>(i * 29 % 71));
      cc[k] = static_cast<T>(0.9 - 0.01 * static_cast<double>(i));
    }
    std::vector<uint8_t> cond(longest, 1);
    std::vector<T> one(1), y(longest + 1);
    for (int64_t n = 1; n <= longest; ++n) {
      fn(select ? static_cast<const void*>(cond.data()) : a.data(), b.data(), cc.data(), y.data(), n);
      const auto k = static_cast<size_t>(n - 1);
      fn(select ? static_cast<const void*>(cond.data()) : &a[k], &b[k], &cc[k], one.data(), 1);
      EXPECT_EQ(std::memcmp(reinterpret_cast<char*>(y.data()) + k * bytes, one.data(), bytes), 0)
          << "row " << c << ", length " << n;
    }
    if (select) continue;
    std::vector<T> in_place = a;
    fn(a.data(), b.data(), cc.data(), y.data(), longest);
    fn(in_place.data(), b.data(), cc.data(), in_place.data(), longest);
    EXPECT_EQ(std::memcmp(in_place.data(), y.data(), longest * bytes), 0) << "row " << c;
  }
}
TEST_P(Kernels, BitsDoNotDependOnPlace) {
  check_places<float>();
  check_places<double>();
}

// A chain gives the bits of its ops one by one, whatever their number, their other inputs and the length.
TEST_P(Kernels, ChainsAreTheirOpsOneByOne) {
  std::mt19937 random(7);
  const Code codes[] = {Code::add, Code::sub, Code::mul, Code::div, Code::relu, Code::neg, Code::square};
  for (Code c : codes) EXPECT_TRUE(joins_chain(c, DType::f32) && joins_chain(c, DType::f64));
  EXPECT_FALSE(joins_chain(Code::exp, DType::f32) || joins_chain(Code::add, DType::i32));
  for (int trial = 0; trial < 400; ++trial) {
    const DType t = trial % 2 ? DType::f32 : DType::f64;
    const int64_t n = static_cast<int64_t>(random() % 300);
    visit_dtype(t, [&](auto zero) {
      using T = decltype(zero);
      if constexpr (std::is_floating_point_v<T>) {
        const auto block = [&] {
          std::vector<T> v(static_cast<size_t>(n) + 1);
          for (T& x : v) x = static_cast<T>(static_cast<int>(random() % 4001) - 2000) / 64;
          return v;
        };
        std::vector<T> value = block(), got(value.size());
        const std::vector<T> in = value;
        std::vector<std::vector<T>> others;
        std::vector<ChainOp> ops;
        const int length = 1 + static_cast<int>(random() % longest_chain);
        for (int k = 0; k < length; ++k) {
          const Code c = codes[random() % std::size(codes)];
          const bool two = c == Code::add || c == Code::sub || c == Code::mul || c == Code::div;
          const bool swapped = two && random() % 2, same = two && random() % 2;
          others.push_back(block());
          ops.push_back({c, same, swapped, nullptr});
          std::vector<T>& other = others.back();
          if (same) std::fill(other.begin(), other.end(), other[0]);
          const void *a = value.data(), *b = other.data();
          if (swapped) std::swap(a, b);
          block_kernel(c, t)(a, b, nullptr, value.data(), n);
        }
        for (size_t k = 0; k < ops.size(); ++k) ops[k].other = others[k].data();
        chain_kernel(t)(ops.data(), length, in.data(), got.data(), n);
        for (size_t i = 0; i < static_cast<size_t>(n); ++i)
          ASSERT_TRUE(got[i] == value[i] || (std::isnan(got[i]) && std::isnan(value[i]))) << trial << " " << i;
      }
    });
  }
}

// A kernel that may read the first element of an input for all gives the bits of one that reads every element.
TEST_P(Kernels, NumbersAsInputs) {
  for (int code = 0; code < static_cast<int>(Code::copy); ++code)
    for (DType t : {DType::f32, DType::f64, DType::i32}) {
      const BlockFn whole = block_kernel(static_cast<Code>(code), t);
      for (unsigned same = 0; whole && same < 8; ++same) {
        constexpr int64_t n = 37;
        std::vector<double> in[3], got(n), want(n);
        for (unsigned k = 0; k < 3; ++k) {
          in[k].resize(n);
          visit_dtype(t, [&](auto x) {
            using T = decltype(x);
            if constexpr (std::is_arithmetic_v<T>)
              for (int64_t i = 0; i < n; ++i)
                reinterpret_cast<T*>(in[k].data())[i] = static_cast<T>(1 + ((same >> k & 1 ? 0 : i) * 7 + k) % 5);
          });
        }
        if (static_cast<Code>(code) == Code::where)  // its first input is bool
          for (int64_t i = 0; i < n; ++i) reinterpret_cast<uint8_t*>(in[0].data())[i] = (same & 1 ? 1 : i) % 2 != 0;
        whole(in[0].data(), in[1].data(), in[2].data(), want.data(), n);
        block_kernel(static_cast<Code>(code), t, same)(in[0].data(), in[1].data(), in[2].data(), got.data(), n);
        EXPECT_EQ(std::memcmp(got.data(), want.data(), n * sizeof(double)), 0) << code << name_of(t) << same;
      }
    }
}

TEST(KernelIntegers, ArithmeticWrapsAndDivisionByZeroIsZero) {
  const std::vector<int32_t> a = {
      7, -7, 7, -7, 5, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()};
  const std::vector<int32_t> b = {3, 3, -3, -3, 0, -1, 2};
  std::vector<int32_t> y(7);
  const auto run = [&](Code c) {
    block_kernel(c, DType::i32)(a.data(), b.data(), nullptr, y.data(), 7);
    return y;
  };
  EXPECT_EQ(run(Code::fmod), (std::vector<int32_t>{1, -1, 1, -1, 0, 0, 1}));
  EXPECT_EQ(run(Code::remainder), (std::vector<int32_t>{1, 2, -2, -1, 0, 0, 1}));
  EXPECT_EQ(run(Code::mul)[6], -2);
  EXPECT_EQ(run(Code::abs)[5], std::numeric_limits<int32_t>::min());
  const std::vector<int64_t> base = {2, -2, 1, -1, 3, 0, 10}, exponent = {10, 3, -5, -3, -1, 0, 18};
  std::vector<int64_t> p(7);
  block_kernel(Code::pow, DType::i64)(base.data(), exponent.data(), nullptr, p.data(), 7);
  EXPECT_EQ(p, (std::vector<int64_t>{1024, -8, 1, -1, 0, 1, 1000000000000000000}));
}

TEST(KernelTable, FollowsTheInColumn) {
  EXPECT_EQ(block_kernel(Code::sub, DType::boolean), nullptr);
  EXPECT_EQ(block_kernel(Code::exp, DType::i32), nullptr);
  EXPECT_EQ(block_kernel(Code::bitwise_and, DType::f32), nullptr);
  EXPECT_EQ(block_kernel(Code::add, DType::bf16), nullptr);
  EXPECT_EQ(block_kernel(Code::copy, DType::f32), nullptr);
  EXPECT_NE(block_kernel(Code::add, DType::boolean), nullptr);
  const bool a[3] = {true, true, false}, b[3] = {true, false, false};
  bool y[3];
  block_kernel(Code::add, DType::boolean)(a, b, nullptr, y, 3);
  EXPECT_TRUE(y[0] && y[1] && !y[2]);
  block_kernel(Code::bitwise_not, DType::boolean)(a, nullptr, nullptr, y, 3);
  EXPECT_TRUE(!y[0] && !y[1] && y[2]);
}

// Lanes beyond a table or a quick way take another one, which must not change their neighbours.
TEST_P(Kernels, NeighboursDoNotChangeBits) {
  for (const char* name : {"gelu", "erf", "silu"}) {
    const BlockFn fn = block_kernel(code_of(name), DType::f32);
    std::vector<float> near(64), mixed(64), y(64), z(64);
    for (size_t i = 0; i < 64; ++i) near[i] = (static_cast<float>(i) - 31.7f) / 9;
    mixed = near;
    for (size_t i = 0; i < 64; i += 3) mixed[i] = i % 2 ? -90.5f : 1e-39f;
    fn(near.data(), nullptr, nullptr, y.data(), 64);
    fn(mixed.data(), nullptr, nullptr, z.data(), 64);
    for (size_t i = 0; i < 64; ++i) {
      if (i % 3 != 0) { EXPECT_EQ(y[i], z[i]) << name << " of " << near[i]; }
      float alone = 0;
      fn(&mixed[i], nullptr, nullptr, &alone, 1);
      EXPECT_EQ(z[i], alone) << name << " of " << mixed[i];
    }
  }
}

TEST_P(Kernels, NormalsAreThoseOfTheScalarFunction) {
  std::mt19937 rng(3);
  std::vector<uint32_t> bits(100003);
  for (uint32_t& b : bits) b = static_cast<uint32_t>(rng());
  for (size_t i = 0; i < 32; ++i) bits[i] = uint32_t{1} << i, bits[32 + i] = ~bits[i];  // both ends of both tails
  bits[64] = 0;
  std::vector<float> z(bits.size());
  normals_of(bits.data(), static_cast<int64_t>(bits.size()), 0.25f, 3, z.data());
  for (size_t i = 0; i < bits.size(); ++i) ASSERT_EQ(z[i], 0.25f + 3 * inverse_normal::from_bits(bits[i])) << bits[i];
}

}  // namespace
}  // namespace flame
