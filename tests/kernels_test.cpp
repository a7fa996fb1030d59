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
#include "tests/support/accuracy.h"

namespace flame {
namespace {

using test::Kernels, test::dt, test::targets;
using test::Reference, test::Wide, test::references, test::ulp_error;

constexpr double inf = std::numeric_limits<double>::infinity();

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
