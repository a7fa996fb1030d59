// unique, composed: sorted, an element that differs from the one before begins a new value.
#include "flame/ops/unique.h"

#include "flame/ops/cat.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/gather.h"
#include "flame/ops/mask.h"
#include "flame/ops/samples_internal.h"
#include "flame/ops/scan.h"
#include "flame/ops/scatter.h"
#include "flame/ops/sort.h"

namespace flame {

Unique unique(const Tensor& x, Loc loc) {
  check_defined("unique", x, loc);
  const int64_t n = x.numel();
  const ValuesAndIndices sorted = sort(x.detach().reshape({n}, loc), {}, loc);
  const auto number = [&](const Shape& s, int64_t v) { return full(s, v, DType::i64, x.device(), loc); };
  if (n == 0) return {sorted.values, number(x.shape(), 0), number({0}, 0)};
  const Tensor begins = cat({full({1}, true, DType::boolean, x.device(), loc),
                             ne(sorted.values.narrow(0, 1, n - 1, loc), sorted.values.narrow(0, 0, n - 1, loc), loc)},
                            0, loc);
  const Tensor starts = nonzero(begins, loc).reshape({-1}, loc);
  const Tensor which = sub(cumsum(begins.to(DType::i64, loc), 0, loc), 1, loc);
  const Tensor counts = scatter_add(number({n}, 0), 0, which, number({n}, 1), loc).narrow(0, 0, starts.numel(), loc);
  return {index_select(sorted.values, 0, starts, loc),
          scatter(number({n}, 0), 0, sorted.indices, which, loc).reshape(x.shape(), loc), counts};
}

namespace {
const RegisterOp registered({
    .name = "unique",
    .signature = "unique(x)",
    .formula = "the different elements in rising order, which of them each element is, and how many there are of each",
    .differentiable = false,
    .samples =
        [](DType t) {
          const auto run = [](const std::vector<Tensor>& in) {
            const Unique u = unique(in[0]);
            return std::vector<Tensor>{u.values, u.inverse, u.counts};
          };
          using namespace samples;
          const auto few = [t](const Shape& s) { return classes(s, 4).to(t) - 1; };
          return std::vector<SampleCase>{
              {{few({3, 5})}, run, "repeated", -1, true},
              {{few({7, 2}).t()}, run, "transposed", -1, true},
              {{strided({2, 6}, t)}, run, "all different", -1, true},
              {{uniform({}, t)}, run, "0-d", -1, true},
              {{uniform({0, 3}, t)}, run, "empty", -1, true},
          };
        },
});
}  // namespace

}  // namespace flame
