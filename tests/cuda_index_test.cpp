// Indexing, scans, sorts and masks on the GPU against the CPU: bits where both go in one order, else within the rounding
// of a sum; the same bits in every run; and 10 million elements with their times.
#include <gtest/gtest.h>

#include <chrono>

#include <flame/flame.h>

#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"
#include "tests/support/error.h"

namespace flame {
namespace {

using namespace test;
using Tensors = std::vector<Tensor>;
using Work = std::function<Tensors(const Tensors&)>;

Tensors on(Device& d, const Tensors& in) {
  Tensors out;
  for (const Tensor& t : in) {  // of the same strides there
    const bool swapped = t.rank() == 2 && t.strides()[0] < t.strides()[1];
    out.push_back(swapped ? t.t().to(d).t() : t.to(d));
  }
  return out;
}
double ms_of(Device& d, const Work& work, const Tensors& in) {
  d.synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (const Tensor& t : work(in)) t.data();
  d.synchronize();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}
// Equal to the CPU's within `units` roundings (0: bits), and the same in three runs. Prints the third's time if named.
void expect_cpu(Device& d, const std::string& what, const Work& work, const Tensors& in, double units = 0,
                bool timed = false) {
  const Tensors there = on(d, in);
  const Tensors want = work(in), got = work(there);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (units == 0) EXPECT_EQ(difference(got[i], want[i]), "") << what << ", result " << i;
    else {
      const Deviation e = error_of(got[i], want[i]);
      EXPECT_LE(e.units, units) << what << ", result " << i << ", element " << e.at << " " << e.text;
    }
  }
  for (int run = 0; run < 2; ++run) {
    empty_cache(d);
    const Tensors again = work(there);
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_EQ(difference(again[i].to(cpu()), got[i].to(cpu())), "") << what << ", run " << run + 2;
  }
  if (timed) std::printf("cuda-time %-44s %9.3f ms\n", what.c_str(), ms_of(d, work, there));
}

Tensor index_below(int64_t n, const Shape& s, uint64_t seed = 3) {
  Generator g(seed);
  return randint(0, n, s, {.dtype = DType::i64, .generator = &g});
}
Tensor some(const Shape& s, DType t, uint64_t seed = 5) {
  Generator g(seed);
  return (randn(s, {.generator = &g}) * 8).to(t);
}

TEST(CudaIndex, ScattersAndGathersHaveTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::i8, DType::u8})
    for (const int axis : {0, 1})
      for (const bool swapped : {false, true}) {
        const std::string what =
            std::string(name_of(t)) + " axis " + std::to_string(axis) + (swapped ? " swapped" : "");
        Tensor x = some({41, 37}, t), src = some({41, 37}, t, 6), index = index_below(axis ? 37 : 41, {41, 37});
        if (swapped) x = some({37, 41}, t).t(), index = index_below(axis ? 37 : 41, {37, 41}).t();
        const auto with = [&](const char* op, auto fn) {
          expect_cpu(d, std::string(op) + " " + what,
                     [&](const Tensors& in) { return Tensors{fn(in[0], in[1], in[2])}; }, {x, index, src});
        };
        with("gather", [=](auto& x, auto& k, auto&) { return gather(x, axis, k); });
        with("scatter", [=](auto& x, auto& k, auto& s) { return scatter(x, axis, k, s); });
        with("scatter_add", [=](auto& x, auto& k, auto& s) { return scatter_add(x, axis, k, s); });
        with("index_select", [=](auto& x, auto& k, auto&) { return index_select(x, axis, k.select(1 - axis, 0)); });
        with("index_add", [=](auto& x, auto& k, auto& s) { return index_add(x, axis, k.select(1 - axis, 0), s); });
        with("index_copy", [=](auto& x, auto& k, auto& s) { return index_copy(x, axis, k.select(1 - axis, 0), s); });
        with("index", [=](auto& x, auto& k, auto&) {
          return x.index({remainder(k.select(1 - axis, 1), 37), remainder(k.select(1 - axis, 2), 37)});
        });
        for (const bool add : {false, true})
          with(add ? "set, accumulate" : "set", [=](auto& x, auto& k, auto& s) {
            return x.set({remainder(k.select(1 - axis, 1), 37) - 5, remainder(k.select(1 - axis, 2), 37)},
                         s.select(1 - axis, 0), {.accumulate = add});
          });
        for (const auto r : {ScatterReduce::sum, ScatterReduce::prod, ScatterReduce::amax, ScatterReduce::amin})
          with("scatter_reduce", [=](auto& x, auto& k, auto& s) { return scatter_reduce(x, axis, k, s, r); });
      }
}

TEST(CudaIndex, EmptyRaggedAndSparseOnes) {
  FLAME_NEEDS_GPU(d);
  const Tensor x = some({3, 1'000'000}, DType::f32), k = index_below(1'000'000, {3, 5}), s = some({3, 5}, DType::f32);
  const auto scatters = [](const Tensors& in) {  // few entries into many places
    return Tensors{scatter(in[0], 1, in[1], in[2]), scatter_add(in[0], 1, in[1], in[2])};
  };
  expect_cpu(d, "few entries", scatters, {x, k, s});
  expect_cpu(d, "no entries", scatters, {x, k.narrow(1, 0, 0), s.narrow(1, 0, 0)});
  expect_cpu(d, "part of the rows", scatters, {x, k.narrow(0, 1, 1), s});
  const auto masks = [](const Tensors& in) {
    return Tensors{nonzero(in[0] > 8), masked_select(in[0], in[0] > 8), unique((in[0] / 4).to(DType::i32)).counts};
  };
  for (const Shape& shape :
       {Shape{0}, Shape{1}, Shape{4095}, Shape{4096}, Shape{4097}, Shape{17, 0, 3}, Shape{9, 1000, 3}})
    expect_cpu(d, "masks " + to_string(shape), masks, {some(shape, DType::f32)});
}

TEST(CudaIndex, EmbeddingGradients) {
  FLAME_NEEDS_GPU(d);
  const auto gradient = [](const Tensors& in) {
    Tensor w = in[0].detach();
    w.requires_grad_();
    return grad({embedding(w, in[1], {.padding_idx = 2})}, {w}, {.grad_outputs = {in[2]}});
  };
  for (const DType t : {DType::f32, DType::bf16}) {
    expect_cpu(d, "few a row", gradient, {some({500, 64}, t), index_below(500, {8, 300}), some({8, 300, 64}, t)});
    expect_cpu(d, "odd width", gradient, {some({50, 7}, t), index_below(50, {300}), some({300, 7}, t)});
    // Rows that come thousands of times are summed up by runs: another order than the CPU's.
    expect_cpu(d, "thousands a row", gradient, {some({4, 64}, t), index_below(4, {20'000}), some({20'000, 64}, t)},
               t == DType::f32 ? 64 : 2);
  }
}

// Rows of which as many share a block as fit just below and just above what a block gets unasked, the smallest first: what a
// larger launch has asked for stays.
TEST(CudaIndex, RowsThatFillABlocksSharedMemory) {
  FLAME_NEEDS_GPU(d);
  const auto add = [](const Tensors& in) { return Tensors{scatter_add(in[0], 1, in[1], in[2])}; };
  for (const auto& [n, t] : {std::pair<int64_t, DType>{492, DType::f32},
                             {494, DType::f32},
                             {3960, DType::f32},
                             {374, DType::i64},
                             {998, DType::i64},
                             {4722, DType::bf16},
                             {5225, DType::u8}})
    expect_cpu(d, std::to_string(n), add, {some({3, n}, t), index_below(n, {3, n}), some({3, n}, t)});
}

// A sum starts at 0, so that no zero of it is negative.
TEST(CudaIndex, SumsOfNegativeZeros) {
  FLAME_NEEDS_GPU(d);
  const Tensor x = -zeros({2, 100}), y = -zeros({100, 3});
  for (const int64_t axis : {0, 1})
    expect_cpu(d, "cumsum",
               [axis](const Tensors& in) {
                 return Tensors{cumsum(in[0], axis), cumsum(in[1], axis)};
               },
               {x, y});
}

// Rows that a block keeps in shared memory.
TEST(CudaIndex, ShortRowsHaveTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  const auto all = [](const Tensor& x, const Tensor& k, const Tensor& s) {
    return Tensors{scatter(x, 1, k, s), scatter_add(x, 1, k, s), scatter_reduce(x, 1, k, s, ScatterReduce::amax),
                   gather(x, 1, k)};
  };
  using View = std::function<Tensors(const Tensor& x, const Tensor& k, const Tensor& s)>;
  for (const DType t : {DType::f32, DType::bf16, DType::f64, DType::i8}) {
    const Tensor x = some({7, 4096}, t), s = some({7, 4096}, t, 6), k = index_below(4096, {7, 4096});
    const auto expect = [&](const std::string& what, const Tensors& in, const View& view) {
      expect_cpu(
          d, what + " " + std::string(name_of(t)), [&](const Tensors& in) { return view(in[0], in[1], in[2]); }, in);
    };
    expect("random", {x, k, s}, all);
    for (const int64_t places : {1000, 60, 24})  // of 4, 68 and 170 entries
      expect("few places", {x, remainder(k, places), s}, all);
    expect("one place", {x, zeros({7, 200}, DType::i64), s}, all);
    expect("part of the rows", {x, k, s}, [&](auto& x, auto& k, auto& s) { return all(x, k.narrow(0, 2, 3), s); });
    expect("rows turned", {x, k, s}, [&](auto& x, auto& k, auto& s) { return all(x, flip(k, {0}), flip(s, {0})); });
    expect("ends turned", {x, k, s}, [&](auto& x, auto& k, auto& s) { return all(x, flip(k, {1}), flip(s, {1})); });
    expect("a number a row", {x, k, s}, [&](auto& x, auto& k, auto& s) {
      return all(x, k, s.narrow(1, 5, 1).expand({7, 4096}));
    });
    expect("x transposed", {some({4096, 7}, t).t(), k, s}, all);
    expect("several a block", {some({50, 65}, t), index_below(65, {50, 80}), some({50, 80}, t, 6)}, all);
    expect("too long a row", {some({2, 60'000}, t), index_below(60'000, {2, 30'000}), some({2, 30'000}, t, 6)}, all);
  }
  const Tensor x = some({3, 500}, DType::f32), s = some({3, 9000}, DType::f32, 6);
  const Tensor k = index_below(500, {3, 9000});
  const auto sum = [](const Tensors& in) { return Tensors{scatter_add(in[0], 1, in[1], in[2])}; };
  expect_cpu(d, "integers, thousands of one place", sum, {x.to(DType::i32), remainder(k, 3), s.to(DType::i32)});
  expect_cpu(d, "thousands of one place", sum, {x, remainder(k, 3), s}, 512);
  const auto rows = [](const Tensors& in) {
    const Tensor x = in[0].permute({1, 0, 2}), k = in[1].permute({1, 0, 2}), s = in[2].permute({1, 0, 2});
    return Tensors{scatter_add(x, -1, k, s), gather(x, -1, k), scatter(x, -1, k, 3.0)};
  };
  expect_cpu(
      d, "rows of three axes", rows,
      {some({4, 6, 100}, DType::f32).permute({1, 0, 2}), index_below(100, {6, 4, 300}), some({6, 4, 300}, DType::f32)});
}

// Slices of 256 bytes and more: a warp a place.
TEST(CudaIndex, WideSlicesHaveTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  const auto add = [](const Tensors& in) { return Tensors{index_add(in[0], 0, in[1], in[2])}; };
  for (const DType t : {DType::f32, DType::bf16, DType::i32}) {
    const Tensor k = index_below(90, {700});
    for (const int64_t width : {128, 136, 1000}) {
      const Tensor x = some({90, width}, t), s = some({700, width}, t, 6);
      expect_cpu(d, "slices", add, {x, k, s});
      for (const int64_t n : {0, 3}) expect_cpu(d, "few", add, {x, k.narrow(0, 0, n), s.narrow(0, 0, n)});
      expect_cpu(d, "one place", add, {x, zeros({200}, DType::i64), s.narrow(0, 0, 200)});
      expect_cpu(d, "x transposed", add, {some({width, 90}, t).t(), k, s});
      const auto views = [=](const Tensors& in) {
        return Tensors{index_add(in[0], 0, flip(in[1], {0}), flip(in[2], {0})),
                       index_add(in[0], 0, in[1], in[2].narrow(0, 9, 1).expand({700, width})),
                       index_add(in[0], 0, in[1], flip(in[2], {1}))};
      };
      expect_cpu(d, "views", views, {x, k, s});
    }
    const Tensor list = some({700 * 128 + 1}, t);
    expect_cpu(d, "begins within 16 bytes",
               [](const Tensors& in) {
                 const Tensor s = in[2].narrow(0, 1, in[2].numel() - 1).reshape({700, 128});
                 return Tensors{index_add(in[0], 0, in[1], s)};
               },
               {some({90, 128}, t), k, list});
    const auto inner = [](const Tensors& in) {
      const Tensor wide = in[1].unsqueeze(-1).expand({5, 40, 128});
      return Tensors{index_add(in[0], 1, in[1].select(0, 0), in[2]), scatter_add(in[0], 1, wide, in[2]),
                     scatter_add(in[0], 1, wide.narrow(0, 1, 2), in[2])};
    };
    expect_cpu(d, "an axis within", inner, {some({5, 30, 128}, t), index_below(30, {5, 40}), some({5, 40, 128}, t, 6)});
    const auto lists = [](const Tensors& in) {
      return Tensors{in[0].set({in[1], remainder(in[1], 7)}, in[2], {.accumulate = true})};
    };
    expect_cpu(d, "two lists", lists, {some({30, 7, 128}, t), index_below(30, {400}), some({400, 128}, t, 6)});
  }
}

TEST(CudaIndex, ScansAgree) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8})
    for (const Shape& s :
         {Shape{3, 5}, Shape{7, 2048}, Shape{2, 2049}, Shape{1, 300'001}, Shape{9000, 40}, Shape{0, 3}}) {
      const Tensor x = (some(s, DType::f32) / 8).to(t);
      const double units = is_float(t) ? (size_of(t) == 2 ? 64 : 8) : 0;
      for (const int axis : {0, 1}) {
        const std::string what = std::string(name_of(t)) + " " + to_string(s) + " axis " + std::to_string(axis);
        if (s[axis] == 0) continue;
        expect_cpu(
            d, "cumsum " + what, [=](auto& in) { return Tensors{cumsum(in[0], axis)}; }, {x}, units);
        if (!is_float(t) || s[axis] < 100)
          expect_cpu(
              d, "cumprod " + what, [=](auto& in) { return Tensors{cumprod(in[0], axis)}; }, {x}, units);
        if (is_float(t))  // the CPU adds 300,000 float64 numbers one after the other
          expect_cpu(
              d, "logcumsumexp " + what, [=](auto& in) { return Tensors{logcumsumexp(in[0], axis)}; }, {x},
              t == DType::f64 ? 32 : 8);
        expect_cpu(d, "cummax, cummin " + what,
                   [=](auto& in) {
                     const auto a = cummax(in[0], axis), b = cummin(in[0], axis);
                     return Tensors{a.values, a.indices, b.values, b.indices};
                   },
                   {x});
      }
    }
  // Gradients, whose scans run from the end; zeros, NaN and infinities among the elements.
  Tensor x = some({4, 5000}, DType::f32) / 16 + 1;
  const auto gradients = [](const Tensors& in) {
    Tensor a = in[0].detach();
    a.requires_grad_();
    return grad({cumsum(a, 1), cumprod(a / 2, 1), logcumsumexp(a, 1), cummax(a, 1).values}, {a},
                {.grad_outputs = Tensors(4, in[0])});
  };
  expect_cpu(d, "gradients", gradients, {x}, 64);
  for (const double special : {0.0, std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    const Tensor y = x.set({2, Slice{17, {}, 900}}, special);
    expect_cpu(
        d, "special",
        [](const Tensors& in) {
          const auto m = cummax(in[0], 1);
          return Tensors{cumsum(in[0], 1), logcumsumexp(in[0], 1), m.values, m.indices};
        },
        {y}, 8);
  }
}

TEST(CudaIndex, SortsHaveTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::i8, DType::u8})
    for (const Shape& s : {Shape{5, 2048}, Shape{3, 2049}, Shape{2, 70'001}, Shape{4097, 2}}) {
      Tensor x = some(s, t);  // with ties
      if (is_float(t)) x = x.set({1, Slice{5, {}, 700}}, std::nan("")).set({0, Slice{1, {}, 300}}, -0.0);
      for (const bool descending : {false, true})
        for (const int axis : {0, 1}) {
          const auto work = [=](const Tensors& in) {
            const auto a = sort(in[0], {.axis = axis, .descending = descending});
            const auto b = topk(in[0], 2, {.axis = axis, .largest = descending});
            const auto c = median(in[0], axis);
            return Tensors{a.values, a.indices, b.values, b.indices, c.values};
          };
          expect_cpu(d, std::string(name_of(t)) + " " + to_string(s), work, {x});
        }
    }
}

TEST(CudaIndex, TenMillionElements) {
  FLAME_NEEDS_GPU(d);
  const int64_t n = 10'000'000;
  const Tensor x = some({n}, DType::f32), zero = zeros({n}, DType::f32), whole = (x * 1000).to(DType::i32);
  const Tensor random = index_below(n, {n}), few = index_below(100, {n}), one = zeros({n}, DType::i64);
  const auto time = [&](const char* what, const Work& work, const Tensors& in, double units = 0) {
    expect_cpu(d, what, work, in, units, true);
  };
  time("gather, random", [](auto& in) { return Tensors{gather(in[0], 0, in[1])}; }, {x, random});
  time("scatter, random", [](auto& in) { return Tensors{scatter(in[0], 0, in[1], in[2])}; }, {zero, random, x});
  const auto add = [](auto& in) { return Tensors{scatter_add(in[0], 0, in[1], in[2])}; };
  time("scatter_add, random", add, {zero, random, x});
  time("scatter_add, 100 places, int32", add, {whole, few, whole});
  time("scatter_add, one place, int32", add, {whole, one, whole});
  time("scatter_add, 100 places", add, {zero, few, x}, 4096);
  time("index_put with accumulate", [](auto& in) { return Tensors{in[0].set({in[1]}, in[2], {.accumulate = true})}; },
       {zero, random, x});
  time("cumsum, int32", [](auto& in) { return Tensors{cumsum(in[0], 0)}; }, {whole});
  time(
      "cumsum", [](auto& in) { return Tensors{cumsum(in[0], 0)}; }, {x}, 8);
  time(
      "cumsum of rows of 1,000",
      [](auto& in) {
        return Tensors{cumsum(in[0].reshape({-1, 1000}), 1)};
      },
      {x}, 8);
  time(
      "cumsum of columns of 1,000",
      [](auto& in) {
        return Tensors{cumsum(in[0].reshape({1000, -1}), 0)};
      },
      {x}, 8);
  time("argmax, argmin", [](auto& in) { return Tensors{argmax(in[0]), argmin(in[0])}; }, {x});
  time("cummax", [](auto& in) { return Tensors{cummax(in[0], 0).indices}; }, {x});
  time("nonzero", [](auto& in) { return Tensors{nonzero(in[0] > 0)}; }, {x});
  time("masked_select", [](auto& in) { return Tensors{masked_select(in[0], in[0] > 0)}; }, {x});
  time("unique, int32",
       [](auto& in) {
         const Unique u = unique(in[0]);
         return Tensors{u.values, u.inverse, u.counts};
       },
       {whole});
  time("sort", [](auto& in) { return Tensors{sort(in[0]).values, sort(in[0]).indices}; }, {x});
  time("sort of rows of 100,000", [](auto& in) { return Tensors{sort(in[0].reshape({100, -1})).indices}; }, {x});
  time("sort of rows of 1,000", [](auto& in) { return Tensors{sort(in[0].reshape({-1, 1000})).indices}; }, {x});
  time("topk 50 of rows of 100,000", [](auto& in) { return Tensors{topk(in[0].reshape({100, -1}), 50).indices}; }, {x});
  time("one_hot", [](auto& in) { return Tensors{one_hot(in[0].narrow(0, 0, 100'000), 100)}; }, {few});
  const auto gradient = [](const Tensors& in) {
    Tensor w = in[0].detach();
    w.requires_grad_();
    return grad({embedding(w, in[1])}, {w}, {.grad_outputs = {in[2].reshape({-1, 500})}});
  };
  time("embedding backward, 20,000 of 50,000 x 500", gradient,
       {zeros({50'000, 500}), index_below(50'000, {20'000}), x});
}

// A bad index is treated harmlessly, thrown by the next wait with its op, and the device goes on.
TEST(CudaIndex, BadIndicesThrowAtTheNextWait) {
  FLAME_NEEDS_GPU(d);
  const Tensor x = some({5, 4}, DType::f32).to(d), low = Tensor::from(std::vector<int64_t>{0, 3, -1, 2}, {4}, d);
  const Tensor wide = Tensor::from(std::vector<int64_t>{0, 1, 9, 2}, {4}, d);
  const auto expect = [&](const char* text, const std::function<Tensor()>& fn) {
    const Tensor y = fn();  // nothing is thrown here
    y.data();
    const std::string m = message_of<IndexError>([&] { y.to_vector<float>(); });
    EXPECT_EQ(m.find(text), 0u) << m;
    EXPECT_NE(m.find("cuda_index_test.cpp"), std::string::npos) << m;
    EXPECT_NO_THROW(y.to_vector<float>()) << text;
    EXPECT_EQ((x + 1).sum().item() > -1e9, true);
  };
  const Tensor column = wide.unsqueeze(1).expand({4, 4}), src = some({4, 4}, DType::f32).to(d);
  expect("gather: index 9 is out of range for axis 0 of size 5", [&] { return gather(x, 0, column); });
  expect("gather: index 0 is out of range for axis 1 of size 0", [&] {
    return gather(x.narrow(1, 0, 0), 1, zeros({5, 64}, DType::i64, d));
  });
  expect("index_select: index -1 is out of range for axis 1 of size 4", [&] { return index_select(x, 1, low); });
  expect("embedding: index 9 is out of range for axis 0 of size 5", [&] { return embedding(x, wide); });
  expect("scatter: index 9 is out of range for axis 0 of size 5", [&] { return scatter(x, 0, column, src); });
  expect("scatter_add: index 9 is out of range for axis 0 of size 5", [&] { return scatter_add(x, 0, column, src); });
  expect("set: index 9 is out of range for axis 0 of size 5", [&] { return x.set({wide}, src); });
  expect("set: index 9 is out of range for axis 1 of size 4", [&] {
    return x.set({Slice{}, wide}, 1, {.accumulate = true});
  });
  expect("index: index 9 is out of range for axis 0 of size 5", [&] { return x.index({wide}); });
  expect("index_add: index -1 is out of range for axis 0 of size 5", [&] { return index_add(x, 0, low, src); });
  expect("one_hot: index 9 is out of range for axis 1 of size 5", [&] { return one_hot(wide, 5, DType::f32); });
  expect("cross_entropy: target 9 is out of range for 4 classes",
         [&] { return cross_entropy(x.narrow(0, 0, 4), wide, {.reduction = Reduction::none}); });
  expect("nll_loss: target -1 is out of range for 4 classes",
         [&] { return nll_loss(x.narrow(0, 0, 4), low, {.reduction = Reduction::none}); });
  // What is written is untouched, what is read is 0; the rest is right.
  const Tensor read = index_select(x, 0, wide);
  EXPECT_THROW(d.synchronize(), IndexError);
  EXPECT_EQ(difference(read.to(cpu()),
                       x.to(cpu()).index({Tensor::from(std::vector<int64_t>{0, 1, 0, 2}, {4})}).set({2}, 0.0)),
            "");
  const Tensor written = index_add(x, 0, wide, src);
  EXPECT_THROW(d.synchronize(), IndexError);
  EXPECT_EQ(
      difference(written.to(cpu()), index_add(x.to(cpu()), 0, Tensor::from(std::vector<int64_t>{0, 1, 2}, {3}),
                                              src.to(cpu()).index({Tensor::from(std::vector<int64_t>{0, 1, 3}, {3})}))),
      "");
  EXPECT_NO_THROW(d.synchronize());
}

}  // namespace
}  // namespace flame
