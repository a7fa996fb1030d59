// Mistakes of reductions, and of softmax, which reduces too.
#include <cmath>

#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

using Reducer = Tensor (*)(const Tensor&, const Axes&);
struct Row {
  const char* name;
  Reducer call;
  bool floating, needs_elements;
};
#define FLAME_REDUCER(name) #name, [](const Tensor& x, const Axes& axes) { return flame::name(x, axes); }
const Row rows[] = {
    {FLAME_REDUCER(sum), false, false},   {FLAME_REDUCER(prod), false, false}, {FLAME_REDUCER(mean), true, false},
    {FLAME_REDUCER(amax), false, true},   {FLAME_REDUCER(amin), false, true},  {FLAME_REDUCER(var), true, false},
    {FLAME_REDUCER(std), true, false},    {FLAME_REDUCER(norm), true, false},  {FLAME_REDUCER(logsumexp), true, false},
    {FLAME_REDUCER(any), false, false},   {FLAME_REDUCER(all), false, false},  {FLAME_REDUCER(argmax), false, true},
    {FLAME_REDUCER(argmin), false, true},
};
#undef FLAME_REDUCER

const AddErrors reductions([] {
  for (const Row& row : rows) {
    const std::string name = row.name;
    expect_error<ValueError>(name, Mistake::option, name + ": expected a defined tensor", [&row] { row.call({}, 0); });
    for (int axis : {2, -3})
      expect_error<IndexError>(name, Mistake::axis, name + ": axis " + std::to_string(axis) + " is out of range",
                               [&row, axis] {
                                 row.call(full({2, 3}, 0.5), axis);
                               });
    expect_error<IndexError>(name, Mistake::axis, name + ": axis 5", [&row] { row.call(full({2, 3}, 0.5), {0, 5}); });
    expect_error<ValueError>(name, Mistake::axis, "named twice", [&row] { row.call(full({2, 3}, 0.5), {1, -1}); });
    if (row.floating)
      for (DType t : {DType::i64, DType::boolean})
        expect_error<DTypeError>(name, Mistake::dtype,
                                 name + ": expected a floating dtype, got " + std::string(name_of(t)), [&row, t] {
                                   row.call(full({2, 3}, 1, t), 0);
                                 });
    if (row.needs_elements) {
      expect_error<ShapeError>(name, Mistake::empty, "[0, 3]", [&row] { row.call(full({0, 3}, 1), 0); });
      expect_error<ShapeError>(name, Mistake::empty, "at least one element", [&row] { row.call(full({0, 3}, 1), {}); });
    }
  }
  for (double correction : {-1.0, static_cast<double>(NAN)}) {
    expect_error<ValueError>("var", Mistake::option, "correction of 0 or more", [correction] {
      var(full({2, 3}, 1), 0, {.correction = correction});
    });
    expect_error<ValueError>("std", Mistake::option, "correction of 0 or more", [correction] {
      flame::std(full({2, 3}, 1), 0, {.correction = correction});
    });
  }
  expect_error<ShapeError>("sum_to", Mistake::shape, "[2, 3] was not broadcast from [2]", [] {
    sum_to(full({2, 3}, 1), {2});
  });
  expect_error<ShapeError>("sum_to", Mistake::rank, "[3] was not broadcast from [1, 3]", [] {
    sum_to(full({3}, 1), {1, 3});
  });
});

const AddErrors softmaxes([] {
  const std::pair<const char*, Tensor (*)(const Tensor&, int64_t)> ops[] = {
      {"softmax", [](const Tensor& x, int64_t axis) { return softmax(x, axis); }},
      {"log_softmax", [](const Tensor& x, int64_t axis) { return log_softmax(x, axis); }}};
  for (const auto& [op, fn] : ops) {
    const std::string name = op;
    expect_error<ValueError>(name, Mistake::option, "undefined", [fn = fn] { fn({}, 0); });
    expect_error<IndexError>(name, Mistake::axis, "axis 2 is out of range", [fn = fn] { fn(full({2, 3}, 1), 2); });
    expect_error<IndexError>(name, Mistake::axis, "axis -3 is out of range", [fn = fn] { fn(full({2, 3}, 1), -3); });
    expect_error<IndexError>(name, Mistake::axis, "axis 1 is out of range", [fn = fn] { fn(full({}, 1), 1); });
    expect_error<IndexError>(name, Mistake::empty, "axis 2", [fn = fn] { fn(full({0, 3}, 1), 2); });
    for (DType t : {DType::i32, DType::boolean})
      expect_error<DTypeError>(name, Mistake::dtype, "floating dtype, got " + std::string(name_of(t)), [fn = fn, t] {
        fn(full({2, 3}, 1, t), 0);
      });
  }
});

}  // namespace
}  // namespace flame::test
