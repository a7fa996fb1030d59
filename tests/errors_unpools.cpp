// User errors of max_unpool.
#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

using M = Mistake;

template <int axes, class Fn>
void rows(const std::string& op, Fn fn) {
  const auto shape = [](int64_t n) {
    Shape s{1, 2};
    for (int i = 0; i < axes; ++i) s.push_back(n);
    return s;
  };
  const auto x = [=] { return zeros(shape(3)); };
  const auto at = [=] { return zeros(shape(3), DType::i64); };
  using O = MaxUnpoolOptions<axes>;
  expect_error<ShapeError>(op, M::rank, "expected x of rank",
                           [=] { fn(zeros({3}), zeros({3}, DType::i64), O{.kernel = 2}, Loc::current()); });
  expect_error<ShapeError>(op, M::shape, "expected indices of x's shape",
                           [=] { fn(x(), zeros(shape(2), DType::i64), O{.kernel = 2}, Loc::current()); });
  expect_error<ShapeError>(op, M::shape, "less than 2 from 6 along axis 2",
                           [=] { fn(x(), at(), O{.kernel = 2, .output_size = PerAxis<axes>(8)}, Loc::current()); });
  expect_error<ShapeError>(op, M::empty, "expected output sizes of 1 or more",
                           [=] { fn(zeros(shape(0)), zeros(shape(0), DType::i64), O{.kernel = 2}, Loc::current()); });
  expect_error<DTypeError>(op, M::dtype, "expected an index of int64 or int32, got float32",
                           [=] { fn(x(), x(), O{.kernel = 2}, Loc::current()); });
  expect_error<IndexError>(op, M::index, "is out of range",
                           [=] { fn(x(), full(shape(3), 1000, DType::i64), O{.kernel = 2}, Loc::current()); });
  expect_error<DeviceError>(op, M::device, "expected all tensors on one device",
                            [=] { fn(x(), at().to(logging_device()), O{.kernel = 2}, Loc::current()); });
  expect_error<ValueError>(op, M::option, "expected a kernel of 1 or more",
                           [=] { fn(x(), at(), O{.kernel = 2, .padding = -1}, Loc::current()); });
}

const AddErrors unpools([] {
  rows<1>("max_unpool1d", max_unpool1d);
  rows<2>("max_unpool2d", max_unpool2d);
  rows<3>("max_unpool3d", max_unpool3d);
});

}  // namespace
}  // namespace flame::test
