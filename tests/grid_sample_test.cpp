// grid_sample where the golden cases do not look: places that are not finite, and 16-bit pictures.
#include "flame/flame.h"
#include "tests/support/compare.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using test::counting;
using test::numbers;

TEST(GridSample, APlaceThatIsNotFiniteIsOutsideAndHasNoGradient) {
  const double inf = HUGE_VAL;
  for (const GridMode mode : {GridMode::bilinear, GridMode::nearest}) {
    Tensor x = (counting<double>({1, 1, 2, 2}) + 1).requires_grad_();
    Tensor grid = Tensor::from(std::vector<double>{inf, 0, -inf, 0, NAN, 0, 1e300, -1e300, -0.5, -0.5}, {1, 1, 5, 2})
                      .requires_grad_();
    const Tensor y = grid_sample(x, grid, {.mode = mode});
    EXPECT_EQ(numbers(y), (std::vector<double>{0, 0, 0, 0, 1}));
    const std::vector<Tensor> g = grad({sum(y)}, {x, grid});
    EXPECT_EQ(numbers(g[0]), (std::vector<double>{1, 0, 0, 0}));
    EXPECT_TRUE(all(isfinite(g[1])).item<bool>());
    EXPECT_EQ(numbers(g[1].narrow(2, 0, 4)), std::vector<double>(8, 0));
    for (const GridPadding p : {GridPadding::border, GridPadding::reflection}) {
      const Tensor z = grid_sample(x, grid, {.mode = mode, .padding_mode = p});
      EXPECT_TRUE(all(isfinite(z)).item<bool>());
      for (const Tensor& d : grad({sum(z)}, {x, grid})) EXPECT_TRUE(all(isfinite(d)).item<bool>());
    }
  }
}

TEST(GridSample, WhatLiesOutsideStaysOutEvenIfItsStandInIsInf) {
  const Tensor x = Tensor::from(std::vector<double>{HUGE_VAL, 1, 2}, {1, 1, 1, 3});
  const Tensor last = Tensor::from(std::vector<double>{1, 0, 5, 5}, {1, 1, 2, 2});
  EXPECT_EQ(numbers(grid_sample(x, last, {.align_corners = true})), (std::vector<double>{2, 0}));
  const Tensor bordered = grid_sample(x, last, {.padding_mode = GridPadding::border, .align_corners = true});
  EXPECT_EQ(numbers(bordered), (std::vector<double>{2, 2}));
}

TEST(GridSample, A16BitPictureIsReadInFloat32) {
  // Place 703.5 of the row has more digits than bfloat16.
  const Tensor x = remainder(arange(0, 1024, 1, DType::f32), 7).reshape({1, 1, 1, 1024}),
               grid = full({1, 1, 1, 2}, 0.375, DType::f32);
  for (DType t : {DType::f16, DType::bf16}) {
    const Tensor y = grid_sample(x.to(t), grid.to(t), {.padding_mode = GridPadding::border});
    EXPECT_EQ(y.dtype(), t);
    EXPECT_EQ(y.item(), grid_sample(x, grid, {.padding_mode = GridPadding::border}).to(t).item());
  }
}

}  // namespace
}  // namespace flame
