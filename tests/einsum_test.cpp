// einsum against a plain sum over all labels, over many random equations; what is copied; and products of every dtype.
#include <gtest/gtest.h>

#include <map>

#include "flame/core/philox.h"
#include "flame/flame.h"
#include "tests/support/compare.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using namespace test;
using Numbers = std::vector<double>;

Tensor sample(const Shape& s, uint64_t seed, DType t = DType::f64) {
  Generator g(seed);
  return uniform(s, -1, 1, {.dtype = t, .generator = &g});
}

// The sum over every value of every letter, of the product of the operands' elements.
Tensor by_definition(const std::vector<std::string>& terms, const std::string& output, const std::vector<Tensor>& in) {
  std::map<char, int64_t> sizes;
  for (size_t k = 0; k < terms.size(); ++k)
    for (size_t i = 0; i < terms[k].size(); ++i) {
      int64_t& n = sizes[terms[k][i]];
      n = std::max(n, in[k].shape()[static_cast<int>(i)]);
    }
  std::string letters;
  std::vector<int64_t> extent;
  int64_t total = 1;
  for (const auto& [c, n] : sizes) {
    letters += c;
    extent.push_back(n);
    total *= n;
  }
  Shape shape;
  for (char c : output) shape.push_back(sizes[c]);
  Numbers out(static_cast<size_t>(numel(shape)));
  std::vector<Numbers> values;
  for (const Tensor& t : in) values.push_back(numbers(t));
  for (int64_t at = 0; at < total; ++at) {
    std::map<char, int64_t> index;
    int64_t rest = at;
    for (size_t i = letters.size(); i-- > 0; rest /= extent[i]) index[letters[i]] = rest % extent[i];
    const auto place = [&](const std::string& term, const Shape& s) {
      Dims d;
      for (size_t i = 0; i < term.size(); ++i) d.push_back(s[static_cast<int>(i)] == 1 ? 0 : index[term[i]]);
      return static_cast<size_t>(row_major(s, d));
    };
    double product = 1;
    for (size_t k = 0; k < terms.size(); ++k) product *= values[k][place(terms[k], in[k].shape())];
    out[place(output, shape)] += product;
  }
  return Tensor::from(out, shape);
}

// Random terms of one to four letters out of five, sizes from 1 to 3, some of them broadcast.
TEST(Einsum, RandomEquationsAgreeWithTheDefinition) {
  const int trials = quick() ? 100 : 600;
  uint32_t seed = 1;
  const auto pick = [&](uint32_t n) { return philox(11, seed++, 0)[0] % n; };
  for (int trial = 0; trial < trials; ++trial) {
    std::map<char, int64_t> sizes;
    for (char c : std::string("abcXY")) sizes[c] = 1 + pick(3);
    std::vector<std::string> terms(1 + pick(4));
    std::vector<Tensor> in;
    std::string seen, equation;
    for (std::string& term : terms) {
      Shape s;
      std::map<char, int64_t> own;
      for (uint32_t i = 0, n = pick(5); i < n; ++i) {
        const char c = "abcXY"[pick(5)];
        term += c;
        if (seen.find(c) == std::string::npos) seen += c;
        if (!own.contains(c)) own[c] = pick(4) == 0 ? 1 : sizes[c];
        s.push_back(own[c]);
      }
      in.push_back(sample(s, seed++));
      if (s.rank() > 1 && pick(2)) {
        Dims order;
        for (int i = s.rank() - 1; i >= 0; --i) order.push_back(i);
        in.back() = in.back().permute(order).contiguous().permute(order);
      }
      equation += (&term == &terms[0] ? "" : ",") + term;
    }
    std::string output;
    for (char c : seen)
      if (pick(2))
        output.insert(output.begin() + static_cast<std::ptrdiff_t>(pick(static_cast<uint32_t>(output.size() + 1))), c);
    equation += "->" + output;
    const Tensor got = einsum(equation, in), want = by_definition(terms, output, in);
    ASSERT_EQ(got.shape(), want.shape()) << equation;
    const Numbers g = numbers(got), w = numbers(want);
    for (size_t i = 0; i < g.size(); ++i) ASSERT_NEAR(g[i], w[i], 1e-11) << equation << " element " << i;
  }
}

TEST(Einsum, IsOneProductWithoutCopies) {
  const Tensor q = sample({2, 16, 4, 8}, 1, DType::f32), k = sample({2, 16, 4, 8}, 2, DType::f32);
  const Tensor a = sample({32, 48}, 3, DType::f32), b = sample({48, 16}, 4, DType::f32);
  const auto launches = [](const char* equation, const std::vector<Tensor>& in) {
    const uint64_t before = stats().launches;
    const Tensor y = einsum(equation, in);
    flush_pending();
    return stats().launches - before;
  };
  EXPECT_EQ(launches("ij,jk->ik", {a, b}), 1u);
  EXPECT_EQ(launches("ij,jk->ki", {a, b}), 1u);
  EXPECT_EQ(launches("ij,kj->ik", {a, sample({16, 48}, 5, DType::f32)}), 1u);
  EXPECT_EQ(launches("bqhd,bkhd->bhqk", {q, k}), 1u);
  EXPECT_EQ(launches("bqhd,hdm->bqm", {q, sample({4, 8, 5}, 6, DType::f32)}), 1u);
  EXPECT_EQ(launches("ij,ij->i", {a, a}), 1u);
  EXPECT_EQ(launches("ii->i", {sample({8, 8}, 7)}), 0u);
}

// (a b) c multiplies far less than a (b c) here, wherever it stands; the peak of memory shows which was made.
TEST(Einsum, TheCheapestPairIsContractedFirst) {
  const Tensor wide = sample({512, 2}, 1, DType::f32), tall = sample({2, 512}, 2, DType::f32),
               v = sample({512}, 3, DType::f32);
  const size_t before = memory_stats().allocated;
  reset_peak_memory();
  const Tensor y = einsum("ij,jk,k->i", {wide, tall, v});
  flush_pending();
  EXPECT_LT(memory_stats().peak - before, size_t{64} << 10);
  EXPECT_EQ(difference(y.to(DType::f64) * 0 + 1, ones({512}, DType::f64)), "");
}

TEST(Products, EveryNumberDType) {
  for (DType t : all_dtypes) {
    if (t == DType::boolean) continue;
    const Tensor a = Tensor::from(Numbers{1, 2, 3, 4}, {2, 2}).to(t), v = Tensor::from(Numbers{1, 2}, {2}).to(t);
    EXPECT_EQ(numbers(einsum("ij,jk->ik", {a, a})), (Numbers{7, 10, 15, 22})) << name_of(t);
    EXPECT_EQ(numbers(einsum("ij,ij->i", {a, a})), (Numbers{5, 25})) << name_of(t);
    EXPECT_EQ(einsum("ij->i", {a}).dtype(), t);
    EXPECT_EQ(numbers(outer(v, v)), (Numbers{1, 2, 2, 4})) << name_of(t);
    EXPECT_EQ(numbers(addmm(v, a, a)), (Numbers{8, 12, 16, 24})) << name_of(t);
    EXPECT_EQ(addmm(v, a, a, {.beta = 2, .alpha = 3}).dtype(), t);
    EXPECT_EQ(dot(v, v).item(), 5) << name_of(t);
    EXPECT_EQ(trace(a).item(), 5) << name_of(t);
  }
  const Tensor mask = Tensor::from(std::vector<bool>{true, false}, {2}), v = Tensor::from(Numbers{3, 5}, {2});
  EXPECT_EQ(einsum("i,j->", {mask, v}).item(), 8);
}

TEST(Products, AnIgnoredInputIsNotRead) {
  const Tensor a = ones({2, 2}, DType::f64);
  Tensor input = full({2, 2}, NAN, DType::f64).requires_grad_();
  const Tensor y = addmm(input, a, a, {.beta = 0});
  EXPECT_EQ(numbers(y), Numbers(4, 2.0));
  EXPECT_EQ(numbers(grad({sum(y)}, {input})[0]), Numbers(4, 0.0));
}

TEST(Products, DiagonalsAreViews) {
  const Tensor x = sample({4, 5}, 1);
  flush_pending();
  const uint64_t before = stats().launches;
  const Tensor d = diagonal(x, {.offset = 1});
  EXPECT_EQ(stats().launches, before);
  EXPECT_EQ(d.shape(), (Shape{4}));
  const Numbers all = numbers(x);
  EXPECT_EQ(numbers(d), (Numbers{all[1], all[7], all[13], all[19]}));
  EXPECT_EQ(difference(diagonal(diag_embed(x, {.offset = -2}), {.offset = -2, .axis1 = -2, .axis2 = -1}), x), "");
}

}  // namespace
}  // namespace flame
