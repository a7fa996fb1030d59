// Sorting, the first of rows and running sums on the GPU by every way that a row can go, against the CPU: bits of values and
// places, with ties, NaN, zeros of both signs and infinities, over rows of any strides.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include <flame/flame.h>

#include "flame/core/philox.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;
using Tensors = std::vector<Tensor>;
using Work = std::function<Tensors(const Tensor&)>;

// Elements that mostly differ; many equal ones with NaN, infinities and both zeros; one alone.
enum class Kind : uint8_t { distinct, mixed, same };
Tensor rows(int64_t count, int64_t n, DType t, Kind kind, uint64_t seed = 7) {
  std::vector<double> v(static_cast<size_t>(count * n));
  for (size_t i = 0; i < v.size(); ++i) {
    const uint32_t r = philox(seed, i, 3)[0];
    if (kind == Kind::same) v[i] = 2;
    else if (kind == Kind::distinct) v[i] = std::ldexp(static_cast<double>(r) - 2e9, static_cast<int>(r % 9) - 24);
    else v[i] = static_cast<double>(r % 401) / 4 - (t == DType::u8 ? 0 : 50);
    if (kind != Kind::mixed || !is_float(t)) continue;
    if (r % 17 == 0) v[i] = r % 2 ? NAN : -0.0;
    if (r % 23 == 0) v[i] = r % 2 ? HUGE_VAL : -HUGE_VAL;
  }
  return Tensor::from(v, {count, n}).to(t);
}
// What `work` gives on the CPU, to the bit.
void expect_cpu(Device& d, const std::string& what, const Tensor& x, const Work& work) {
  const Tensors want = work(x), got = work(x.to(d));
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(difference(got[i], want[i]), "") << what << ", result " << i;
}
Tensors both(const ValuesAndIndices& r) { return {r.values, r.indices}; }
std::string text(DType t, int64_t n, Kind kind) {
  constexpr const char* kinds[] = {"distinct", "mixed", "same"};
  return std::string(name_of(t)) + " rows of " + std::to_string(n) + ", " + kinds[static_cast<int>(kind)];
}
constexpr Kind kinds[] = {Kind::distinct, Kind::mixed, Kind::same};
constexpr DType dtypes[] = {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8};

TEST(CudaSort, ShortRows) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : dtypes)
    for (const int64_t n : {1, 2, 33, 64, 200, 256})
      for (const Kind kind : kinds)
        expect_cpu(d, text(t, n, kind), rows(67, n, t, kind), [=](const Tensor& x) {
          const auto a = sort(x), b = sort(x, {.descending = true}), c = topk(x, std::min<int64_t>(n, 3));
          const auto e = median(x, 1), f = kthvalue(x, n);
          return Tensors{a.values,  a.indices, b.values,  b.indices, c.values,
                         c.indices, e.values,  e.indices, f.values,  f.indices};
        });
}

TEST(CudaSort, WholeRows) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : dtypes)
    for (const int64_t n : {257, 2048, 4096})
      for (const Kind kind : kinds)
        for (const bool descending : {false, true})
          expect_cpu(d, text(t, n, kind), rows(3, n, t, kind),
                     [=](const Tensor& x) { return both(sort(x, {.descending = descending})); });
  for (const int64_t n : {256, 1000, 2049, 4095, 4097, 8192, 8193, 20'000})
    for (const Kind kind : kinds)
      expect_cpu(d, text(DType::f32, n, kind), rows(2, n, DType::f32, kind),
                 [](const Tensor& x) { return both(sort(x)); });
  for (const DType t : {DType::f64, DType::bf16, DType::u8})  // by digits: several tiles, several rows
    for (const Kind kind : kinds)
      expect_cpu(d, text(t, 30'001, kind), rows(3, 30'001, t, kind), [](const Tensor& x) { return both(sort(x)); });
  // Keys that differ in their lowest or highest bits alone, and crowded ones.
  for (const int shift : {0, 20, 50}) {
    std::vector<int64_t> v(6000);
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int64_t>(philox(1, i, 2)[0] % 5000) << shift;
    const Tensor x = Tensor::from(v, {3, 2000});
    for (const Tensor& y : {x, x.to(DType::i32), x.to(DType::f64)})
      expect_cpu(d, "shifted by " + std::to_string(shift), y, [](const Tensor& z) { return both(sort(z)); });
  }
  Generator g(4);
  const Tensor crowded = exp(randn({2, 4096}, {.generator = &g}) * 9);
  expect_cpu(d, "crowded", crowded, [](const Tensor& x) { return both(sort(x, {.descending = true})); });
}

TEST(CudaSort, FirstOfRows) {
  FLAME_NEEDS_GPU(d);
  const auto first = [&](DType t, int64_t count, int64_t n, int64_t k, Kind kind) {
    for (const bool largest : {false, true})
      expect_cpu(d, text(t, n, kind) + ", " + std::to_string(k), rows(count, n, t, kind),
                 [=](const Tensor& x) { return both(topk(x, k, {.largest = largest})); });
  };
  for (const DType t : dtypes)
    for (const int64_t n : {257, 4096, 9000})
      for (const int64_t k : {1, 16, 17, 64, 65})
        for (const Kind kind : kinds) first(t, 3, n, k, kind);
  for (const int64_t k : {0, 1, 40, 300}) first(DType::f32, 2, 300, k, Kind::mixed);
  for (const Kind kind : kinds) {
    first(DType::f32, 2, 300'001, 50, kind);
    first(DType::f64, 1, 2'000'000, 64, kind);  // parts of parts
  }
  const Tensor x = rows(4, 5000, DType::f32, Kind::mixed);
  for (const int64_t k : {1, 3, 64, 65, 4000, 5000})
    expect_cpu(d, "kthvalue " + std::to_string(k), x, [=](const Tensor& y) { return both(kthvalue(y, k)); });
  // In no particular order: the same elements.
  const Tensor any = topk(x.to(d), 20, {.sorted = false}).indices.to(cpu());
  EXPECT_EQ(difference(sort(any).values, sort(topk(x, 20).indices).values), "");
}

TEST(CudaSort, MiddleOfRows) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16, DType::f64, DType::i32})
    for (const int64_t n : {257, 2048, 4096})
      for (const Kind kind : kinds)
        expect_cpu(d, text(t, n, kind), rows(3, n, t, kind), [](const Tensor& x) { return both(median(x, 1)); });
}

TEST(CudaSort, NanOfAnyBitsAreOne) {
  FLAME_NEEDS_GPU(d);
  constexpr uint32_t bits[] = {0xffc00000u, 0x7f800001u, 0x7fffffffu, 0x80000000u, 0u, 0xff800001u, 0xff800000u};
  std::vector<float> v(8400);
  for (size_t i = 0; i < v.size(); ++i) v[i] = std::bit_cast<float>(bits[i % std::size(bits)]);
  const Tensor x = Tensor::from(v, {2, 4200});
  for (const int64_t n : {200, 4096, 4200})
    for (const bool largest : {false, true})
      expect_cpu(d, text(DType::f32, n, Kind::mixed), x.narrow(1, 0, n), [=](const Tensor& y) {
        const auto a = sort(y, {.descending = largest}), b = topk(y, 5, {.largest = largest});
        const auto c = topk(y, 60, {.largest = largest});
        return Tensors{a.values, a.indices, b.values, b.indices, c.values, c.indices};
      });
}

TEST(CudaSort, RowsOfAnyStrides) {
  FLAME_NEEDS_GPU(d);
  const std::pair<const char*, std::function<Tensor(const Tensor&)>> looks[] = {
      {"every other",
       [](const Tensor& x) {
         return x.index({Slice{}, Slice{1, {}, 2}});
       }},
      {"columns", [](const Tensor& x) { return x.t(); }},
      {"from the second on", [](const Tensor& x) { return x.narrow(1, 1, 2047); }},
      {"one row for all",
       [](const Tensor& x) {
         return x.select(0, 0).expand({5, 2048});
       }},
      {"one element for all",
       [](const Tensor& x) {
         return x.narrow(1, 3, 1).expand({6, 2048});
       }},
      {"middle axis",
       [](const Tensor& x) {
         return x.reshape({2, 1024, 6}).transpose(1, 2);
       }},
      {"rows of one",
       [](const Tensor& x) {
         return x.reshape({-1, 1});
       }},
      {"one row of all", [](const Tensor& x) { return x.reshape({-1}); }},
  };
  const Tensor x = rows(6, 2048, DType::f32, Kind::mixed);
  for (const auto& [what, look] : looks) {
    const int64_t k = std::min<int64_t>(20, look(x).shape()[look(x).rank() - 1]);
    expect_cpu(d, what, x, [&look = look, k](const Tensor& y) {
      const auto s = sort(look(y)), t = topk(look(y), std::min<int64_t>(k, 6));
      return Tensors{s.values, s.indices, t.values, t.indices};
    });
    for (const int64_t axis : {0, -1})
      expect_cpu(d, what, x, [&look = look, axis](const Tensor& y) {
        return both(sort(look(y), {.axis = axis, .descending = true}));
      });
  }
}

// A block a line: sums and products to and fro, whose bits do not depend on how the line lies in memory.
TEST(CudaSort, RunningSumsOfWholeLines) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::f64, DType::bf16, DType::i64, DType::i32, DType::u8})
    for (const auto& [count, n] : {std::pair{3, 33}, {5, 700}, {4, 4096}, {3, 4099}, {130, 20'001}}) {
      const Tensor x = (rows(count, n, DType::f32, Kind::distinct) / 64).to(t), there = x.to(d);
      const double units = is_float(t) ? size_of(t) == 2 ? 64 : 8 : 0;
      const auto agrees = [&](const char* what, const Tensor& got, const Tensor& want) {
        const Deviation e = error_of(got, want);
        EXPECT_LE(e.units, units) << what << " " << name_of(t) << " " << n << ", element " << e.at << " " << e.text;
      };
      agrees("sum", cumsum(there, 1), cumsum(x, 1));
      if (!is_float(t)) agrees("product", cumprod(there, 1), cumprod(x, 1));
      if (is_float(t)) {
        const auto gradient = [](Tensor y) {
          y = y.detach().requires_grad_();
          return grad({cumsum(y, 1)}, {y}, {.grad_outputs = {y.detach()}})[0];
        };
        agrees("from the end", gradient(there), gradient(x));
      }
      const auto bits = [](const Tensor& y) { return cumsum(y, 1).to(cpu()); };
      const Tensor part = there.narrow(1, 1, n - 1), turned = there.t().contiguous().t();
      EXPECT_EQ(difference(bits(part), bits(part.contiguous())), "") << name_of(t) << " " << n;
      EXPECT_EQ(difference(bits(turned), bits(there)), "") << name_of(t) << " " << n;
      EXPECT_EQ(difference(bits(there), bits(there)), "");
    }
  for (const double special : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    const Tensor y = rows(3, 4096, DType::f32, Kind::distinct).set({1, Slice{700, {}, 900}}, special);
    EXPECT_LE(error_of(cumsum(y.to(d), 1), cumsum(y, 1)).units, 8);
    EXPECT_LE(error_of(cumprod(y.to(d) / 9e8, 1), cumprod(y / 9e8, 1)).units, 8);
  }
}

}  // namespace
}  // namespace flame
