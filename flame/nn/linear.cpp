// Linear: checks its sizes, draws its weights, and leaves the product to ops/linear.h.
#include "flame/nn/linear.h"

#include <cmath>

#include "flame/core/format.h"
#include "flame/ops/linear.h"
#include "flame/ops/random.h"

namespace flame::nn {
namespace {
const LinearOptions& checked(const LinearOptions& o, Loc loc) {
  if (o.in < 1 || o.out < 1)
    fail<ValueError>(loc, "Linear: expected in and out of 1 or more, got in {} and out {}", o.in, o.out);
  if (!is_float(o.dtype)) fail<DTypeError>(loc, "Linear: expected a floating dtype, got {}", o.dtype);
  return o;
}
Tensor draw(const Shape& shape, const LinearOptions& o, Loc loc) {
  const double bound = 1 / std::sqrt(static_cast<double>(o.in));
  return flame::uniform(shape, -bound, bound, {.dtype = o.dtype}, loc);
}
}  // namespace

Linear::Linear(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked(o, loc)),
      weight(*this, "weight", draw({o.out, o.in}, o, loc), loc),
      bias(*this, "bias", o.bias ? draw({o.out}, o, loc) : Tensor{}, loc) {}

Tensor Linear::forward(const Tensor& x, Loc loc) {
  return linear(x, weight.tensor(), bias.defined() ? bias.tensor() : Tensor{}, {.activation = options.activation}, loc);
}

std::string Linear::kind() const {
  constexpr const char* activations[] = {"", ", relu", ", gelu", ", gelu_tanh"};
  return fmt::format("Linear({}, {}{}{})", options.in, options.out, options.bias ? "" : ", no bias",
                     activations[static_cast<int>(options.activation)]);
}

}  // namespace flame::nn
