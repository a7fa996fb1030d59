// Sequential, and the layer that wraps a plain function.
#include "flame/nn/sequential.h"

#include "flame/core/format.h"

namespace flame::nn {
namespace {

class FunctionLayer : public Layer {
 public:
  FunctionLayer(Module& parent, std::string name, std::function<Tensor(const Tensor&)> fn, Loc loc)
      : Layer(parent, std::move(name), loc), fn_(std::move(fn)) {}
  Tensor forward(const Tensor& x, Loc) override { return fn_(x); }
  std::string kind() const override { return "function"; }

 private:
  const std::function<Tensor(const Tensor&)> fn_;
};

}  // namespace

LayerMaker LayerMaker::of_function(std::function<Tensor(const Tensor&)> fn) {
  return LayerMaker(Make([fn = std::move(fn)](Module& parent, std::string name, Loc loc) -> std::unique_ptr<Layer> {
    return std::make_unique<FunctionLayer>(parent, std::move(name), fn, loc);
  }));
}

Sequential::Sequential(Module* parent, std::string name, std::initializer_list<LayerMaker> steps, Loc loc)
    : Layer(parent, std::move(name), loc) {
  for (const LayerMaker& step : steps) add(step, loc);
}

Sequential& Sequential::add(const LayerMaker& step, Loc loc) { return add(std::to_string(steps_.size()), step, loc); }
Sequential& Sequential::add(std::string name, const LayerMaker& step, Loc loc) {
  steps_.push_back(step(*this, std::move(name), loc));
  return *this;
}

Layer& Sequential::at(size_t i, Loc loc) const {
  if (i >= steps_.size()) fail<IndexError>(loc, "Sequential: expected a step below {}, got {}", steps_.size(), i);
  return *steps_[i];
}

Tensor Sequential::forward(const Tensor& x, Loc loc) {
  Tensor y = x;
  for (const auto& step : steps_) y = step->forward(y, loc);
  return y;
}

}  // namespace flame::nn
