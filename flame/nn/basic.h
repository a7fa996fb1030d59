// Small layers without parameters, for Sequential; activations are in activation.h.
#pragma once
#include "flame/nn/module.h"

namespace flame::nn {

struct DropoutOptions {
  double p = 0.5;  // the probability of a zero
};
// Zeroes elements while training and scales the rest by 1 / (1 - p); the identity in eval mode.
class Dropout : public Layer {
 public:
  using Options = DropoutOptions;
  explicit Dropout(const Options& o = {}, Loc loc = Loc::current()) : Dropout(nullptr, {}, o, loc) {}
  Dropout(Module& parent, std::string name, const Options& o = {}, Loc loc = Loc::current())
      : Dropout(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;

 private:
  Dropout(Module* parent, std::string name, const Options& o, Loc loc);
};

struct FlattenOptions {
  int64_t from = 1, to = -1;  // the axes that become one
};
class Flatten : public Layer {
 public:
  using Options = FlattenOptions;
  explicit Flatten(const Options& o = {}) : options(o) {}
  Flatten(Module& parent, std::string name, const Options& o = {}, Loc loc = Loc::current())
      : Layer(parent, std::move(name), loc), options(o) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
};

}  // namespace flame::nn
