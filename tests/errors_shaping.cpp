// Mistakes of the ops that part, repeat, rotate, pad and cut out, and of creations like another tensor.
#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

Tensor x() { return full({2, 3}, 0.5); }
Tensor deep() { return full({1, 1, 1, 1, 1, 1, 1, 2}, 0.5); }
constexpr int64_t huge = int64_t{1} << 62;

using Call = std::function<void(const Tensor&)>;
using Along = std::function<void(int64_t)>;

const AddErrors undefined([] {
  const std::pair<const char*, Call> calls[] = {
      {"movedim", [](const Tensor& t) { movedim(t, 0, 1); }},
      {"unflatten", [](const Tensor& t) { unflatten(t, 0, {2}); }},
      {"split", [](const Tensor& t) { split(t, 1); }},
      {"chunk", [](const Tensor& t) { chunk(t, 2); }},
      {"repeat",
       [](const Tensor& t) {
         repeat(t, {1, 2});
       }},
      {"tile", [](const Tensor& t) { tile(t, {2}); }},
      {"roll", [](const Tensor& t) { roll(t, 1, 0); }},
      {"pad",
       [](const Tensor& t) {
         pad(t, {1, 1});
       }},
      {"diagonal", [](const Tensor& t) { diagonal(t); }},
      {"diagonal_scatter",
       [](const Tensor& t) {
         diagonal_scatter(t, {2, 2});
       }},
      {"tril", [](const Tensor& t) { tril(t); }},
      {"triu", [](const Tensor& t) { triu(t); }},
      {"zeros_like", [](const Tensor& t) { zeros_like(t); }},
      {"ones_like", [](const Tensor& t) { ones_like(t); }},
      {"full_like", [](const Tensor& t) { full_like(t, 1); }},
      {"rand_like", [](const Tensor& t) { rand_like(t); }},
      {"randn_like", [](const Tensor& t) { randn_like(t); }},
      {"randint_like", [](const Tensor& t) { randint_like(t, 0, 2); }},
      {"one_hot", [](const Tensor& t) { one_hot(t, 2); }},
      {"cat",
       [](const Tensor& t) {
         cat({x(), t});
       }},
      {"stack",
       [](const Tensor& t) {
         stack({t, x()});
       }},
  };
  for (const auto& [name, fn] : calls)
    expect_error<ValueError>(name, Mistake::option, "expected a defined tensor", [fn = fn] { fn(Tensor()); });
});

const AddErrors axes([] {
  const std::pair<const char*, Along> calls[] = {
      {"movedim", [](int64_t a) { movedim(x(), a, 0); }},
      {"movedim",
       [](int64_t a) {
         movedim(x(), {0, 1}, {0, a});
       }},
      {"unflatten", [](int64_t a) { unflatten(x(), a, {2}); }},
      {"squeeze",
       [](int64_t a) {
         x().squeeze({0, a});
       }},
      {"split", [](int64_t a) { split(x(), 1, a); }},
      {"split",
       [](int64_t a) {
         split(x(), {1, 1}, a);
       }},
      {"chunk", [](int64_t a) { chunk(x(), 1, a); }},
      {"roll", [](int64_t a) { roll(x(), 1, a); }},
      {"diagonal", [](int64_t a) { diagonal(x(), {.axis1 = a}); }},
      {"diagonal", [](int64_t a) { diagonal(x(), {.axis2 = a}); }},
      {"diagonal_scatter",
       [](int64_t a) {
         diagonal_scatter(full({2}, 1), {2, 2}, {.axis2 = a});
       }},
  };
  for (const auto& [name, fn] : calls)
    for (int64_t a : {2, -3})
      expect_error<IndexError>(name, Mistake::axis, "axis " + std::to_string(a) + " is out of range for rank 2",
                               [fn = fn, a] { fn(a); });
  expect_error<IndexError>("movedim", Mistake::axis, "comes twice", [] { movedim(x(), {0, 0}, {0, 1}); });
  expect_error<IndexError>("movedim", Mistake::axis, "comes twice", [] { movedim(x(), {0, 1}, {1, -1}); });
  expect_error<ShapeError>("movedim", Mistake::option, "as many places as axes", [] { movedim(x(), {0, 1}, {0}); });
  expect_error<IndexError>("squeeze", Mistake::axis, "comes twice", [] { x().squeeze({0, -2}); });
  for (const char* name : {"diagonal", "diagonal_scatter"})
    expect_error<ValueError>(name, Mistake::axis, "expected two different axes, got 1 and -1", [name] {
      if (name == std::string("diagonal")) diagonal(x(), {.axis1 = 1, .axis2 = -1});
      else diagonal_scatter(x(), {2, 2}, {.axis1 = 1, .axis2 = -1});
    });
});

const AddErrors shapes([] {
  expect_error<ShapeError>("unflatten", Mistake::shape, "[3] has 3 elements, [2, 2] has 4", [] {
    unflatten(x(), 1, {2, 2});
  });
  expect_error<ShapeError>("unflatten", Mistake::option, "at most one -1", [] { unflatten(x(), 1, {-1, -1}); });
  expect_error<ShapeError>("unflatten", Mistake::empty, "at least one size", [] { unflatten(x(), 1, {}); });
  expect_error<ShapeError>("unflatten", Mistake::rank, "limit of 8", [] { unflatten(deep(), 7, {1, 2}); });
  expect_error<ShapeError>("split", Mistake::shape, "add up to 2", [] { split(x(), {1, 1}, 1); });
  expect_error<ShapeError>("split", Mistake::option, "sizes of 0 or more", [] { split(x(), {4, -1}, 1); });
  expect_error<ValueError>("split", Mistake::option, "a size of 1 or more, got 0", [] { split(x(), 0, 1); });
  expect_error<ValueError>("chunk", Mistake::option, "a count of 1 or more, got 0", [] { chunk(x(), 0); });
  expect_error<ValueError>("stack", Mistake::empty, "at least one tensor", [] { stack({}); });
  expect_error<ShapeError>("stack", Mistake::shape, "[3, 2]", [] { stack({x(), x().t()}); });
  expect_error<ShapeError>("stack", Mistake::rank, "rank 7 at most", [] { stack({deep()}); });
  expect_error<IndexError>("stack", Mistake::axis, "axis 3", [] { stack({x()}, 3); });
  expect_error<DeviceError>("stack", Mistake::device, "cpu and trace", [] {
    stack({x(), full({2, 3}, 1, DType::f32, trace_device())});
  });
  expect_error<ShapeError>("repeat", Mistake::rank, "a count for each axis of [2, 3], got [2]",
                           [] { repeat(x(), {2}); });
  const std::pair<const char*, Tensor (*)(const Tensor&, const Dims&, Loc)> copies[] = {{"repeat", repeat},
                                                                                        {"tile", tile}};
  for (const auto& [name, fn] : copies) {
    expect_error<ShapeError>(name, Mistake::option, "counts of 0 or more, got [1, -1]", [fn = fn] {
      fn(x(), {1, -1}, Loc::current());
    });
    expect_error<ShapeError>(name, Mistake::shape, "too large", [fn = fn] { fn(x(), {1, huge}, Loc::current()); });
    expect_error<ShapeError>(name, Mistake::shape, "2^60", [fn = fn] { fn(x(), {huge / 8, 1}, Loc::current()); });
  }
  expect_error<ValueError>("roll", Mistake::option, "shifts [1] and axes [0, 1]", [] { roll(x(), {1}, {0, 1}); });
  expect_error<ValueError>("roll", Mistake::option, "one shift for the flattened tensor", [] { roll(x(), {1, 2}); });
  expect_error<ShapeError>("pad", Mistake::rank, "at most 2 axes, got 6 sizes", [] { pad(x(), {0, 0, 0, 0, 1, 1}); });
  expect_error<ShapeError>("pad", Mistake::option, "got 1 sizes", [] { pad(x(), {1}); });
  expect_error<ShapeError>("pad", Mistake::shape, "-2 and -2 does not fit axis 1 of size 3", [] {
    pad(x(), {-2, -2});
  });
  expect_error<ShapeError>("pad", Mistake::shape, "does not fit", [] { pad(x(), {huge, huge}); });
  expect_error<ShapeError>("pad", Mistake::shape, "2^60", [] { pad(x(), {1 << 30, 0, 1 << 30, 0}); });
  expect_error<ShapeError>("pad", Mistake::shape, "reflect padding of 3 and 0 does not fit axis 1 of size 3", [] {
    pad(x(), {3, 0}, {.mode = PadMode::reflect});
  });
  expect_error<ShapeError>("pad", Mistake::shape, "circular padding of 0 and 4", [] {
    pad(x(), {0, 4}, {.mode = PadMode::circular});
  });
  expect_error<ShapeError>("pad", Mistake::empty, "replicate padding of 1 and 0 does not fit axis 1 of size 0", [] {
    pad(full({2, 0}, 1), {1, 0}, {.mode = PadMode::replicate});
  });
  expect_error<ShapeError>("diagonal", Mistake::rank, "rank 2 or more, got shape [3]", [] { diagonal(full({3}, 1)); });
  expect_error<ShapeError>("diagonal_scatter", Mistake::shape, "expected a piece of [2] for [2, 4], got [3]", [] {
    diagonal_scatter(full({3}, 1), {2, 4});
  });
  expect_error<ShapeError>("diagonal_scatter", Mistake::option, "sizes of 0 or more", [] {
    diagonal_scatter(full({3}, 1), {3, -3});
  });
  expect_error<ShapeError>("tril", Mistake::rank, "a rank of 2 or more, got shape [3]", [] { tril(full({3}, 1)); });
  expect_error<ShapeError>("triu", Mistake::rank, "a rank of 2 or more, got shape []", [] { triu(full({}, 1)); });
});

const AddErrors creations([] {
  expect_error<DTypeError>("rand_like", Mistake::dtype, "floating dtype, got int64",
                           [] { rand_like(full({2}, 1, DType::i64)); });
  expect_error<DTypeError>("randn_like", Mistake::dtype, "floating dtype, got bool",
                           [] { randn_like(x(), {.dtype = DType::boolean}); });
  expect_error<ValueError>("randint_like", Mistake::option, "low < high, got 3 and 3", [] { randint_like(x(), 3, 3); });
  expect_error<ValueError>("truncated_normal", Mistake::option, "deviation above 0, got 0",
                           [] { truncated_normal({2}, {.std = 0}); });
  expect_error<ValueError>("truncated_normal", Mistake::option, "a < b, got 1 and 1",
                           [] { truncated_normal({2}, {.a = 1, .b = 1}); });
  expect_error<DTypeError>("truncated_normal", Mistake::dtype, "floating dtype, got int32",
                           [] { truncated_normal({2}, {}, {.dtype = DType::i32}); });
  expect_error<ShapeError>("truncated_normal", Mistake::shape, "sizes of 0 or more, got [-1]",
                           [] { truncated_normal({-1}); });
  expect_error<DTypeError>("one_hot", Mistake::dtype, "integers, got bool",
                           [] { one_hot(full({2}, true, DType::boolean), 3); });
  for (int64_t i : {3, -1})
    expect_error<IndexError>("one_hot", Mistake::index,
                             "index " + std::to_string(i) + " is out of range for axis 1 of size 3",
                             [i] { one_hot(full({2}, i, DType::i64), 3); });
  expect_error<IndexError>("one_hot", Mistake::index, "index -2", [] { one_hot(full({2}, -2, DType::i64)); });
  expect_error<ValueError>("one_hot", Mistake::option, "or -1, got -2", [] { one_hot(full({2}, 1, DType::i64), -2); });
  expect_error<ShapeError>("one_hot", Mistake::empty, "no largest", [] { one_hot(full({0}, 1, DType::i64)); });
  expect_error<ShapeError>("one_hot", Mistake::rank, "rank 7 at most", [] { one_hot(deep().to(DType::i64), 3); });
});

}  // namespace
}  // namespace flame::test
