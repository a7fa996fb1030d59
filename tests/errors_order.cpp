// Mistakes of scans, sorts, extremes with their places, and reductions with more than one result.
#include <cmath>

#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

enum Trait : unsigned { none = 0, floating = 1, needs_elements = 2, scan = 4 };  // scans and sorts give 0-d an axis
struct Row {
  const char* name;
  void (*call)(const Tensor& x, int64_t axis);
  unsigned traits;
};
const Row rows[] = {
    {"cumsum", [](const Tensor& x, int64_t a) { cumsum(x, a); }, scan},
    {"cumprod", [](const Tensor& x, int64_t a) { cumprod(x, a); }, scan},
    {"logcumsumexp", [](const Tensor& x, int64_t a) { logcumsumexp(x, a); }, floating | scan},
    {"cummax", [](const Tensor& x, int64_t a) { cummax(x, a); }, scan},
    {"cummin", [](const Tensor& x, int64_t a) { cummin(x, a); }, scan},
    {"sort", [](const Tensor& x, int64_t a) { sort(x, {.axis = a}); }, scan},
    {"argsort", [](const Tensor& x, int64_t a) { argsort(x, {.axis = a}); }, scan},
    {"topk", [](const Tensor& x, int64_t a) { topk(x, 1, {.axis = a}); }, scan},
    {"kthvalue", [](const Tensor& x, int64_t a) { kthvalue(x, 1, a); }, scan},
    {"median", [](const Tensor& x, int64_t a) { median(x, a); }, needs_elements | scan},
    {"max", [](const Tensor& x, int64_t a) { max(x, a); }, needs_elements | scan},
    {"min", [](const Tensor& x, int64_t a) { min(x, a); }, needs_elements | scan},
    {"aminmax", [](const Tensor& x, int64_t a) { aminmax(x, Axes{a}); }, needs_elements},
    {"var_mean", [](const Tensor& x, int64_t a) { var_mean(x, Axes{a}); }, floating},
    {"std_mean", [](const Tensor& x, int64_t a) { std_mean(x, Axes{a}); }, floating},
    {"nansum", [](const Tensor& x, int64_t a) { nansum(x, Axes{a}); }, none},
    {"nanmean", [](const Tensor& x, int64_t a) { nanmean(x, Axes{a}); }, floating},
    {"count_nonzero", [](const Tensor& x, int64_t a) { count_nonzero(x, Axes{a}); }, none},
    {"norm", [](const Tensor& x, int64_t a) { norm(x, Axes{a}, {.p = 3}); }, floating},
};
Tensor f(const Shape& s) { return full(s, 0.5); }

const AddErrors along_axes([] {
  for (const Row& row : rows) {
    const std::string name = row.name;
    expect_error<ValueError>(name, Mistake::option, name + ": expected a defined tensor", [&row] { row.call({}, 0); });
    for (int64_t axis : {2, -3})
      expect_error<IndexError>(name, Mistake::axis,
                               name + ": axis " + std::to_string(axis) + " is out of range for rank 2", [&row, axis] {
                                 row.call(f({2, 3}), axis);
                               });
    if (row.traits & scan)
      expect_error<IndexError>(name, Mistake::axis, name + ": axis 1 is out of range for rank 1",
                               [&row] { row.call(f({}), 1); });
    if (row.traits & floating)
      for (DType t : {DType::i64, DType::boolean})
        expect_error<DTypeError>(name, Mistake::dtype,
                                 name + ": expected a floating dtype, got " + std::string(name_of(t)), [&row, t] {
                                   row.call(full({2, 3}, 1, t), 0);
                                 });
    if (row.traits & needs_elements)
      expect_error<ShapeError>(name, Mistake::empty, name + ": expected at least one element", [&row] {
        row.call(f({2, 0}), 1);
      });
  }
  for (int64_t k : {-1, 4})
    expect_error<IndexError>("topk", Mistake::index, "topk: expected k from 0 to 3 for axis 1 of shape [2, 3]", [k] {
      topk(f({2, 3}), k);
    });
  for (int64_t k : {0, 4})
    expect_error<IndexError>("kthvalue", Mistake::index, "kthvalue: expected k from 1 to 3 for axis 1 of shape [2, 3]",
                             [k] {
                               kthvalue(f({2, 3}), k);
                             });
  expect_error<IndexError>("kthvalue", Mistake::empty, "kthvalue: expected k from 1 to 0", [] {
    kthvalue(f({2, 0}), 1);
  });
  expect_error<ValueError>("median", Mistake::option, "median: expected a defined tensor", [] { median(Tensor()); });
  expect_error<ShapeError>("median", Mistake::empty, "median: expected at least one element of int64, got shape [0]",
                           [] { median(zeros({0}, DType::i64)); });
  expect_error<ValueError>("aminmax", Mistake::axis, "named twice", [] { aminmax(f({2, 3}), {0, -2}); });
  expect_error<ValueError>("norm", Mistake::option, "norm: expected an order, got NaN", [] {
    norm(f({2, 3}), {}, {.p = std::nan("")});
  });
  for (double p : {-1.0, double(INFINITY), double(-INFINITY)})
    expect_error<ShapeError>("norm", Mistake::empty, "norm: expected at least one element to reduce over", [p] {
      norm(f({2, 0}), 1, {.p = p});
    });
  expect_error<ValueError>("var_mean", Mistake::option, "var_mean: expected a correction of 0 or more, got -1",
                           [] { var_mean(f({2}), {}, {.correction = -1}); });
  expect_error<ValueError>("std_mean", Mistake::option, "std_mean: expected a correction of 0 or more, got -1",
                           [] { std_mean(f({2}), {}, {.correction = -1}); });
});

const AddErrors searches([] {
  expect_error<ValueError>("searchsorted", Mistake::option, "searchsorted: an input is undefined",
                           [] { searchsorted(f({3}), {}); });
  expect_error<ShapeError>("searchsorted", Mistake::rank, "values of shape [2] do not fit sorted rows of shape [2, 3]",
                           [] {
                             searchsorted(f({2, 3}), f({2}));
                           });
  expect_error<ShapeError>("searchsorted", Mistake::rank, "do not fit sorted rows of shape []",
                           [] { searchsorted(f({}), f({2})); });
  expect_error<ShapeError>("searchsorted", Mistake::shape, "values of shape [3, 4] do not fit", [] {
    searchsorted(f({2, 3}), f({3, 4}));
  });
  expect_error<DeviceError>("searchsorted", Mistake::device, "searchsorted: expected all tensors on one device",
                            [] { searchsorted(f({3}), full({2}, 1, DType::f32, trace_device())); });
  expect_error<ShapeError>("bucketize", Mistake::rank, "bucketize: expected boundaries of rank 1, got [2, 3]", [] {
    bucketize(f({2}), f({2, 3}));
  });
  expect_error<ValueError>("bucketize", Mistake::option, "bucketize: an input is undefined",
                           [] { bucketize({}, f({3})); });
  expect_error<DeviceError>("bucketize", Mistake::device, "bucketize: expected all tensors on one device",
                            [] { bucketize(full({2}, 1, DType::f32, trace_device()), f({3})); });
});

}  // namespace
}  // namespace flame::test
