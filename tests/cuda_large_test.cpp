// Tensors of more than 2^31 elements: every part of them is reached, by values that are known from the place.
#include <gtest/gtest.h>

#include <flame/flame.h>

#include "flame/device/device_scope.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;

constexpr int64_t rows = 46'357, columns = 46'351, count = rows * columns;  // 2^31 + 1.2 million, odd on both sides
static_assert(count > (int64_t{1} << 31));

// The GPU if its memory holds these tensors.
#define FLAME_NEEDS_40_GB(d)                                                                      \
  FLAME_NEEDS_GPU(d);                                                                             \
  try {                                                                                           \
    Tensor::empty({int64_t{36} << 30}, DType::u8, d);                                             \
  } catch (const OutOfMemory& e) { GTEST_SKIP() << "needs a GPU with 40 GB free: " << e.what(); } \
  empty_cache(d);                                                                                 \
  DeviceScope scope(d)

// Elements at places all over a matrix, the last ones included, against a function of row and column.
void expect_elements(const Tensor& x, const std::function<double(int64_t, int64_t)>& want, const char* what) {
  x.data();  // computed once
  for (int64_t i = 0; i < 64; ++i) {
    const int64_t r = i < 4 ? x.size(0) - 1 - i : i * 7'919 * 31 % x.size(0);
    const int64_t c = i % 8 < 4 ? x.size(1) - 1 - i % 4 : i * 104'729 * 17 % x.size(1);
    ASSERT_EQ(x.select(0, r).select(0, c).to(DType::f64).item(), want(r, c)) << what << " at " << r << ", " << c;
  }
}
// What a place holds: small whole numbers, exact in every dtype.
double number(int64_t r, int64_t c) { return static_cast<double>((r * 3 + c) % 61 - 30); }
Tensor matrix(DType t) {
  const Tensor r = arange(0, rows, 1, DType::i32).unsqueeze(1), c = arange(0, columns, 1, DType::i32);
  Tensor x = (remainder(r * 3 + c, 61) - 30).to(t);
  x.data();
  return x;
}

class CudaLarge : public testing::TestWithParam<DType> {};

TEST_P(CudaLarge, Pointwise) {
  FLAME_NEEDS_40_GB(d);
  const Tensor x = matrix(GetParam());
  expect_elements(x, number, "made");
  expect_elements(
      x * 2 + 1, [](int64_t r, int64_t c) { return 2 * number(r, c) + 1; }, "contiguous");
  const Tensor y = where(x > 0, x, -x);
  expect_elements(
      y.t(), [](int64_t r, int64_t c) { return std::abs(number(c, r)); }, "transposed");
  expect_elements((x + x.narrow(0, 5, 1)).narrow(1, 3, columns - 3),
                  [](int64_t r, int64_t c) { return number(r, c + 3) + number(5, c + 3); }, "broadcast");
}

TEST_P(CudaLarge, Reductions) {
  FLAME_NEEDS_40_GB(d);
  const DType t = GetParam();
  const Tensor x = matrix(t);
  double all = 0;
  std::vector<double> of_row(rows), of_column(columns);
  for (int64_t r = 0; r < rows; ++r)  // 61 columns come to 0
    for (int64_t c = columns / 61 * 61; c < columns; ++c) of_row[static_cast<size_t>(r)] += number(r, c);
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t r = rows / 61 * 61; r < rows; ++r) of_column[static_cast<size_t>(c)] += number(r, c);
  for (double v : of_row) all += v;
  const Tensor wide = t == DType::i8 ? x.to(DType::i64) : x.to(DType::f32);
  EXPECT_EQ(sum(wide).to(DType::f64).item(), all);
  EXPECT_EQ(numbers(sum(wide, -1)), of_row);
  EXPECT_EQ(numbers(sum(wide, 0)), of_column);
  EXPECT_EQ(amax(x).to(DType::f64).item(), 30);
  EXPECT_EQ(amin(x.narrow(0, rows - 1, 1)).to(DType::f64).item(), -30);
  const int64_t last = (rows - 1) * columns + columns - 1;  // one element alone is the largest
  const Tensor corner = logical_and(eq(arange(0, rows, 1, DType::i32).unsqueeze(1), rows - 1),
                                    eq(arange(0, columns, 1, DType::i32), columns - 1));
  const Tensor peak = where(corner, 99, x);
  EXPECT_EQ(argmax(peak.flatten()).item<int64_t>(), last);
}

TEST_P(CudaLarge, CatGatherAndScatter) {
  FLAME_NEEDS_40_GB(d);
  const Tensor x = matrix(GetParam());
  const Tensor joined = cat({x.narrow(0, 0, rows - 7), x.narrow(0, 0, 7)}, 0);
  expect_elements(
      joined, [](int64_t r, int64_t c) { return number(r < rows - 7 ? r : r - (rows - 7), c); }, "cat of rows");
  const Tensor beside = cat({x.narrow(1, 9, columns - 9), x.narrow(1, 0, 9)}, 1);
  expect_elements(
      beside, [](int64_t r, int64_t c) { return number(r, c < columns - 9 ? c + 9 : c - (columns - 9)); },
      "cat of columns");
  const Tensor back = arange(rows - 1, -1, -1, DType::i64);
  expect_elements(
      index_select(x, 0, back), [](int64_t r, int64_t c) { return number(rows - 1 - r, c); }, "index_select");
  const Tensor places = arange(count - 1, count - 1001, -1, DType::i64);
  const std::vector<double> picked = numbers(gather(x.flatten(), 0, places));
  for (int64_t i = 0; i < 1000; ++i)
    EXPECT_EQ(picked[static_cast<size_t>(i)], number((count - 1 - i) / columns, (count - 1 - i) % columns));
  const Tensor written = scatter(x.flatten(), 0, places, 55).reshape({rows, columns});
  expect_elements(
      written, [](int64_t r, int64_t c) { return r * columns + c >= count - 1000 ? 55 : number(r, c); }, "scatter");
}

TEST_P(CudaLarge, Softmax) {
  FLAME_NEEDS_40_GB(d);
  const DType t = is_float(GetParam()) ? GetParam() : DType::f32;  // softmax takes floating numbers
  const Tensor x = matrix(t) / 8, y = softmax(x, -1);
  for (const int64_t r : {int64_t{0}, rows / 2, rows - 1}) {
    const Deviation e = error_of(y.select(0, r).to(cpu()), softmax(x.select(0, r).to(cpu()), -1));
    EXPECT_LE(e.units, 2) << "row " << r << " " << e.text;
  }
  const Tensor z = softmax(x, 0);
  for (const int64_t c : {int64_t{0}, columns - 1}) {
    const Deviation e = error_of(z.select(1, c).to(cpu()), softmax(x.select(1, c).to(cpu()), 0));
    EXPECT_LE(e.units, 2) << "column " << c << " " << e.text;
  }
}

INSTANTIATE_TEST_SUITE_P(CudaDtypes, CudaLarge, testing::Values(DType::i8, DType::f16, DType::bf16),
                         [](const auto& p) { return std::string(name_of(p.param)); });

}  // namespace
}  // namespace flame
