// User errors of grid_sample and unique.
#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

using M = Mistake;

template <class E>
void row(M m, const std::string& message, const Shape& x, const Shape& grid, DType of_x = DType::f32,
         DType of_grid = DType::f32) {
  expect_error<E>("grid_sample", m, message, [=] { grid_sample(zeros(x, of_x), zeros(grid, of_grid)); });
}

const AddErrors grids([] {
  row<ShapeError>(M::rank, "expected x [N, C, H, W] or [N, C, D, H, W], got [2, 3, 4]", {2, 3, 4}, {2, 3, 1});
  row<ShapeError>(M::rank, "needs a grid [2, H', W', 2], got [2, 3, 2]", {2, 3, 4, 4}, {2, 3, 2});
  row<ShapeError>(M::shape, "needs a grid [2, H', W', 2], got [1, 3, 3, 2]", {2, 3, 4, 4}, {1, 3, 3, 2});
  row<ShapeError>(M::shape, "needs a grid [2, D', H', W', 3], got [2, 3, 3, 3, 2]", {2, 3, 4, 4, 4}, {2, 3, 3, 3, 2});
  row<ShapeError>(M::empty, "expected elements to sample, got x [2, 3, 0, 4]", {2, 3, 0, 4}, {2, 3, 3, 2});
  row<DTypeError>(M::dtype, "expected one floating dtype, got int64 and float32", {2, 3, 4, 4}, {2, 3, 3, 2},
                  DType::i64);
  row<DTypeError>(M::dtype, "expected one floating dtype, got float64 and float32", {2, 3, 4, 4}, {2, 3, 3, 2},
                  DType::f64);
  expect_error<ValueError>("unique", M::option, "expected a defined tensor", [] { unique({}); });
  expect_error<DeviceError>("grid_sample", M::device, "expected all tensors on one device", [] {
    grid_sample(zeros({1, 1, 2, 2}), zeros({1, 1, 1, 2}).to(logging_device()));
  });
  expect_error<ValueError>("grid_sample", M::option, "expected a defined tensor", [] {
    grid_sample(zeros({1, 1, 2, 2}), {});
  });
});

}  // namespace
}  // namespace flame::test
