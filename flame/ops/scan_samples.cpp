// Registers the scans with sample inputs: every layout, lines of one element and of none, zeros in products.
#include "flame/ops/samples_internal.h"
#include "flame/ops/scan.h"

namespace flame {
namespace {
using Inputs = std::vector<Tensor>;

std::vector<SampleCase> cases(DType t, const std::function<Inputs(const Tensor&, int64_t)>& fn) {
  const auto along = [&](int64_t axis) { return [fn, axis](const Inputs& in) { return fn(in[0], axis); }; };
  using namespace samples;
  return {
      {{uniform({3, 7}, t)}, along(-1), "rows"},
      {{uniform({7, 5}, t)}, along(0), "columns"},
      {{transposed({5, 4}, t)}, along(1), "rows of a transpose"},
      {{strided({2, 3, 4}, t)}, along(1), "middle axis, strided"},
      {{uniform({2, 67}, t, 3, 0.7, 1.4)}, along(1), "ragged"},
      {{uniform({3, 1}, t)}, along(1), "one element a line"},
      {{uniform({}, t)}, along(0), "0-d"},
      {{uniform({0, 3}, t)}, along(1), "no lines"},
      {{uniform({2, 0}, t)}, along(1), "no elements"},
  };
}
const RegisterOp registered[] = {
    RegisterOp(
        {.name = "cumsum",
         .signature = "cumsum(x, axis)",
         .formula = "y_i = x_0 + ... + x_i",
         .samples = [](DType t) { return cases(t, [](const Tensor& x, int64_t a) { return Inputs{cumsum(x, a)}; }); }}),
    RegisterOp(
        {.name = "cumprod",
         .signature = "cumprod(x, axis)",
         .formula = "y_i = x_0 ... x_i",
         .samples =
             [](DType t) {
               auto out = cases(t, [](const Tensor& x, int64_t a) { return Inputs{cumprod(x, a)}; });
               const Tensor zeros = Tensor::from(std::vector<double>{2, 0, 3, 0.5, 0, 1, 0, 0, -1, 2, 3, 4}, {3, 4});
               out.push_back({{zeros.to(t)}, [](const Inputs& in) { return Inputs{cumprod(in[0], 1)}; }, "zeros"});
               return out;
             }}),
    RegisterOp({.name = "logcumsumexp",
                .signature = "logcumsumexp(x, axis)",
                .formula = "y_i = ln(e^x_0 + ... + e^x_i)",
                .samples =
                    [](DType t) {
                      auto out = cases(t, [](const Tensor& x, int64_t a) { return Inputs{logcumsumexp(x, a)}; });
                      out.push_back({{samples::uniform({3, 9}, t, 1, -90, 90)},
                                     [](const Inputs& in) { return Inputs{logcumsumexp(in[0], 1)}; },
                                     "large numbers"});
                      return out;
                    }}),
    RegisterOp({.name = "cummax",
                .signature = "cummax(x, axis)",
                .formula = "the largest of x_0 ... x_i, and its place",
                .samples =
                    [](DType t) {
                      return cases(t, [](const Tensor& x, int64_t a) {
                        const auto [values, indices] = cummax(x, a);
                        return Inputs{values, indices};
                      });
                    }}),
    RegisterOp({.name = "cummin",
                .signature = "cummin(x, axis)",
                .formula = "the smallest of x_0 ... x_i, and its place",
                .samples =
                    [](DType t) {
                      return cases(t, [](const Tensor& x, int64_t a) {
                        const auto [values, indices] = cummin(x, a);
                        return Inputs{values, indices};
                      });
                    }}),
};
}  // namespace

}  // namespace flame
