// The layers without parameters: each a call of its op.
#include "flame/nn/basic.h"

#include "flame/core/format.h"
#include "flame/ops/dropout.h"

namespace flame::nn {

Dropout::Dropout(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc), options(o) {
  if (!(o.p >= 0 && o.p <= 1)) fail<ValueError>(loc, "Dropout: expected p in [0, 1], got {}", o.p);
}
Tensor Dropout::forward(const Tensor& x, Loc loc) { return dropout(x, options.p, is_training(), nullptr, loc); }
std::string Dropout::kind() const { return fmt::format("Dropout({})", options.p); }

Tensor Flatten::forward(const Tensor& x, Loc loc) { return x.flatten(options.from, options.to, loc); }
std::string Flatten::kind() const { return fmt::format("Flatten({}, {})", options.from, options.to); }

}  // namespace flame::nn
