// The emulated GPU: device texts run on the CPU agree with the CPU's own kernels, and what a text does wrong is found.
#include <gtest/gtest.h>

#include "flame/device/device_scope.h"
#include "flame/flame.h"
#include "tests/emulator/emulated_device.h"
#include "tests/support/forms.h"

namespace flame {
namespace {

using emulated::emulated_device;

Tensor numbers(const Shape& s) {
  std::vector<double> v(static_cast<size_t>(numel(s)));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>((i * 29 + 5) % 17) / 8 - 1;
  return Tensor::from(v, s).to(DType::f32);
}

TEST(Emulated, NormalisesRows) {
  auto& d = emulated_device();
  const Tensor x = numbers({5, 96});
  const Tensor want = layer_norm(x, {96});
  const uint64_t before = d.launches();
  const Tensor got = layer_norm(x.to(d), {96});
  EXPECT_TRUE(allclose(got.to(cpu()), want));
  EXPECT_GT(d.launches(), before);
}

}  // namespace
}  // namespace flame
