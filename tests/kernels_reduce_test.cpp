// Row reductions (order, accuracy, NaN) and conversions between all dtypes, on every instruction set of this machine.
#include "flame/fuse/kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "tests/kernels_support.h"

namespace flame {
namespace {

using test::dt;
class KernelReductions : public test::Kernels {};
INSTANTIATE_TEST_SUITE_P(InstructionSets, KernelReductions, ::testing::ValuesIn(test::targets()),
                         [](const auto& p) { return std::string(hwy::TargetName(p.param)); });

using Wide = long double;
constexpr double inf = std::numeric_limits<double>::infinity();

TEST_P(KernelReductions, ReductionOrderDependsOnLengthAlone) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  std::vector<float> x(5000 + 64);
  for (float& v : x) v = normal(rng);
  for (int64_t n : {1, 2, 31, 32, 33, 63, 100, 1023, 1024, 1025, 2048, 3000, 5000}) {
    float first = 0;
    for (size_t shift = 0; shift < 17; ++shift) {
      std::vector<float> moved(shift + static_cast<size_t>(n));
      std::copy_n(x.begin(), n, moved.begin() + static_cast<int64_t>(shift));
      float y = 0;
      row_reduce_kernel(Reduce::sum, DType::f32)(moved.data() + shift, &y, n);
      if (shift == 0) first = y;
      EXPECT_EQ(std::memcmp(&first, &y, sizeof y), 0) << n << " " << shift;
    }
  }
}
TEST_P(KernelReductions, SumsAreAsGoodAsPairwise) {
  std::mt19937 rng(5);
  std::uniform_real_distribution<float> uniform(0, 1);
  const int64_t n = 1 << 20;
  std::vector<float> x(static_cast<size_t>(n));
  Wide exact = 0;
  for (float& v : x) v = uniform(rng), exact += static_cast<Wide>(v);
  float y = 0;
  row_reduce_kernel(Reduce::sum, DType::f32)(x.data(), &y, n);
  const double relative = static_cast<double>(std::fabs(static_cast<Wide>(y) - exact) / exact);
  std::printf("  float32 sum of 2^20 numbers: relative error %.2e\n", relative);
  EXPECT_LT(relative, 3e-7);  // one after the other gives about 1e-5
}

// One row of each integer dtype against plain loops; floats with NaN at every position.
template <class T>
void check_integer_reductions() {
  std::vector<T> x;
  for (int i = 0; i < 77; ++i) x.push_back(static_cast<T>((i * 31 + 5) % 19));
  T sum = 0, prod = 1, most = x[0], least = x[0];
  for (T v : x) {
    sum = static_cast<T>(static_cast<uint64_t>(sum) + static_cast<uint64_t>(v));
    prod = static_cast<T>(static_cast<uint64_t>(prod) * static_cast<uint64_t>(v));
    most = std::max(most, v);
    least = std::min(least, v);
  }
  const std::pair<Reduce, T> cases[] = {
      {Reduce::sum, sum}, {Reduce::prod, prod}, {Reduce::max, most}, {Reduce::min, least}};
  for (auto [r, want] : cases) {
    T y{};
    row_reduce_kernel(r, dt<T>)(x.data(), &y, 77);
    EXPECT_EQ(y, want);
    T identity{};
    fill_identity(r, dt<T>, &identity, 1);
    combine_kernel(r, dt<T>)(&identity, &y, nullptr, &identity, 1);
    EXPECT_EQ(identity, want);
  }
}
TEST_P(KernelReductions, Reductions) {
  check_integer_reductions<uint8_t>();
  check_integer_reductions<int32_t>();
  check_integer_reductions<int64_t>();
  for (int64_t n : {1, 5, 32, 40, 1500}) {
    for (int64_t bad = 0; bad < n; bad += 7) {
      std::vector<double> x(static_cast<size_t>(n), -2.0);
      x[static_cast<size_t>(n / 2)] = -1;
      double y = 0;
      row_reduce_kernel(Reduce::max, DType::f64)(x.data(), &y, n);
      EXPECT_EQ(y, -1);
      x[static_cast<size_t>(bad)] = NAN;
      for (Reduce r : {Reduce::max, Reduce::min, Reduce::sum, Reduce::prod}) {
        row_reduce_kernel(r, DType::f64)(x.data(), &y, n);
        EXPECT_TRUE(std::isnan(y)) << n << " " << bad;
      }
    }
  }
  float y = 1;
  row_reduce_kernel(Reduce::sum, DType::f32)(nullptr, &y, 0);
  EXPECT_EQ(y, 0);
  row_reduce_kernel(Reduce::max, DType::f32)(nullptr, &y, 0);
  EXPECT_EQ(y, -inf);
  for (uint8_t a : {0, 1}) {
    const uint8_t row[3] = {a, 1, a};
    uint8_t any = 9, all = 9;
    row_reduce_kernel(Reduce::any, DType::boolean)(row, &any, 3);
    row_reduce_kernel(Reduce::all, DType::boolean)(row, &all, 3);
    EXPECT_EQ(any, 1);
    EXPECT_EQ(all, a);
  }
}

// All 65536 numbers of each 16-bit format up, and random float32 bits down, against the classes of core/dtype.h.
template <class Half>
void check_sixteen_bit() {
  constexpr int64_t all = 65536;
  std::vector<Half> h(all);
  for (size_t i = 0; i < all; ++i) h[i].bits = static_cast<uint16_t>(i);
  std::vector<float> f(all);
  cast_kernel(dt<Half>, DType::f32)(h.data(), nullptr, nullptr, f.data(), all);
  for (size_t i = 0; i < all; ++i) {
    const float want = static_cast<float>(h[i]);
    if (std::isnan(want)) EXPECT_TRUE(std::isnan(f[i]));
    else EXPECT_EQ(std::memcmp(&f[i], &want, 4), 0) << i;
  }
  std::mt19937 rng(11);
  std::vector<float> x(200001);
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = i % 2 ? std::bit_cast<float>(static_cast<uint32_t>(rng()))
                 : static_cast<float>(static_cast<int32_t>(rng())) * 0x1p-26f;
  std::vector<Half> down(x.size());
  std::vector<float> rounded = x;
  cast_kernel(DType::f32, dt<Half>)(x.data(), nullptr, nullptr, down.data(), static_cast<int64_t>(x.size()));
  round_block(dt<Half>, rounded.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    const float got = static_cast<float>(down[i]), want = static_cast<float>(Half(x[i]));
    if (std::isnan(want)) EXPECT_TRUE(std::isnan(got) && std::isnan(rounded[i]));
    else EXPECT_TRUE(std::memcmp(&got, &want, 4) == 0 && std::memcmp(&rounded[i], &want, 4) == 0) << x[i];
  }
}
TEST_P(KernelReductions, SixteenBitConversions) {
  check_sixteen_bit<float16>();
  check_sixteen_bit<bfloat16>();
}
TEST(KernelCasts, AllPairsOfDtypes) {
  for (DType from : all_dtypes)
    for (DType to : all_dtypes) {
      const double numbers[] = {0, 1, 2, 100, 3.75, 0.25, 77};
      std::vector<uint64_t> in(7), out(7);
      visit_dtype(from, [&](auto f) {
        auto* p = reinterpret_cast<decltype(f)*>(in.data());
        for (int i = 0; i < 7; ++i) p[i] = decltype(f)(static_cast<float>(numbers[i]));
        cast_kernel(from, to)(in.data(), nullptr, nullptr, out.data(), 7);
        visit_dtype(to, [&](auto t) {
          const auto* q = reinterpret_cast<const decltype(t)*>(out.data());
          for (int i = 0; i < 7; ++i) {
            const double source = static_cast<double>(static_cast<float>(p[i]));
            const double want = to == DType::boolean ? source != 0 : is_float(to) ? source : std::trunc(source);
            EXPECT_EQ(static_cast<double>(static_cast<float>(q[i])), want) << name_of(from) << " to " << name_of(to);
          }
        });
      });
    }
  const float negative = -3;
  uint8_t wrapped = 0;
  cast_kernel(DType::f32, DType::u8)(&negative, nullptr, nullptr, &wrapped, 1);
  EXPECT_EQ(wrapped, 253);
  const float large = 200;
  int8_t wrapped_signed = 0;
  cast_kernel(DType::f32, DType::i8)(&large, nullptr, nullptr, &wrapped_signed, 1);
  EXPECT_EQ(wrapped_signed, -56);
}

}  // namespace
}  // namespace flame
