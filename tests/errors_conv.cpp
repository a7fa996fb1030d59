// User errors of the convolutions, pools, resampling, unfold and fold.
#include <cmath>

#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

using M = Mistake;
using Mode = InterpolateMode;

Shape shape(int64_t n, int64_t c, int axes, int64_t size) {
  Shape s{n, c};
  for (int i = 0; i < axes; ++i) s.push_back(size);
  return s;
}

template <int axes, class Fn>
void convolution_rows(const std::string& op, Fn fn, bool transposed) {
  const auto x = [](DType t = DType::f32) { return zeros(shape(1, 4, axes, 5), t); };
  const auto w = [](DType t = DType::f32) { return zeros(shape(4, 4, axes, 3), t); };
  expect_error<ShapeError>(op, M::rank, "expected x [N, C, ", [=] { fn(zeros({5}), w(), {}, {}, Loc::current()); });
  expect_error<ShapeError>(op, M::rank, "expected a weight [", [=] { fn(x(), zeros({4, 4}), {}, {}, Loc::current()); });
  expect_error<ShapeError>(op, M::shape, "expected x with ",
                           [=] { fn(x(), zeros(shape(6, 3, axes, 3)), {}, {}, Loc::current()); });
  expect_error<ShapeError>(op, M::shape, "expected a bias of shape [4], got [3]",
                           [=] { fn(x(), w(), zeros({3}), {}, Loc::current()); });
  expect_error<ShapeError>(op, M::shape, "groups",
                           [=] { fn(x(), zeros(shape(3, 2, axes, 3)), {}, {.groups = 2}, Loc::current()); });
  expect_error<DTypeError>(op, M::dtype, "expected a floating dtype, got int32 and int32",
                           [=] { fn(x(DType::i32), w(DType::i32), {}, {}, Loc::current()); });
  expect_error<DeviceError>(op, M::device, "expected all tensors on one device",
                            [=] { fn(x(), w().to(logging_device()), {}, {}, Loc::current()); });
  if (transposed)
    expect_error<ShapeError>(op, M::empty, "give a size of",
                             [=] { fn(zeros(shape(1, 4, axes, 0)), w(), {}, {}, Loc::current()); });
  else
    expect_error<ShapeError>(op, M::empty, "a window of 3 does not fit into axis",
                             [=] { fn(zeros(shape(1, 4, axes, 0)), w(), {}, {.padding = 2}, Loc::current()); });
  expect_error<ValueError>(op, M::option, "stride and dilation of 1 or more",
                           [=] { fn(x(), w(), {}, {.stride = 0}, Loc::current()); });
  expect_error<ValueError>(op, M::option, "padding of 0 or more",
                           [=] { fn(x(), w(), {}, {.padding = -1}, Loc::current()); });
  expect_error<ValueError>(op, M::option, "dilation of 1 or more",
                           [=] { fn(x(), w(), {}, {.dilation = 0}, Loc::current()); });
  expect_error<ValueError>(op, M::option, "expected 1 group or more, got 0",
                           [=] { fn(x(), w(), {}, {.groups = 0}, Loc::current()); });
}
template <int axes, class Fn>
void same_rows(const std::string& op, Fn fn) {
  expect_error<ValueError>(op, M::option, "same padding needs a stride of 1", [=] {
    fn(zeros(shape(1, 4, axes, 5)), zeros(shape(4, 4, axes, 3)), {}, {.stride = 2, .padding = Padding::same},
       Loc::current());
  });
}
template <int axes, class Fn>
void output_padding_rows(const std::string& op, Fn fn) {
  const auto call = [fn](int64_t more, int64_t padding) {
    return [=] {
      fn(zeros(shape(1, 4, axes, 2)), zeros(shape(4, 4, axes, 3)), {}, {.padding = padding, .output_padding = more},
         Loc::current());
    };
  };
  expect_error<ValueError>(op, M::option, "expected an output_padding below stride", call(1, 0));
  expect_error<ValueError>(op, M::option, "expected an output_padding below stride", call(-1, 0));
  expect_error<ShapeError>(op, M::shape, "give a size of 0 along axis", call(0, 2));
}

const AddErrors convolutions([] {
  convolution_rows<1>("conv1d", conv1d, false);
  convolution_rows<2>("conv2d", conv2d, false);
  convolution_rows<3>("conv3d", conv3d, false);
  convolution_rows<1>("conv_transpose1d", conv_transpose1d, true);
  convolution_rows<2>("conv_transpose2d", conv_transpose2d, true);
  convolution_rows<3>("conv_transpose3d", conv_transpose3d, true);
  same_rows<1>("conv1d", conv1d);
  same_rows<2>("conv2d", conv2d);
  same_rows<3>("conv3d", conv3d);
  output_padding_rows<1>("conv_transpose1d", conv_transpose1d);
  output_padding_rows<2>("conv_transpose2d", conv_transpose2d);
  output_padding_rows<3>("conv_transpose3d", conv_transpose3d);
});

template <int axes, class Fn>
void pool_rows(const std::string& op, Fn fn) {
  const auto x = [] { return zeros(shape(1, 2, axes, 4)); };
  expect_error<ShapeError>(op, M::rank, "expected x [N, C, ", [=] { fn(zeros({4}), {.kernel = 2}, Loc::current()); });
  expect_error<ShapeError>(op, M::shape, "a window of 5 does not fit into axis 2 of x",
                           [=] { fn(x(), {.kernel = 5}, Loc::current()); });
  expect_error<ShapeError>(op, M::empty, "expected elements to pool",
                           [=] { fn(zeros(shape(1, 2, axes, 0)), {.kernel = 1}, Loc::current()); });
  expect_error<DTypeError>(op, M::dtype, "expected a floating dtype, got int64",
                           [=] { fn(zeros(shape(1, 2, axes, 4), DType::i64), {.kernel = 2}, Loc::current()); });
  expect_error<ValueError>(op, M::option, "kernel, stride and dilation of 1 or more",
                           [=] { fn(x(), {.kernel = 0}, Loc::current()); });
  expect_error<ValueError>(op, M::option, "kernel, stride and dilation of 1 or more",
                           [=] { fn(x(), {.kernel = 2, .stride = -1}, Loc::current()); });
  expect_error<ValueError>(op, M::option, "options below 2^31",
                           [=] { fn(x(), {.kernel = int64_t{1} << 31}, Loc::current()); });
  expect_error<ValueError>(op, M::option, "padding of at most half the window of 2, got 2",
                           [=] { fn(x(), {.kernel = 2, .padding = 2}, Loc::current()); });
}
template <int axes, class Fn>
void adaptive_rows(const std::string& op, Fn fn) {
  expect_error<ShapeError>(op, M::rank, "expected x [N, C, ", [=] { fn(zeros({4}), 2, Loc::current()); });
  expect_error<ShapeError>(op, M::empty, "expected elements to pool",
                           [=] { fn(zeros(shape(1, 2, axes, 0)), 1, Loc::current()); });
  expect_error<DTypeError>(op, M::dtype, "expected a floating dtype, got uint8",
                           [=] { fn(zeros(shape(1, 2, axes, 4), DType::u8), 1, Loc::current()); });
  expect_error<ShapeError>(op, M::shape, "more than 2^60 elements",
                           [=] { fn(zeros(shape(1, 2, axes, 4)), int64_t{1} << 61, Loc::current()); });
  expect_error<ValueError>(op, M::option, "expected an output size of 0 or more",
                           [=] { fn(zeros(shape(1, 2, axes, 4)), -2, Loc::current()); });
}

const AddErrors pools([] {
  pool_rows<1>("max_pool1d", max_pool1d);
  pool_rows<2>("max_pool2d", max_pool2d);
  pool_rows<3>("max_pool3d", max_pool3d);
  pool_rows<1>("avg_pool1d", avg_pool1d);
  pool_rows<2>("avg_pool2d", avg_pool2d);
  pool_rows<3>("avg_pool3d", avg_pool3d);
  expect_error<ValueError>("max_pool2d", M::option, "dilation [0, 0]", [] {
    max_pool2d(zeros({1, 2, 4, 4}), {.kernel = 2, .dilation = 0});
  });
  expect_error<ValueError>("avg_pool2d", M::option, "expected a divisor of 1 or more", [] {
    avg_pool2d(zeros({1, 2, 4, 4}), {.kernel = 2, .divisor_override = -1});
  });
  adaptive_rows<1>("adaptive_max_pool1d", adaptive_max_pool1d);
  adaptive_rows<2>("adaptive_max_pool2d", adaptive_max_pool2d);
  adaptive_rows<3>("adaptive_max_pool3d", adaptive_max_pool3d);
  adaptive_rows<1>("adaptive_avg_pool1d", adaptive_avg_pool1d);
  adaptive_rows<2>("adaptive_avg_pool2d", adaptive_avg_pool2d);
  adaptive_rows<3>("adaptive_avg_pool3d", adaptive_avg_pool3d);
});

void interpolate_row(Mistake m, const std::string& message, const Shape& s, const InterpolateOptions& o) {
  const auto call = [s, o] { interpolate(zeros(s), o); };
  if (m == M::rank || m == M::shape || m == M::empty) expect_error<ShapeError>("interpolate", m, message, call);
  else expect_error<ValueError>("interpolate", m, message, call);
}

const AddErrors resampling([] {
  interpolate_row(M::rank, "expected x of rank 3 to 5 for nearest, got [2, 3]", {2, 3}, {.size = 4});
  interpolate_row(M::rank, "expected x of rank 4 for bilinear", {2, 3, 4}, {.size = 4, .mode = Mode::bilinear});
  interpolate_row(M::rank, "expected x of rank 5 for trilinear", {2, 3, 4}, {.size = 4, .mode = Mode::trilinear});
  interpolate_row(M::shape, "expected sizes of 1 or more, got 4 to 0 along axis 2", {2, 3, 4}, {.scale_factor = 0.1});
  interpolate_row(M::empty, "expected sizes of 1 or more, got 0 to 4 along axis 2", {2, 3, 0}, {.size = 4});
  interpolate_row(M::option, "expected one of size and scale_factor, got none", {2, 3, 4}, {});
  interpolate_row(M::option, "expected one of size and scale_factor, got both", {2, 3, 4},
                  {.size = 4, .scale_factor = 1});
  interpolate_row(M::option, "expected one number or 2 for x [1, 2, 3, 4], got 3", {1, 2, 3, 4}, {.size = {4, 4, 4}});
  interpolate_row(M::option, "align_corners means nothing for nearest", {2, 3, 4}, {.size = 4, .align_corners = true});
  interpolate_row(M::option, "expected bilinear or bicubic for antialias, got linear", {2, 3, 4},
                  {.size = 4, .mode = Mode::linear, .antialias = true});
  interpolate_row(M::option, "recompute_scale_factor needs a scale_factor", {2, 3, 4},
                  {.size = 4, .recompute_scale_factor = true});
  interpolate_row(M::option, "expected finite scale factors", {2, 3, 4}, {.scale_factor = HUGE_VAL});
  expect_error<DTypeError>("interpolate", M::dtype, "expected a floating dtype for bilinear, got uint8", [] {
    interpolate(zeros({1, 2, 3, 4}, DType::u8), {.size = 4, .mode = Mode::bilinear});
  });
  expect_error<ShapeError>("pixel_shuffle", M::rank, "expected x [..., C, H, W], got [4, 4]", [] {
    pixel_shuffle(zeros({4, 4}), 2);
  });
  expect_error<ShapeError>("pixel_shuffle", M::shape, "expected channels that 4 divides, got x [6, 2, 2]", [] {
    pixel_shuffle(zeros({6, 2, 2}), 2);
  });
  expect_error<ValueError>("pixel_shuffle", M::option, "expected a factor of 1 or more, got 0", [] {
    pixel_shuffle(zeros({4, 2, 2}), 0);
  });
  expect_error<ShapeError>("pixel_unshuffle", M::rank, "expected x [..., C, H, W], got [4, 4]", [] {
    pixel_unshuffle(zeros({4, 4}), 2);
  });
  expect_error<ShapeError>("pixel_unshuffle", M::shape, "expected a height and width that 2 divides, got x [1, 4, 3]",
                           [] {
                             pixel_unshuffle(zeros({1, 4, 3}), 2);
                           });
  expect_error<ValueError>("pixel_unshuffle", M::option, "expected a factor of 1 or more, got -1", [] {
    pixel_unshuffle(zeros({4, 2, 2}), -1);
  });
});

const AddErrors windows([] {
  expect_error<ShapeError>("unfold", M::rank, "expected x [N, C, H, W] or [C, H, W], got [3]",
                           [] { unfold(zeros({3}), {.kernel = 2}); });
  expect_error<ShapeError>("unfold", M::shape, "a window of 5 does not fit into pictures of [4, 4]", [] {
    unfold(zeros({1, 2, 4, 4}), {.kernel = 5});
  });
  expect_error<ShapeError>("unfold", M::empty, "a window of 1 does not fit into pictures of [0, 4]", [] {
    unfold(zeros({1, 2, 0, 4}), {.kernel = 1, .padding = 1});
  });
  expect_error<DTypeError>("unfold", M::dtype, "expected a floating dtype, got int32", [] {
    unfold(zeros({1, 2, 4, 4}, DType::i32), {.kernel = 2});
  });
  expect_error<ValueError>("unfold", M::option, "stride and dilation of 1 or more", [] {
    unfold(zeros({1, 2, 4, 4}), {.kernel = 2, .stride = 0});
  });
  expect_error<ShapeError>("fold", M::rank, "expected x [N, C R S, L] or [C R S, L], got [4]",
                           [] { fold(zeros({4}), 2, {.kernel = 2}); });
  expect_error<ShapeError>("fold", M::shape,
                           "expected rows in 4s and 4 columns for pictures of [3, 3], got x [1, 6, 4]", [] {
                             fold(zeros({1, 6, 4}), 3, {.kernel = 2});
                           });
  expect_error<ShapeError>("fold", M::shape,
                           "expected rows in 4s and 4 columns for pictures of [3, 3], got x [1, 4, 5]", [] {
                             fold(zeros({1, 4, 5}), 3, {.kernel = 2});
                           });
  expect_error<ShapeError>("fold", M::empty, "a window of 2 does not fit into pictures of [0, 3]", [] {
    fold(zeros({1, 4, 0}), {0, 3}, {.kernel = 2});
  });
  expect_error<DTypeError>("fold", M::dtype, "expected a floating dtype, got bool", [] {
    fold(zeros({1, 4, 4}, DType::boolean), 3, {.kernel = 2});
  });
  expect_error<ValueError>("fold", M::option, "stride and dilation of 1 or more", [] {
    fold(zeros({1, 4, 4}), 3, {.kernel = 2, .dilation = 0});
  });
});

}  // namespace
}  // namespace flame::test
