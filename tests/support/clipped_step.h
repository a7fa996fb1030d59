// Clipping within an optimizer's step against clip_grad_norm before it, bit for bit.
#pragma once
#include <gtest/gtest.h>

#include <flame/flame.h>

#include "flame/device/device_scope.h"
#include "tests/support/compare.h"

namespace flame::test {

// Two steps with limits that bite, that do not, and of a NaN.
template <class Optimizer>
void expect_clipped_step(Device& d, const char* what) {
  const DeviceScope scope(d);
  for (const DType t : {DType::f32, DType::bf16, DType::f16, DType::f64})
    for (const double limit : {0.1, 1e6, std::nan("")}) {
      std::vector<std::vector<Parameter>> nets(2);
      for (auto& net : nets)
        for (const Shape& s : {Shape{3000}, Shape{17, 5}, Shape{0}, Shape{}}) net.emplace_back(full(s, 0.5, t));
      nets[0].emplace_back(ones({4}, t));  // one without a gradient
      nets[1].emplace_back(ones({4}, t));
      Optimizer before(nets[0], {.lr = 0.01}), within(nets[1], {.lr = 0.01});
      for (int step = 0; step < 2; ++step) {
        for (size_t i = 0; i < 4; ++i) {
          Generator g(10 * static_cast<uint64_t>(step) + i);
          Tensor x = randn(nets[0][i].shape(), {.generator = &g}).to(t);
          if (i == 1) x = randn({5, 17}, {.generator = &g}).to(t).t();  // dense in another order
          if (std::isnan(limit) && i == 1) x = x / 0.0 * 0.0;
          for (auto& net : nets) net[i].set_grad(x);
        }
        const double bound = std::isnan(limit) ? 1 : limit;
        const Tensor a = optim::clip_grad_norm(nets[0], bound);
        before.step();
        const Tensor b = within.step({.max_norm = bound});
        EXPECT_EQ(difference(a, b), "") << what;
      }
      for (size_t i = 0; i < nets[0].size(); ++i)
        EXPECT_EQ(difference(nets[0][i].tensor(), nets[1][i].tensor()), "")
            << what << " " << name_of(t) << ", limit " << limit << ", " << i;
    }
}
inline void expect_clipped_steps(Device& d) {
  expect_clipped_step<optim::AdamW>(d, "AdamW");
  expect_clipped_step<optim::SGD>(d, "SGD");
  expect_clipped_step<optim::Lion>(d, "Lion");
  expect_clipped_step<optim::Adafactor>(d, "Adafactor");
}

}  // namespace flame::test
