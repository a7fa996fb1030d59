// The layers without parameters: each a call of its op.
#include "flame/nn/basic.h"

#include "flame/core/format.h"
#include "flame/ops/dropout.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/pool2d.h"

namespace flame::nn {

Dropout::Dropout(Module* parent, std::string name, const Options& o, Loc loc) : Layer(parent, std::move(name), loc), options(o) {
  if (!(o.p >= 0 && o.p <= 1)) fail<ValueError>(loc, "Dropout: expected p in [0, 1], got {}", o.p);
}
Tensor Dropout::forward(const Tensor& x, Loc loc) { return dropout(x, options.p, is_training(), nullptr, loc); }
std::string Dropout::kind() const { return fmt::format("Dropout({})", options.p); }

Tensor ReLU::forward(const Tensor& x, Loc loc) { return relu(x, loc); }

Tensor Flatten::forward(const Tensor& x, Loc loc) { return x.flatten(options.from, options.to, loc); }
std::string Flatten::kind() const { return fmt::format("Flatten({}, {})", options.from, options.to); }

MaxPool2d::MaxPool2d(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc), options(o) {
  if (o.kernel < 1 || o.stride < 0 || o.padding < 0 || o.dilation < 1)
    fail<ValueError>(loc, "MaxPool2d: expected a kernel of 1 or more, got kernel {}, stride {}, padding {}, dilation {}", o.kernel,
                     o.stride, o.padding, o.dilation);
}
Tensor MaxPool2d::forward(const Tensor& x, Loc loc) {
  return max_pool2d(x, {.kernel = options.kernel, .stride = options.stride, .padding = options.padding, .dilation = options.dilation},
                    loc);
}
std::string MaxPool2d::kind() const {
  std::string out = fmt::format("MaxPool2d({}", options.kernel);
  if (options.stride != 0) out += fmt::format(", stride {}", options.stride);
  if (options.padding != 0) out += fmt::format(", padding {}", options.padding);
  return out + ")";
}

}  // namespace flame::nn
