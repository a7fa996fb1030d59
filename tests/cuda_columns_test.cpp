// Sums down columns on the GPU, alone, beside sums of rows, and with what follows them: bit for bit those of the CPU. Without a GPU
// all skip.
#include <gtest/gtest.h>

#include <flame/flame.h>

#include "flame/fuse/fusion.h"
#include "flame/fuse/island.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;
using Tensors = std::vector<Tensor>;

Tensor normal(const Shape& s, DType t = DType::f32, uint64_t seed = 5) {
  Generator g(seed);
  return randn(s, {.dtype = t, .generator = &g});
}

// Sums down columns at the ends of chunks, parts and groups, with what else a launch may hold.
TEST(CudaColumns, SumsHaveTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  const auto work = [](const Tensor& x) {
    const Tensor y = x * x;
    Tensors all{sum(x, Axes{1}), sum(y, Axes{1}), amax(x, Axes{1}), any(y > 4, Axes{1}), sum(x, Axes{0, 1}), y};
    for (const Tensor& t : all) t.data();
    return all;
  };
  for (const DType t : {DType::f32, DType::bf16, DType::f64, DType::i32})
    for (const int64_t rows : {0, 1, 31, 32, 33, 64, 255, 256, 257, 8191, 8193, 16'400})
      for (const int64_t columns : {8, 45, 64}) {
        if (rows > 1000 && (t == DType::f64 || columns == 64)) continue;
        if (rows == 0 && columns == 64) continue;
        const Tensor x = (normal({rows > 1000 ? 2 : 3, std::max<int64_t>(rows, 1), columns}) * 8).to(t);
        if (rows == 0) {
          EXPECT_EQ(difference(sum(x.slice(1, 0, 0).to(d), Axes{1}), sum(x.slice(1, 0, 0), Axes{1})), "");
          continue;
        }
        const Tensors here = work(x), there = work(x.to(d));
        for (size_t i = 0; i < here.size(); ++i)
          EXPECT_EQ(difference(there[i], here[i]), "")
              << name_of(t) << " " << rows << "x" << columns << " result " << i;
      }
  // More sums than shared memory has room for at a time, and draws that warps share.
  const Tensor x = normal({100, 96});
  const auto many = [](const Tensor& v) {
    Generator g(3);
    const GeneratorScope scope(g);
    Tensors all{sum(dropout(v, 0.3), 0)};
    for (int i = 0; i < 20; ++i) all.push_back(sum(v * i, 0));
    all[0].data();
    return all;
  };
  const Tensors here = many(x), there = many(x.to(d));
  for (size_t i = 0; i < here.size(); ++i) EXPECT_EQ(difference(there[i], here[i]), "") << i;
}

// Sums down columns share the launch of rows' sums, with the bits of op by op and of the CPU, whichever comes first.
TEST(CudaColumns, AreSummedBesideRows) {
  FLAME_NEEDS_GPU(d);
  struct Case {
    Shape shape;
    DType dtype;
    bool columns_first, fuses, whole = false;  // whole: and a sum along all but the last axis
  };
  const Case cases[] = {
      {{96, 200, 40}, DType::f32, true, true},         {{96, 200, 40}, DType::bf16, false, true},
      {{2, 12'353, 33}, DType::f32, true, true},       {{1, 24'400, 64}, DType::bf16, true, true},
      {{50, 2, 192, 12}, DType::f64, false, true},     {{96, 256, 32}, DType::i32, true, true},
      {{90, 256, 16}, DType::f32, true, false},        {{200, 130, 16}, DType::f32, false, false},
      {{96, 256, 40}, DType::f32, true, true, true},   {{3, 8192, 33}, DType::bf16, false, true, true},
      {{96, 200, 16}, DType::f32, false, false, true}, {{96, 200, 32}, DType::f32, false, true}};
  for (const Case& c : cases) {
    const int summed = c.shape.rank() - 2;
    Dims kept;
    for (int i = 0; i <= summed; ++i) kept.push_back(i);
    const int64_t begin = c.columns_first ? 8 : 1;
    Shape wide = c.shape;
    wide[summed + 1] += 8;  // rows that may be copied by 16 bytes, or do not begin there
    const auto made = [&](const Shape& s, uint64_t seed) { return (normal(s, DType::f32, seed) * 8).to(c.dtype); };
    Shape thin = Dims::filled(c.shape.rank(), 1);
    thin[0] = c.shape[0];
    thin[summed + 1] = c.shape[summed + 1];
    const Tensors in{made(c.shape, 2), made(c.shape, 3), made(wide, 4), made(thin, 5)};
    const auto work = [&](const Tensors& i) {
      const Tensor &dy = i[0], &x = i[1], y = i[2].slice(-1, begin, begin + c.shape[summed + 1]);
      const Tensor weighted = dy * i[3];
      Tensors columns;
      const auto sums = [&] { columns = {sum(dy * x, summed), sum(dy, summed), amax(y, summed)}; };
      if (c.columns_first) sums();
      const Tensor a = sum(weighted, Axes{-1}, true), b = sum(weighted * x, Axes{-1}, true);
      const Tensor dx = weighted - (a + x * b);
      const Tensor z = dx * y;
      if (!c.columns_first) sums();
      Tensors all{dx, a * 2, sum(z, summed) * 3, columns[0], columns[1], columns[2]};
      if (c.whole) all.push_back(sum(dx, kept) * 0.5);
      return all;
    };
    const auto run = [&](const Tensors& i) {
      const uint64_t before = stats().launches;
      const Tensors all = work(i);
      for (const Tensor& t : all) t.data();
      return std::pair(all, stats().launches - before);
    };
    Tensors there;
    for (const Tensor& x : in) there.push_back(x.to(d));
    const auto [fused, launches] = run(there);
    EXPECT_EQ(launches == 1, c.fuses) << to_string(c.shape) << " " << name_of(c.dtype) << ": " << launches;
    set_fusion(false);
    const Tensors alone = run(there).first;
    set_fusion(true);
    const Tensors here = run(in).first;
    for (size_t i = 0; i < fused.size(); ++i) {
      EXPECT_EQ(difference(fused[i], alone[i]), "") << to_string(c.shape) << " " << name_of(c.dtype) << " result " << i;
      EXPECT_EQ(difference(fused[i], here[i]), "") << to_string(c.shape) << " " << name_of(c.dtype) << " result " << i;
    }
  }
}

// Casts, numbers and lost axes behind a sum are part of its launch.
TEST(CudaColumns, WhatFollowsALongSumIsStoredWithIt) {
  FLAME_NEEDS_GPU(d);
  const auto work = [](const Tensor& x) {
    return Tensors{mean(x, 0).to(DType::bf16), sum(x * 2, 0), amax(x, 0, true)};
  };
  const auto whole = [](const Tensor& x) { return Tensors{mean(x), (sum(x) * 0.5).to(DType::f16), amax(x) - 1}; };
  for (const int64_t rows : {200, 5000})
    for (const auto& fn : {+work, +whole}) {
      const Tensor x = normal({rows, 40}), y = x.to(d);
      y.data();
      flush_pending();  // what tables of other tests hold since the program began
      const uint64_t before = stats().launches;
      const Tensors there = fn(y);
      for (const Tensor& t : there) t.data();
      EXPECT_EQ(stats().launches - before, 1u) << rows;
      const Tensors here = fn(x);
      for (size_t i = 0; i < here.size(); ++i) EXPECT_EQ(difference(there[i], here[i]), "") << rows << " result " << i;
    }
}

}  // namespace
}  // namespace flame
