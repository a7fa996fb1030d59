// Under a loss scale the device knows which steps were skipped: this counts them, a parameter each, and writes the arguments of
// the others' kernels. FLAME_NUMBERS: of flame/optim/numbers.h.
#include "flame/fuse/device.cuh"
#include "flame/optim/numbers.h"

namespace flame::optim {

struct Item {
  int64_t steps, slot;  // calls of step() with a gradient; the place among the counts
  Hyper h;
};
struct Items {
  int64_t count;
  Item item[400];
};

// factor: NaN where the step is skipped.
extern "C" __global__ void __launch_bounds__(256)
    step_numbers(const __grid_constant__ Items all, const double* factor, int64_t* skipped, double* arguments) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= all.count) return;
  const Item& t = all.item[i];
  if (*factor != *factor) ++skipped[t.slot];
  else numbers::FLAME_NUMBERS(t.h, static_cast<double>(t.steps - skipped[t.slot]), arguments + 10 * i);
}

}  // namespace flame::optim
