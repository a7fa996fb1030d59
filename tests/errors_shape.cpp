// Mistakes of views, of joining and splitting, and of ops that make tensors.
#include <cmath>

#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

Tensor x() { return full({2, 3}, 0.5); }

const AddErrors views([] {
  const std::pair<const char*, std::function<Tensor(const Tensor&)>> calls[] = {
      {"reshape", [](const Tensor& t) { return t.reshape({6}); }},
      {"flatten", [](const Tensor& t) { return t.flatten(); }},
      {"permute",
       [](const Tensor& t) {
         return t.permute({1, 0});
       }},
      {"transpose", [](const Tensor& t) { return t.transpose(0, 1); }},
      {"expand",
       [](const Tensor& t) {
         return t.expand({4, 2, 3});
       }},
      {"unsqueeze", [](const Tensor& t) { return t.unsqueeze(0); }},
      {"squeeze", [](const Tensor& t) { return t.squeeze(0); }},
      {"narrow", [](const Tensor& t) { return t.narrow(0, 0, 1); }},
      {"slice", [](const Tensor& t) { return t.slice(0, 0, 1); }},
      {"select", [](const Tensor& t) { return t.select(0, 0); }},
      {"flip", [](const Tensor& t) { return flip(t, {0}); }},
      {"movedim", [](const Tensor& t) { return movedim(t, 0, 1); }},
      {"contiguous", [](const Tensor& t) { return t.contiguous(); }},
      {"slice_scatter",
       [](const Tensor& t) {
         return slice_scatter(t, {4, 3}, 0, 0, 1);
       }},
      {"to", [](const Tensor& t) { return t.to(DType::f64); }},
      {"to", [](const Tensor& t) { return t.to(cpu()); }}};
  for (const auto& [name, fn] : calls)
    expect_error<ValueError>(name, Mistake::option, std::string(name) + ": expected a defined tensor",
                             [fn = fn] { fn(Tensor()); });
  const std::pair<const char*, std::function<void(int64_t)>> along[] = {
      {"flatten", [](int64_t axis) { x().flatten(axis, axis); }},
      {"flatten", [](int64_t axis) { x().flatten(0, axis); }},
      {"transpose", [](int64_t axis) { x().transpose(axis, 0); }},
      {"transpose", [](int64_t axis) { x().transpose(0, axis); }},
      {"permute",
       [](int64_t axis) {
         x().permute({0, axis});
       }},
      {"squeeze", [](int64_t axis) { x().squeeze(axis); }},
      {"narrow", [](int64_t axis) { x().narrow(axis, 0, 1); }},
      {"slice", [](int64_t axis) { x().slice(axis, 0, 1); }},
      {"select", [](int64_t axis) { x().select(axis, 0); }},
      {"flip", [](int64_t axis) { flip(x(), {axis}); }},
      {"movedim", [](int64_t axis) { movedim(x(), axis, 0); }},
      {"movedim", [](int64_t axis) { movedim(x(), 0, axis); }},
      {"slice_scatter", [](int64_t axis) {
         slice_scatter(x(), {2, 3}, axis, 0, 1);
       }}};
  for (const auto& [name, fn] : along)
    for (int64_t axis : {2, -3})
      expect_error<IndexError>(name, Mistake::axis, "axis " + std::to_string(axis) + " is out of range for rank 2",
                               [fn = fn, axis] { fn(axis); });
  for (int64_t axis : {3, -4})
    expect_error<IndexError>("unsqueeze", Mistake::axis, "axis " + std::to_string(axis),
                             [axis] { x().unsqueeze(axis); });
  for (int64_t axis : {1, -2})
    expect_error<IndexError>("flatten", Mistake::axis, "axis " + std::to_string(axis),
                             [axis] { full({}, 1).flatten(axis); });
  expect_error<ShapeError>("unsqueeze", Mistake::rank, "rank 7 at most", [] {
    full({1, 1, 1, 1, 1, 1, 1, 1}, 1).unsqueeze(0);
  });

  expect_error<ShapeError>("reshape", Mistake::shape, "[2, 3] has 6 elements, [4, 2] has 8", [] {
    x().reshape({4, 2});
  });
  expect_error<ShapeError>("reshape", Mistake::shape, "whose known sizes make 4", [] { x().reshape({-1, 4}); });
  expect_error<ShapeError>("reshape", Mistake::option, "at most one -1", [] { x().reshape({-1, -1}); });
  expect_error<ShapeError>("reshape", Mistake::option, "sizes of 0 or more", [] { x().reshape({-2, 3}); });
  expect_error<ShapeError>("reshape", Mistake::empty, "[-1, 0]", [] { full({0, 3}, 1).reshape({-1, 0}); });
  expect_error<ShapeError>("reshape", Mistake::rank, "[] has 1", [] { x().reshape({}); });
  expect_error<ShapeError>("flatten", Mistake::option, "from <= to", [] { x().flatten(1, 0); });
  expect_error<ShapeError>("permute", Mistake::rank, "expected 2 axes", [] { x().permute({0}); });
  expect_error<ShapeError>("permute", Mistake::rank, "expected 2 axes", [] { x().permute({0, 1, 2}); });
  expect_error<IndexError>("permute", Mistake::axis, "axis 1 comes twice", [] { x().permute({1, -1}); });
  expect_error<ShapeError>("expand", Mistake::shape, "[2, 3] does not broadcast to [3, 3]", [] { x().expand({3, 3}); });
  expect_error<ShapeError>("expand", Mistake::rank, "[3]", [] { x().expand({3}); });
  expect_error<ShapeError>("expand", Mistake::option, "[-1, 2, 3]", [] { x().expand({-1, 2, 3}); });
  expect_error<ShapeError>("expand", Mistake::empty, "[0, 3]", [] { x().expand({0, 3}); });
  expect_error<IndexError>("narrow", Mistake::index, "2 elements from 2", [] { x().narrow(1, 2, 2); });
  expect_error<IndexError>("narrow", Mistake::index, "from -4", [] { x().narrow(1, -4, 1); });
  expect_error<IndexError>("narrow", Mistake::option, "-1 elements", [] { x().narrow(1, 0, -1); });
  expect_error<IndexError>("narrow", Mistake::empty, "size 0", [] { full({0, 3}, 1).narrow(0, 0, 1); });
  expect_error<ValueError>("slice", Mistake::option, "a step other than 0", [] { x().slice(0, 0, 2, 0); });
  for (int64_t i : {3, -4})
    expect_error<IndexError>("select", Mistake::index, "index " + std::to_string(i), [i] { x().select(1, i); });
  expect_error<IndexError>("select", Mistake::empty, "size 0", [] { full({0, 3}, 1).select(0, 0); });
  expect_error<IndexError>("select", Mistake::rank, "rank 0", [] { full({}, 1).select(0, 0); });
  expect_error<ValueError>("flip", Mistake::axis, "named twice", [] { flip(x(), {1, -1}); });
  expect_error<ShapeError>("slice_scatter", Mistake::shape, "does not fit into [4, 2]", [] {
    slice_scatter(x(), {4, 2}, 0, 0, 1);
  });
  expect_error<ShapeError>("slice_scatter", Mistake::rank, "[4]", [] { slice_scatter(x(), {4}, 0, 0, 1); });
  expect_error<IndexError>("slice_scatter", Mistake::index, "leave axis 0 of size 4", [] {
    slice_scatter(x(), {4, 3}, 0, 3, 1);
  });
  expect_error<IndexError>("slice_scatter", Mistake::index, "by -1", [] { slice_scatter(x(), {4, 3}, 0, 0, -1); });
  expect_error<IndexError>("slice_scatter", Mistake::option, "by 0", [] { slice_scatter(x(), {4, 3}, 0, 0, 0); });
  expect_error<ShapeError>("slice_scatter", Mistake::option, "sizes of 0 or more", [] {
    slice_scatter(x(), {-4, 3}, 0, 0, 1);
  });
});

const AddErrors joins([] {
  using Tensors = std::vector<Tensor>;
  const std::pair<const char*, Tensor (*)(const Tensors&, int64_t)> ops[] = {
      {"cat", [](const Tensors& t, int64_t axis) { return cat(t, axis); }},
      {"stack", [](const Tensors& t, int64_t axis) { return stack(t, axis); }}};
  for (const auto& [name, fn] : ops) {
    expect_error<ValueError>(name, Mistake::empty, "at least one tensor", [fn = fn] { fn({}, 0); });
    expect_error<ValueError>(name, Mistake::option, "undefined", [fn = fn] { fn({x(), Tensor()}, 0); });
    expect_error<ValueError>(name, Mistake::option, "undefined", [fn = fn] { fn({Tensor(), x()}, 0); });
    expect_error<DeviceError>(name, Mistake::device, "cpu and trace", [fn = fn] {
      fn({x(), full({2, 3}, 1, DType::f32, trace_device())}, 0);
    });
    expect_error<IndexError>(name, Mistake::axis, "axis 3", [fn = fn] { fn({x(), x()}, 3); });
    expect_error<IndexError>(name, Mistake::axis, "axis -4", [fn = fn] { fn({x(), x()}, -4); });
    expect_error<ShapeError>(name, Mistake::shape, "[2, 4]", [fn = fn] { fn({x(), full({2, 4}, 1)}, 0); });
    expect_error<ShapeError>(name, Mistake::rank, "[3]", [fn = fn] { fn({x(), full({3}, 1)}, 0); });
  }
  expect_error<ShapeError>("cat", Mistake::rank, "use stack", [] { cat({full({}, 1), full({}, 1)}); });
  expect_error<ShapeError>("stack", Mistake::rank, "rank 7 at most", [] {
    stack({full({1, 1, 1, 1, 1, 1, 1, 1}, 1)});
  });
  expect_error<ValueError>("split", Mistake::option, "a size of 1 or more, got 0", [] { split(x(), 0); });
  expect_error<ValueError>("split", Mistake::option, "undefined", [] { split(Tensor(), 1); });
  expect_error<IndexError>("split", Mistake::axis, "axis 2", [] { split(x(), 1, 2); });
  expect_error<ShapeError>("split", Mistake::shape, "add up to 4", [] { split(x(), Dims{2, 2}, 1); });
  expect_error<ValueError>("chunk", Mistake::option, "a count of 1 or more, got -1", [] { chunk(x(), -1); });
  expect_error<ValueError>("chunk", Mistake::option, "undefined", [] { chunk(Tensor(), 2); });
  expect_error<IndexError>("chunk", Mistake::axis, "axis 2", [] { chunk(x(), 2, 2); });
});

constexpr int64_t huge = int64_t{1} << 40;

const AddErrors creations([] {
  const std::pair<const char*, std::function<void(const Shape&)>> makers[] = {
      {"full", [](const Shape& s) { full(s, 1); }},
      {"zeros", [](const Shape& s) { zeros(s); }},
      {"ones", [](const Shape& s) { ones(s); }},
      {"empty", [](const Shape& s) { flame::empty(s); }},
      {"eye", [](const Shape& s) { eye(s[0], s[1]); }},
      {"rand", [](const Shape& s) { rand(s); }},
      {"uniform", [](const Shape& s) { uniform(s, 0, 1); }},
      {"randn", [](const Shape& s) { randn(s); }},
      {"normal", [](const Shape& s) { normal(s, 0, 1); }},
      {"randint", [](const Shape& s) { randint(0, 2, s); }},
      {"bernoulli", [](const Shape& s) { bernoulli(s, 0.5); }}};
  for (const auto& [name, fn] : makers) {
    expect_error<ShapeError>(name, Mistake::shape, std::string(name) + ": expected sizes of 0 or more, got [2, -1]",
                             [fn = fn] {
                               fn({2, -1});
                             });
    expect_error<ShapeError>(name, Mistake::shape, "more than 2^60 elements", [fn = fn] { fn({huge, huge}); });
  }
  for (const auto& [name, fn] : std::initializer_list<std::pair<const char*, Tensor (*)(const Tensor&)>>{
           {"full_like", [](const Tensor& t) { return full_like(t, 1); }},
           {"zeros_like", [](const Tensor& t) { return zeros_like(t); }},
           {"ones_like", [](const Tensor& t) { return ones_like(t); }},
           {"empty_like", [](const Tensor& t) { return empty_like(t); }}})
    expect_error<ValueError>(name, Mistake::option, "undefined", [fn = fn] { fn(Tensor()); });

  const std::pair<const char*, std::function<void(DType)>> floating[] = {
      {"rand", [](DType t) { rand({2}, {.dtype = t}); }},
      {"uniform", [](DType t) { uniform({2}, 0, 1, {.dtype = t}); }},
      {"randn", [](DType t) { randn({2}, {.dtype = t}); }},
      {"normal", [](DType t) { normal({2}, 0, 1, {.dtype = t}); }},
      {"linspace", [](DType t) { linspace(0, 1, 3, t); }}};
  for (const auto& [name, fn] : floating)
    for (DType t : {DType::i64, DType::boolean})
      expect_error<DTypeError>(name, Mistake::dtype, "a floating dtype, got " + std::string(name_of(t)),
                               [fn = fn, t] { fn(t); });

  expect_error<ValueError>("arange", Mistake::option, "from 0 to 3 by steps of 0", [] { arange(0, 3, 0); });
  expect_error<ValueError>("arange", Mistake::option, "by steps of -1", [] { arange(0, 3, -1); });
  expect_error<ValueError>("arange", Mistake::option, "nan", [] { arange(0, static_cast<double>(NAN)); });
  expect_error<ValueError>("arange", Mistake::option, "inf", [] { arange(HUGE_VAL); });
  expect_error<ValueError>("linspace", Mistake::option, "0 or more values, got -2", [] { linspace(0, 1, -2); });
  expect_error<ValueError>("uniform", Mistake::option, "low <= high, got 1 and 0", [] { uniform({2}, 1, 0); });
  expect_error<ValueError>("uniform", Mistake::option, "nan", [] { uniform({2}, 0, NAN); });
  expect_error<ValueError>("normal", Mistake::option, "deviation of 0 or more, got -1", [] { normal({2}, 0, -1); });
  expect_error<ValueError>("randint", Mistake::option, "low < high, got 3 and 3", [] { randint(3, 3, {2}); });
  expect_error<ValueError>("randperm", Mistake::option, "0 or more elements, got -1", [] { randperm(-1); });
  for (double p : {-0.1, 1.5, static_cast<double>(NAN)})
    expect_error<ValueError>("bernoulli", Mistake::option, "a probability in [0, 1]", [p] { bernoulli({2}, p); });
  expect_error<ValueError>("bernoulli", Mistake::option, "undefined", [] { bernoulli(Tensor()); });
  expect_error<DTypeError>("bernoulli", Mistake::dtype, "int64", [] { bernoulli(full({2}, 1, DType::i64)); });

  expect_error<ValueError>("one_hot", Mistake::option, "undefined", [] { one_hot(Tensor(), 3); });
  expect_error<DTypeError>("one_hot", Mistake::dtype, "integers, got float32", [] { one_hot(x(), 3); });
  expect_error<DTypeError>("one_hot", Mistake::dtype, "integers, got bool",
                           [] { one_hot(full({2}, true, DType::boolean), 3); });
  expect_error<ValueError>("one_hot", Mistake::option, "got -2", [] { one_hot(full({2}, 1, DType::i64), -2); });
  expect_error<ShapeError>("one_hot", Mistake::rank, "rank 7 at most", [] {
    one_hot(full({1, 1, 1, 1, 1, 1, 1, 1}, 1, DType::i64), 3);
  });
  expect_error<ShapeError>("one_hot", Mistake::shape, "more than 2^60",
                           [] { one_hot(full({1 << 22}, 1, DType::i64), huge); });
});

}  // namespace
}  // namespace flame::test
