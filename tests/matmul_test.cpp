// Matrix products against plain loops in float64: every implementation, rank, dtype, layout; derivatives; errors.
#include <thread>

#include "flame/device/cpu/gemm.h"
#include "flame/device/cpu/services.h"
#include "flame/flame.h"
#include "tests/support/op_support.h"
#include "tests/support/plan_support.h"
#include "tests/support/forms.h"

namespace flame {
namespace {

using test::HostTensor;
using test::numbers;
using Inputs = std::vector<Tensor>;

Tensor noise(const Shape& s, uint64_t seed, DType t = DType::f64) {
  Generator g(seed);
  return uniform(s, -1, 1, {.dtype = DType::f64, .generator = &g}).to(t);
}
Tensor whole(const Shape& s, uint64_t seed, DType t) {
  Generator g(seed);
  return randint(0, 9, s, {.generator = &g}).to(t);
}

// ---- implementations ----

using Maker = Ref<Plan> (*)(const GemmProblem&);
struct Implementation {
  const char* name;
  Maker make;
};
const std::vector<Implementation>& implementations() {
  static const std::vector<Implementation> all{
      {"small", gemm_small},
      {"blocked", gemm_blocked},
#ifdef FLAME_WITH_ONEDNN
      {"onednn", gemm_onednn},
#endif
  };
  return all;
}

// A matrix (or batch) contiguous, transposed, or with every second column.
Meta laid_out(DType t, const Shape& s, int how) {
  const int last = s.rank() - 1;
  Shape wide = s;
  if (how == 1) std::swap(wide[last], wide[last - 1]);
  if (how == 2) wide[last] = 2 * wide[last] + 1;
  Meta m{t, s, contiguous_strides(wide)};
  if (how == 1) std::swap(m.strides[last], m.strides[last - 1]);
  if (how == 2) m.strides[last] = 2;
  return m;
}

int64_t place(const Meta& m, const Dims& batch, int64_t i, int64_t j) {
  const int rank = m.shape.rank();
  int64_t at = i * m.strides[rank - 2] + j * m.strides[rank - 1];
  for (int axis = 0; axis < rank - 2; ++axis)
    if (m.shape[axis] != 1) at += batch[axis + batch.rank() - (rank - 2)] * m.strides[axis];
  return at;
}

// Each element's error is bounded by (k + 2) roundings of the sum of magnitudes, and one of the result, which may be
// subnormal in float16.
void expect_product(const GemmDesc& d, const HostTensor& a, const HostTensor& b, const HostTensor& bias,
                    const HostTensor& c, const std::string& what) {
  const DType t = d.c.dtype;
  const int64_t k = d.a.shape.back();
  const double sum_unit = t == DType::f64 ? 0x1p-53
                          : is_float(t)   ? 0x1p-24
                                          : 0,
               unit = test::rounding(t), least = t == DType::f16 ? 0x1p-25 : 0;
  const std::vector<double> left = a.values(), right = b.values();
  size_t wrong = 0;
  test::each_index(d.c.shape, [&](const Dims& index) {
    const int rank = index.rank();
    Dims batch = index;
    batch.erase(rank - 1);
    batch.erase(rank - 2);
    const int64_t i = index[rank - 2], j = index[rank - 1];
    double sum = d.bias ? bias.at(j) : 0, size = std::abs(sum);
    const size_t row = static_cast<size_t>(place(d.a, batch, i, 0)),
                 column = static_cast<size_t>(place(d.b, batch, 0, j));
    const size_t along = static_cast<size_t>(d.a.strides.back()),
                 down = static_cast<size_t>(d.b.strides[d.b.shape.rank() - 2]);
    for (size_t p = 0; p < static_cast<size_t>(k); ++p) {
      const double v = left[row + p * along] * right[column + p * down];
      sum += v;
      size += std::abs(v);
    }
    const double error = std::abs(c.at(place(d.c, batch, i, j)) - sum);
    if (!(error <= static_cast<double>(k + 2) * sum_unit * size + std::max(unit * std::abs(sum), least))) ++wrong;
  });
  EXPECT_EQ(wrong, 0u) << what << " of " << numel(d.c.shape);
  EXPECT_TRUE(c.guards_hold()) << what;
}

GemmDesc random_product(std::mt19937_64& g, DType t) {
  const auto pick = [&](int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(g); };
  const bool big = pick(0, 12) == 0;
  const int64_t m = pick(0, big ? 110 : 20), n = pick(0, big ? 210 : 50), k = pick(0, big ? 300 : 40);
  Shape a, b, c;
  for (int64_t i = pick(0, big ? 1 : 3); i > 0; --i) {
    const int64_t size = pick(1, 3);
    c.push_back(size);
    a.push_back(pick(0, 2) ? size : 1);
    b.push_back(pick(0, 2) ? size : 1);
  }
  if (b.rank() > 0 && pick(0, 3) == 0) b.erase(0);
  for (Shape* s : {&a, &c}) s->push_back(m);
  a.push_back(k);
  b.push_back(k);
  for (Shape* s : {&b, &c}) s->push_back(n);
  const auto layout = [&] { return static_cast<int>(pick(0, 2)); };
  return {laid_out(t, a, layout()), laid_out(t, b, layout()), laid_out(t, c, pick(0, 4) ? 0 : layout()),
          pick(0, 1) == 1};
}

TEST(Gemm, EveryImplementationOnRandomProducts) {
  std::mt19937_64 g(1);
  std::map<std::string, int> taken;
  const int rounds = test::quick() ? 20 : test::full() ? 2000 : 120;
  for (int round = 0; round < rounds; ++round)
    for (DType t : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64}) {
      const GemmDesc d = random_product(g, t);
      HostTensor a(d.a), b(d.b), bias(contiguous_meta(t, {d.c.shape.back()}));
      for (HostTensor* x : {&a, &b, &bias}) x->randomize(g);
      const auto run = [&](const Ref<Plan>& plan, const std::string& name) {
        HostTensor c(d.c);
        if (d.bias) test::run_plan(*plan, {&a, &b, &bias, &c});
        else test::run_plan(*plan, {&a, &b, &c});
        expect_product(d, a, b, bias, c,
                       name + " " + std::string(name_of(t)) + " " + to_string(d.a.shape) + to_string(d.b.shape));
        ++taken[name];
      };
      run(cpu_gemm(d), "chosen");
      if (numel(d.c.shape) == 0) continue;
      for (const Implementation& i : implementations())
        if (Ref<Plan> plan = i.make(gemm_problem(d))) run(plan, i.name);
    }
  for (const Implementation& i : implementations()) EXPECT_GT(taken[i.name], rounds / 8) << i.name;
}

TEST(Gemm, TheOwnProductsBitsDoNotDependOnTheThreads) {
  const GemmDesc d{laid_out(DType::f32, {3, 130, 700}, 0), laid_out(DType::f32, {3, 700, 210}, 1),
                   laid_out(DType::f32, {3, 130, 210}, 0)};
  std::mt19937_64 g(2);
  HostTensor a(d.a), b(d.b);
  a.randomize(g);
  b.randomize(g);
  const int before = num_threads();
  std::vector<HostTensor> seen;
  for (int threads : {1, 2, 3, 5}) {
    set_num_threads(threads);
    seen.emplace_back(d.c);
    test::run_plan(*gemm_blocked(gemm_problem(d)), {&a, &b, &seen.back()});
  }
  set_num_threads(before);
  for (const HostTensor& s : seen) EXPECT_TRUE(s == seen[0]);
}

TEST(Gemm, OnePlanRunsOnTwoThreadsAtOnce) {
  for (int64_t size : {8, 90}) {
    const Meta m = contiguous_meta(DType::f32, {size, size});
    const GemmDesc d{m, m, m};
    const Ref<Plan> plan = cpu_gemm(d);
    std::mt19937_64 g(3);
    HostTensor a(m), b(m);
    a.randomize(g);
    b.randomize(g);
    std::vector<HostTensor> results(4, HostTensor(m));
    std::vector<std::thread> threads;
    for (HostTensor& c : results)
      threads.emplace_back([&] {
        for (int i = 0; i < 50; ++i) test::run_plan(*plan, {&a, &b, &c});
      });
    for (std::thread& t : threads) t.join();
    for (const HostTensor& c : results) expect_product(d, a, b, a, c, "threads");
  }
}

TEST(Gemm, BatchesThatShareAMatrixBecomeRows) {
  const auto problem = [](const Meta& a, const Meta& b, const Shape& c) {
    return gemm_problem({a, b, contiguous_meta(DType::f32, c)});
  };
  const Meta a = contiguous_meta(DType::f32, {2, 5, 3, 4});
  GemmProblem p = problem(a, contiguous_meta(DType::f32, {4, 6}), {2, 5, 3, 6});
  EXPECT_EQ(p.m, 30);
  EXPECT_TRUE(p.batch.empty());
  p = problem(a, contiguous_meta(DType::f32, {2, 5, 4, 6}), {2, 5, 3, 6});
  EXPECT_EQ(p.batch, (Shape{10}));
  p = problem(a, contiguous_meta(DType::f32, {5, 4, 6}), {2, 5, 3, 6});
  EXPECT_EQ(p.batch, (Shape{2, 5}));
  EXPECT_EQ(p.b.batch, (Strides{0, 24}));
}

TEST(Gemm, NothingFollowsASumOfProductsOrAWiderResult) {
  const auto refused = [](GemmDesc g, bool adds) {
    g.a = g.b = contiguous_meta(adds ? DType::f32 : DType::bf16, {8, 8});
    g.c = contiguous_meta(DType::f32, {8, 8});
    g.add = adds;
    EXPECT_THROW(gemm_problem(g), ValueError);
  };
  for (const bool adds : {true, false}) {
    refused({.activation = Activation::relu}, adds);
    refused({.activation = Activation::relu, .keep = true}, adds);
    refused({.slope = Activation::gelu_tanh}, adds);
    refused({.sums = true}, adds);
  }
  const Meta m = contiguous_meta(DType::bf16, {2, 8, 8}), wide = contiguous_meta(DType::f32, {2, 8, 8});
  EXPECT_TRUE(gemm_problem({.a = m, .b = m, .c = wide, .add = true}).add);
}

TEST(Gemm, DescriptionsThatDoNotFitAreRefused) {
  const auto of = [](const Shape& s) { return contiguous_meta(DType::f32, s); };
  EXPECT_MESSAGE(ShapeError, cpu_gemm({of({2, 3}), of({4, 5}), of({2, 5})}),
                 "gemm: shapes [2, 3] and [4, 5] do not give [2, 5]");
  EXPECT_THROW(cpu_gemm({of({2, 2, 3}), of({3, 5}), of({3, 2, 5})}), ShapeError);
  EXPECT_THROW(cpu_gemm({of({3}), of({3, 5}), of({1, 5})}), ShapeError);
  EXPECT_THROW(cpu_gemm({of({2, 3}), contiguous_meta(DType::f64, {3, 5}), of({2, 5})}), DTypeError);
}

// ---- matmul and linear ----

struct Shapes {
  Shape a, b;
};
const std::vector<Shapes>& rank_combinations() {
  static const std::vector<Shapes> all{{{3}, {3}},
                                       {{2, 3}, {3}},
                                       {{3}, {3, 4}},
                                       {{2, 3}, {3, 4}},
                                       {{5, 2, 3}, {3}},
                                       {{3}, {5, 3, 2}},
                                       {{5, 2, 3}, {3, 4}},
                                       {{2, 3}, {5, 3, 4}},
                                       {{5, 2, 3}, {5, 3, 4}},
                                       {{5, 1, 2, 3}, {4, 3, 2}},
                                       {{1, 2, 3}, {4, 3, 1}},
                                       {{2, 0, 2, 3}, {3, 2}},
                                       {{0, 3}, {3, 2}},
                                       {{2, 0}, {0, 3}},
                                       {{0}, {0}},
                                       {{1, 1}, {1, 1}}};
  return all;
}

// The product as PyTorch defines it, by loops over float64.
Tensor reference(const Tensor& a, const Tensor& b) {
  Shape s = a.shape(), t = b.shape();
  if (s.rank() == 1) s.insert(0, 1);
  if (t.rank() == 1) t.push_back(1);
  Shape batch_a = s, batch_b = t, out;
  for (int i = 0; i < 2; ++i) batch_a.erase(batch_a.rank() - 1), batch_b.erase(batch_b.rank() - 1);
  EXPECT_TRUE(broadcast_shapes(batch_a, batch_b, out));
  const int rank = out.rank() + 2;
  out.push_back(s[s.rank() - 2]);
  out.push_back(t.back());
  const std::vector<double> x = numbers(a), y = numbers(b);
  const auto pick = [&](const Shape& of, const Dims& i, int64_t row, int64_t column) {
    int64_t at = 0;
    for (int d = 0; d < of.rank() - 2; ++d) at = at * of[d] + (of[d] == 1 ? 0 : i[d + rank - of.rank()]);
    return static_cast<size_t>((at * of[of.rank() - 2] + row) * of.back() + column);
  };
  std::vector<double> z;
  test::each_index(out, [&](const Dims& i) {
    double sum = 0;
    for (int64_t p = 0; p < s.back(); ++p) sum += x[pick(s, i, i[rank - 2], p)] * y[pick(t, i, p, i[rank - 1])];
    z.push_back(sum);
  });
  Shape shape = out;
  if (b.rank() == 1) shape.erase(shape.rank() - 1);
  if (a.rank() == 1) shape.erase(shape.rank() - (b.rank() == 1 ? 1 : 2));
  return Tensor::from(z, shape);
}

TEST(MatMul, AllRanksDtypesAndLayouts) {
  for (const Shapes& s : rank_combinations())
    for (DType t : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8, DType::i8})
      for (test::Form f : test::all_forms)
        for (test::Form h : test::all_forms) {
          if (f != h && f != test::Form::dense && h != test::Form::dense) continue;
          const auto make = [&](const Shape& shape, uint64_t seed) {
            return is_float(t) ? noise(shape, seed, t) : whole(shape, seed, t);
          };
          const auto shaped = [&](const Tensor& x, test::Form form) { return x.numel() ? test::in_form(x, form) : x; };
          const Tensor a = shaped(make(s.a, 1), f), b = shaped(make(s.b, 2), h);
          const Tensor got = matmul(a, b), exact = reference(a, b);
          const Tensor want = is_float(t) ? exact : exact.to(t);  // integers wrap
          EXPECT_EQ(got.dtype(), t);
          ASSERT_EQ(got.shape(), want.shape());
          const test::Deviation e = test::error_of(numbers(got), numbers(want), t);
          EXPECT_LE(e.units, is_float(t) ? 4 : 0)
              << name_of(t) << to_string(s.a) << to_string(s.b) << test::name_of(f) << test::name_of(h) << e.text;
        }
}

TEST(MatMul, DtypesArePromoted) {
  EXPECT_EQ(matmul(noise({2, 3}, 1, DType::f16), noise({3, 2}, 2, DType::bf16)).dtype(), DType::f32);
  EXPECT_EQ(matmul(whole({2, 3}, 1, DType::i32), noise({3, 2}, 2, DType::f16)).dtype(), DType::f16);
  EXPECT_EQ(matmul(whole({2, 3}, 1, DType::boolean), whole({3}, 2, DType::u8)).dtype(), DType::u8);
}

TEST(MatMul, IntegersWrap) {
  const Tensor big = full({1, 2}, int64_t{1} << 62, DType::i64);
  EXPECT_EQ(matmul(big, full({2, 1}, 3, DType::i64)).to_vector<int64_t>(), (std::vector<int64_t>{int64_t{-1} << 63}));
  EXPECT_EQ(matmul(full({1, 2}, 200, DType::u8), full({2, 1}, 2, DType::u8)).to_vector<uint8_t>(),
            (std::vector<uint8_t>{32}));
  EXPECT_EQ(matmul(full({1, 2}, -100, DType::i8), full({2, 1}, 2, DType::i8)).to_vector<int8_t>(),
            (std::vector<int8_t>{112}));
}

TEST(MatMul, NanAndInfGoThrough) {
  constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (int64_t n : {1, 70}) {  // by the small loops, and by the library
    std::vector<float> a(static_cast<size_t>(4 * n), 1), b(static_cast<size_t>(n * 100), 0);
    a[0] = inf;                       // inf * 0
    a[static_cast<size_t>(n)] = nan;  // nan * 0
    const std::vector<float> c = matmul(Tensor::from(a, {4, n}), Tensor::from(b, {n, 100})).to_vector<float>();
    for (size_t j = 0; j < 100; ++j) {
      EXPECT_TRUE(std::isnan(c[j]) && std::isnan(c[100 + j])) << n;
      EXPECT_EQ(c[200 + j], 0);
    }
  }
}

TEST(MatMul, TransposedAndStridedInputsAreNotCopied) {
  const Tensor a = noise({90, 64}, 1, DType::f32).t(), b = noise({100, 90}, 2, DType::f32).t();
  const Tensor c = noise({90, 130}, 3, DType::f32).slice(1, 1, 130, 2);
  for (const Tensor& t : {a, b, c}) t.data();
  const Stats before = stats();
  matmul(a, b).data();
  EXPECT_EQ(stats().launches - before.launches, 1u);
  matmul(a, c).data();
  EXPECT_EQ(stats().launches - before.launches, 2u);
}

TEST(MatMul, DerivativesOfFirstAndSecondOrder) {
  const TensorFn fn = [](const Inputs& in) { return Inputs{matmul(in[0], in[1])}; };
  for (const Shapes& s : rank_combinations()) {
    const Tensor a = noise(s.a, 1), b = noise(s.b, 2);
    gradcheck(fn, {a, b});
    gradgradcheck(fn, {a, b});
  }
}

TEST(MatMul, ErrorsNameTheShapes) {
  const auto z = [](const Shape& s) { return zeros(s); };
  EXPECT_MESSAGE(ShapeError, matmul(z({2, 3}), z({4, 5})),
                 "matmul: inner sizes 3 and 4 differ (shapes [2, 3] and [4, 5])");
  EXPECT_MESSAGE(ShapeError, matmul(z({3}), z({4})), "matmul: inner sizes 3 and 4 differ (shapes [3] and [4])");
  EXPECT_MESSAGE(ShapeError, matmul(z({2, 2, 3}), z({3, 3, 4})),
                 "matmul: the batch axes of shapes [2, 2, 3] and [3, 3, 4] do not broadcast");
  EXPECT_MESSAGE(ShapeError, matmul(z({}), z({3})), "matmul: expected rank 1 or more, got shapes [] and [3]");
  EXPECT_MESSAGE(DTypeError, matmul(zeros({2, 2}, DType::boolean), zeros({2, 2}, DType::boolean)),
                 "matmul: expected numbers");
}

TEST(Linear, MatchesMatmulAndBias) {
  for (DType t : {DType::f64, DType::f32, DType::bf16, DType::f16})
    for (const Shape& x : {Shape{4}, Shape{3, 4}, Shape{2, 3, 4}, Shape{0, 4}, Shape{1, 1, 1, 4}, Shape{70, 4}})
      for (test::Form f : test::all_forms) {
        const Tensor a = test::in_form(noise(x, 1, t), f), w = test::in_form(noise({5, 4}, 2, t), f),
                     b = test::in_form(noise({5}, 3, t), f);
        Tensor want = reference(a, w.t());
        const Tensor plain = linear(a, w), with_bias = linear(a, w, b);
        EXPECT_LE(test::error_of(numbers(plain), numbers(want), t).units, 4);
        want = want + b.to(DType::f64);
        EXPECT_LE(test::error_of(numbers(with_bias), numbers(want), t).units, 4)
            << name_of(t) << to_string(x) << test::name_of(f);
        EXPECT_EQ(with_bias.shape(), want.shape());
        EXPECT_EQ(with_bias.dtype(), t);
      }
}

TEST(Linear, IsOneLaunch) {
  const Tensor x = noise({128, 70}, 1, DType::f32), w = noise({60, 70}, 2, DType::f32), b = noise({60}, 3, DType::f32);
  for (const Tensor& t : {x, w, b}) t.data();
  const Stats before = stats();
  linear(x, w, b).data();
  EXPECT_EQ(stats().launches - before.launches, 1u);
}

TEST(Linear, DerivativesOfFirstAndSecondOrder) {
  const TensorFn fn = [](const Inputs& in) { return Inputs{linear(in[0], in[1], in[2])}; };
  for (const Shape& x : {Shape{4}, Shape{3, 4}, Shape{2, 3, 4}, Shape{0, 4}}) {
    gradcheck(fn, {noise(x, 1), noise({2, 4}, 2), noise({2}, 3)});
    gradgradcheck(fn, {noise(x, 1), noise({2, 4}, 2), noise({2}, 3)});
  }
  const TensorFn plain = [](const Inputs& in) { return Inputs{linear(in[0], in[1])}; };
  gradcheck(plain, {noise({3, 4}, 1), noise({2, 4}, 2)});
}

TEST(Linear, ErrorsNameTheShapes) {
  EXPECT_MESSAGE(ShapeError, linear(zeros({2, 3}), zeros({5, 4})),
                 "linear: expected x [..., 4] for weight [5, 4], got [2, 3]");
  EXPECT_MESSAGE(ShapeError, linear(zeros({2, 4}), zeros({4})), "linear: expected a weight of rank 2, got [4]");
  EXPECT_MESSAGE(ShapeError, linear(zeros({2, 4}), zeros({5, 4}), zeros({4})),
                 "linear: expected a bias of shape [5], got [4]");
}

}  // namespace
}  // namespace flame
