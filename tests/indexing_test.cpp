// Indexing where the loops do not look: every dtype, repeated places on several threads, masks without host reads,
// recorded steps, and what stays as it was.
#include "flame/flame.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using test::counting;

Tensor indices(const std::vector<int64_t>& v, const Shape& s) { return Tensor::from(v, s); }
Tensor truths(const std::vector<bool>& v, const Shape& s) { return Tensor::from(v, s); }
template <class F>
void with_threads(F&& fn) {
  const int before = num_threads();
  for (int n : {1, 2, 3, 5}) {
    set_num_threads(n);
    fn(n);
  }
  set_num_threads(before);
}

TEST(Indexing, WritingLeavesTheOldValue) {
  const Tensor x = counting({2, 3});
  const Tensor y = x.set({1, Slice{0, 2}}, 9), z = x.set({Slice{}}, 5);
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{0, 1, 2, 9, 9, 5}));
  EXPECT_EQ(z.to_vector<float>(), std::vector<float>(6, 5));
  EXPECT_EQ(x.index({new_axis, ellipsis, -1}).shape(), (Shape{1, 2}));
  const std::vector<Index> at{0, Slice{{}, {}, -1}};
  EXPECT_EQ(x.index(at).to_vector<float>(), (std::vector<float>{2, 1, 0}));
}

TEST(Indexing, BasicEntriesGiveViews) {
  const Tensor x = counting({4, 5, 6});
  x.data();
  const uint64_t before = stats().launches;
  const Tensor y = x.index({1, Slice{0, 5, 2}, new_axis, Slice{{}, {}, -2}});
  EXPECT_EQ(y.value().storage, x.value().storage);
  EXPECT_EQ(y.strides()[0], 12);
  EXPECT_EQ(y.strides()[2], -2);
  EXPECT_EQ(stats().launches, before);
}

TEST(Indexing, EveryDtypeMovesItsValues) {
  const Tensor x = counting({3, 4}) - 5, v = counting({2, 4}) + 2;
  const Tensor rows = indices({2, 0}, {2}), mask = truths({true, false, true}, {3});
  const Tensor each = indices({2, 0, 1, 2, 0, 1, 2, 0}, {2, 4});
  using Call = std::function<Tensor(const Tensor&, const Tensor&)>;
  const std::pair<const char*, Call> calls[] = {
      {"index",
       [&](const Tensor& a, const Tensor&) {
         return a.index({rows, Slice{1, {}}});
       }},
      {"set", [&](const Tensor& a, const Tensor& b) { return a.set({rows}, b); }},
      {"set a slice",
       [&](const Tensor& a, const Tensor& b) {
         return a.set({Slice{0, 2}}, b);
       }},
      {"set by mask", [&](const Tensor& a, const Tensor& b) { return a.set({mask}, b); }},
      {"add", [&](const Tensor& a, const Tensor& b) { return a.set({rows}, b, {.accumulate = true}); }},
      {"masked_select", [&](const Tensor& a, const Tensor&) { return masked_select(a, mask.unsqueeze(1)); }},
      {"masked_fill", [&](const Tensor& a, const Tensor&) { return masked_fill(a, mask.unsqueeze(1), 3); }},
      {"gather", [&](const Tensor& a, const Tensor&) { return gather(a, 0, each); }},
      {"scatter", [&](const Tensor& a, const Tensor& b) { return scatter(a, 0, each, b); }},
      {"scatter_add", [&](const Tensor& a, const Tensor& b) { return scatter_add(a, 0, each, b); }},
      {"prod", [&](const Tensor& a, const Tensor& b) { return scatter_reduce(a, 0, each, b, ScatterReduce::prod); }},
      {"amax", [&](const Tensor& a, const Tensor& b) { return scatter_reduce(a, 0, each, b, ScatterReduce::amax); }},
      {"amin",
       [&](const Tensor& a, const Tensor& b) {
         return scatter_reduce(a, 0, each, b, ScatterReduce::amin, {.include_self = false});
       }},
      {"index_add", [&](const Tensor& a, const Tensor& b) { return index_add(a, 0, rows, b, {.alpha = 2}); }},
      {"index_copy", [&](const Tensor& a, const Tensor& b) { return index_copy(a, 0, rows, b); }},
      {"index_fill", [&](const Tensor& a, const Tensor&) { return index_fill(a, 0, rows, 3); }},
  };
  for (const auto& [name, fn] : calls)
    for (DType t : all_dtypes) {
      const std::string op = name;
      const bool computes =
          op == "add" || op == "scatter_add" || op == "prod" || op == "amax" || op == "amin" || op == "index_add";
      if (computes && t == DType::boolean) continue;
      const Tensor y = fn(x.to(t), v.to(t));
      EXPECT_EQ(y.dtype(), t) << name;
      // Wrapped as uint8 does where the float64 result leaves its range.
      const Tensor want = fn(x.to(t).to(DType::f64), v.to(t).to(DType::f64)).to(DType::i64).to(t);
      EXPECT_EQ(y.to(DType::f64).to_vector<double>(), want.to(DType::f64).to_vector<double>())
          << name << " of " << name_of(t);
    }
}

TEST(Indexing, ManyRepeatedPlacesAddUpTheSameOnEveryThreadCount) {
  constexpr int64_t n = 60000;
  Generator g(4);
  const Tensor narrow = randn({n}, {.generator = &g}), wide = randn({n / 20, 50}, {.generator = &g});
  const Tensor at = randint(0, 37, {n}, {.generator = &g}), rows = at.narrow(0, 0, n / 20);
  const std::vector<float> v = narrow.to_vector<float>(), w = wide.to_vector<float>();
  const std::vector<int64_t> k = at.to_vector<int64_t>();
  std::vector<float> sums(37, 1), row_sums(37 * 50, 1);  // in the order of the index, in float32
  for (size_t i = 0; i < v.size(); ++i) sums[static_cast<size_t>(k[i])] += v[i];
  for (size_t i = 0; i < w.size(); ++i) row_sums[static_cast<size_t>(k[i / 50]) * 50 + i % 50] += w[i];
  with_threads([&](int threads) {
    const Tensor one = ones({37}), ones50 = ones({37, 50});
    EXPECT_EQ(one.set({at}, narrow, {.accumulate = true}).to_vector<float>(), sums) << threads;
    EXPECT_EQ(index_add(one, 0, at, narrow).to_vector<float>(), sums) << threads;
    EXPECT_EQ(scatter_add(one, 0, at, narrow).to_vector<float>(), sums) << threads;
    EXPECT_EQ(ones50.set({rows}, wide, {.accumulate = true}).to_vector<float>(), row_sums) << threads;
    EXPECT_EQ(index_add(ones50.t(), 1, rows, wide.t()).t().to_vector<float>(), row_sums) << threads;
    EXPECT_EQ(scatter_add(ones50, 0, rows.unsqueeze(1).expand({n / 20, 50}), wide).to_vector<float>(), row_sums);
    Tensor table = zeros({37, 50});
    table.requires_grad_();
    backward(embedding(table, rows), {.gradient = wide});
    std::vector<float> from_zero(37 * 50, 0);
    for (size_t i = 0; i < w.size(); ++i) from_zero[static_cast<size_t>(k[i / 50]) * 50 + i % 50] += w[i];
    EXPECT_EQ(table.grad().to_vector<float>(), from_zero) << threads;
  });
}

TEST(Indexing, TheLastAssignmentStaysOnEveryThreadCountAndGetsTheGradient) {
  constexpr int64_t n = 50000;
  Generator g(4);
  const Tensor at = randint(0, 999, {n}, {.generator = &g}), values = counting({n});
  std::vector<float> last(999, -1), wanted(static_cast<size_t>(n), 0);
  const std::vector<int64_t> k = at.to_vector<int64_t>();
  for (size_t i = 0; i < k.size(); ++i) last[static_cast<size_t>(k[i])] = static_cast<float>(i);
  for (float i : last)
    if (i >= 0) wanted[static_cast<size_t>(i)] = 1;
  with_threads([&](int) {
    Tensor a = values.detach(), b = values.detach();
    a.requires_grad_();
    b.requires_grad_();
    const Tensor x = full({999}, -1), y = x.set({at}, a), z = scatter(x, 0, at, b);
    EXPECT_EQ(y.to_vector<float>(), last);
    EXPECT_EQ(z.to_vector<float>(), last);
    backward(y.sum() + z.sum());
    EXPECT_EQ(a.grad().to_vector<float>(), wanted);
    EXPECT_EQ(b.grad().to_vector<float>(), wanted);
  });
}

TEST(Indexing, SumsOf16BitNumbersAreKeptInFloat32) {
  const Tensor at = zeros({4096}, DType::i64);
  for (DType t : {DType::f16, DType::bf16}) {
    const Tensor x = zeros({1}, t), v = ones({4096}, t);
    EXPECT_EQ(x.set({at}, v, {.accumulate = true}).item(), 4096);
    EXPECT_EQ(scatter_add(x, 0, at, v).item(), 4096);
    EXPECT_EQ(index_add(x, 0, at, v).item(), 4096);
    Tensor w = zeros({1, 1}, t);
    w.requires_grad_();
    backward(embedding(w, at).to(DType::f32).sum());
    EXPECT_EQ(w.grad().item(), 4096);
    Tensor s = zeros({1}, t);
    s.requires_grad_();
    backward(s.index({at}).to(DType::f32).sum());
    EXPECT_EQ(s.grad().item(), 4096);
  }
}

TEST(Indexing, ScatteredMeansAndProductsAreRoundedOnce) {
  const Tensor at = zeros({300}, DType::i64), many = counting({300}) / 7 + 1;
  for (DType t : {DType::f16, DType::bf16}) {
    EXPECT_EQ(scatter_reduce(full({1}, 40000, DType::f16), 0, at.narrow(0, 0, 1), full({1}, 40000, DType::f16),
                             ScatterReduce::mean)
                  .item(),
              40000);  // their sum is more than the largest float16
    const Tensor x = full({1}, 3, t), src = many.to(t);
    const auto mean = [&](DType as) { return scatter_reduce(x.to(as), 0, at, src.to(as), ScatterReduce::mean).to(t); };
    EXPECT_EQ(mean(t).item(), mean(DType::f32).item());
    const auto slopes = [&](DType as) {
      Tensor s = (src.narrow(0, 0, 3)).detach().requires_grad_();
      return grad({scatter_reduce(x.to(as), 0, at.narrow(0, 0, 3), s.to(as), ScatterReduce::prod).sum()}, {s})[0];
    };
    EXPECT_EQ(slopes(t).to(DType::f32).to_vector<float>(), slopes(DType::f32).to(DType::f32).to_vector<float>());
  }
}

TEST(Indexing, ScatteredProductsDifferentiateTwiceThroughZeros) {
  // Places 0 to 4: no zero; one in src; one in x; one in both; two in src. One more in 5: three in src.
  const Tensor at = indices({0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5}, {14});
  const std::vector<double> x{2, 3, 0, 0, 1.5, 2}, src{2, 3, 0, 5, 2, 0.5, 0, 4, 0, 0, 3, 0, 0, 0};
  const TensorFn fn = [&](const std::vector<Tensor>& in) {
    return std::vector<Tensor>{scatter_reduce(in[0], 0, at, in[1], ScatterReduce::prod)};
  };
  gradcheck(fn, {Tensor::from(x, {6}), Tensor::from(src, {14})});
  gradgradcheck(fn, {Tensor::from(x, {6}), Tensor::from(src, {14})});
  // d2 (x a b c) / da db = x c, where a and b are 0.
  Tensor s = Tensor::from(src, {14}).requires_grad_();
  const Tensor y = scatter_reduce(Tensor::from(x, {6}), 0, at, s, ScatterReduce::prod);
  const Tensor first = grad({y.select(0, 4)}, {s}, {.create_graph = true})[0];
  EXPECT_EQ(first.detach().to_vector<double>(), std::vector<double>(14, 0));
  EXPECT_EQ(grad({first.select(0, 8)}, {s})[0].narrow(0, 8, 3).to_vector<double>(), (std::vector<double>{0, 4.5, 0}));
}

TEST(Indexing, ScatterReduceSavesItsIndexThroughHooks) {
  for (const ScatterReduce how : {ScatterReduce::prod, ScatterReduce::amax, ScatterReduce::mean}) {
    int indices_packed = 0;
    Tensor x = ones({3}, DType::f64).requires_grad_(), y;
    {
      const SavedTensorHooksScope scope({[&](const Tensor& t) {
                                           indices_packed += t.dtype() == DType::i64;
                                           return std::any(t);
                                         },
                                         [](const std::any& a) { return std::any_cast<Tensor>(a); }});
      y = scatter_reduce(x, 0, indices({0, 2, 0}, {3}), x * 2, how);
    }
    EXPECT_EQ(indices_packed, 1);
    backward(sum(y));
  }
}

TEST(Indexing, SettingByAMaskReadsNothingOnTheHostUnlessTheCountMatters) {
  const Tensor x = counting({3, 4}), mask = truths({true, false, true}, {3});
  const Tensor columns = truths({true, false, false, true}, {4}), row = counting({4}), column = counting({3, 1}),
               rows = counting({2, 4});
  const uint64_t before = stats().host_copies;
  const Tensor a = x.set({mask}, 7), b = x.set({mask}, row), c = x.set({x > 5}, -1.5),
               d = x.set({Slice{}, columns}, column, {.accumulate = true});
  flush_pending();
  EXPECT_EQ(stats().host_copies, before);
  EXPECT_EQ(a.to_vector<float>(), (std::vector<float>{7, 7, 7, 7, 4, 5, 6, 7, 7, 7, 7, 7}));
  EXPECT_EQ(b.to_vector<float>(), (std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3}));
  EXPECT_EQ(c.to_vector<float>(), (std::vector<float>{0, 1, 2, 3, 4, 5, -1.5, -1.5, -1.5, -1.5, -1.5, -1.5}));
  EXPECT_EQ(d.to_vector<float>(), (std::vector<float>{0, 1, 2, 3, 5, 5, 6, 8, 10, 9, 10, 13}));
  const uint64_t counted = stats().host_copies;
  EXPECT_EQ(x.set({mask}, rows).to_vector<float>()[8], 4);
  EXPECT_EQ(stats().host_copies, counted + 2) << "the count, and this test's own read";
}

TEST(Indexing, RecordedStepsReplayAndRefuseWhatDependsOnValues) {
  const auto step = record([](const Tensor& x, const Tensor& rows, const Tensor& mask) {
    const Tensor y = x.index({rows, Slice{1, 3}}) * 2;
    return index_add(x.set({rows, 0}, y.index({Slice{}, 0})).set({mask}, -1), 0, rows, pad(y, {1, 1}));
  });
  for (int64_t i = 0; i < 6; ++i) {
    const Tensor x = counting({4, 4}) + i, rows = indices({i % 4, (i + 1) % 4}, {2});
    const Tensor mask = eq(arange(4), i % 4);
    const auto eager = [&] {
      const Tensor y = x.index({rows, Slice{1, 3}}) * 2;
      return index_add(x.set({rows, 0}, y.index({Slice{}, 0})).set({mask}, -1), 0, rows, pad(y, {1, 1}));
    };
    EXPECT_EQ(step(x, rows, mask).to_vector<float>(), eager().to_vector<float>()) << i;
  }
  EXPECT_GT(step.stats().replays, 0u);
  EXPECT_MESSAGE(IndexError, step(counting({4, 4}), indices({4, 0}, {2}), truths({true, true, true, true}, {4})),
                 "index: index 4 is out of range for axis 0 of size 4");
  using Call = std::function<Tensor(const Tensor&)>;
  const std::pair<const char*, Call> refused[] = {
      {"nonzero", [](const Tensor& x) { return nonzero(x); }},
      {"masked_select", [](const Tensor& x) { return masked_select(x, x > 1); }},
      {"index", [](const Tensor& x) { return x.index({x > 1}); }},
      {"set", [](const Tensor& x) { return x.set({x > 1}, ones({2})); }},
  };
  for (const auto& [name, fn] : refused) {
    const auto bad = record([fn = fn](const Tensor& x) { return fn(x); });
    EXPECT_MESSAGE(RecordError, for (int i = 0; i < 4; ++i) bad(counting({4})),
                   std::string(name) + ": the shape of its result depends on values");
  }
}

TEST(Indexing, PaddingRowGetsNoGradient) {
  Tensor w = counting<double>({4, 2});
  w.requires_grad_();
  const Tensor index = indices({1, 3, 1, 0}, {2, 2});
  const Tensor y = embedding(w, index, {.padding_idx = 1});
  EXPECT_EQ(y.to_vector<double>(), (std::vector<double>{2, 3, 6, 7, 2, 3, 0, 1}));
  const Tensor g = grad({square(y).sum()}, {w}, {.create_graph = true})[0];
  EXPECT_EQ(g.to_vector<double>(), (std::vector<double>{0, 2, 0, 0, 0, 0, 12, 14}));
  EXPECT_EQ(grad({g.sum()}, {w})[0].to_vector<double>(), (std::vector<double>{2, 2, 0, 0, 0, 0, 2, 2}));
}

TEST(Indexing, GradientsReachTensorAndValue) {
  Tensor x = counting({2, 3}), v = counting({2});
  x.requires_grad_();
  v.requires_grad_();
  const Tensor weight = counting({2, 3}) + 1;
  backward((x.set({Slice{}, 1}, v) * weight).sum());
  EXPECT_EQ(x.grad().to_vector<float>(), (std::vector<float>{1, 0, 3, 4, 0, 6}));
  EXPECT_EQ(v.grad().to_vector<float>(), (std::vector<float>{2, 5}));
  Tensor y = counting({3});
  y.requires_grad_();
  backward(y.set({ellipsis}, 0).sum());
  EXPECT_EQ(y.grad().to_vector<float>(), (std::vector<float>{0, 0, 0}));
}

TEST(Indexing, LargeNonzeroIsInOrder) {
  Generator g(2);
  const Tensor mask = bernoulli({70, 1000}, 0.3, {.generator = &g});
  const std::vector<bool> m = mask.to_vector<bool>();
  std::vector<int64_t> expected;
  for (size_t i = 0; i < m.size(); ++i)
    if (m[i]) {
      expected.push_back(static_cast<int64_t>(i / 1000));
      expected.push_back(static_cast<int64_t>(i % 1000));
    }
  with_threads([&](int) { EXPECT_EQ(nonzero(mask).to_vector<int64_t>(), expected); });
  const Tensor x = randn({70, 1000}, {.generator = &g});
  EXPECT_EQ(masked_select(x, mask).to_vector<float>(), x.index({mask}).to_vector<float>());
}

TEST(Indexing, NothingIsAllocatedOnceAnIndexWasBad) {
  const Tensor x = counting({1000, 10});
  x.data();
  const Tensor bad = indices({0, 1000}, {2});
  const size_t before = memory_stats().allocated;
  EXPECT_THROW(x.index({bad}), IndexError);
  EXPECT_THROW(x.set({bad}, 1), IndexError);
  EXPECT_THROW(index_add(x, 0, bad, ones({2, 10})), IndexError);
  EXPECT_THROW(scatter(x, 0, bad.unsqueeze(1), 1), IndexError);
  EXPECT_EQ(memory_stats().allocated, before);
  EXPECT_EQ(x.to_vector<float>()[9999], 9999);
}

}  // namespace
}  // namespace flame
