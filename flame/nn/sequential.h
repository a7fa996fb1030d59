// Containers: Sequential runs layers one after the other, ModuleList keeps modules of one kind.
#pragma once
#include <concepts>
#include <functional>
#include <memory>

#include "flame/nn/module.h"

namespace flame::nn {

// How to make one step of a Sequential in its place: from layer<...>(options), or from a function of one tensor.
class LayerMaker {
 public:
  using Make = std::function<std::unique_ptr<Layer>(Module& parent, std::string name, Loc loc)>;
  explicit LayerMaker(Make make) : make_(std::move(make)) {}
  template <class F>
    requires std::convertible_to<std::invoke_result_t<F&, const Tensor&>, Tensor>
  LayerMaker(F fn) : LayerMaker(of_function(std::move(fn))) {}
  std::unique_ptr<Layer> operator()(Module& parent, std::string name, Loc loc) const {
    return make_(parent, std::move(name), loc);
  }

 private:
  static LayerMaker of_function(std::function<Tensor(const Tensor&)> fn);
  Make make_;
};

// layer<Linear>({.in = 3, .out = 4}), layer<ReLU>(): for Sequential's list.
template <class M>
LayerMaker layer(const typename M::Options& o) {
  return LayerMaker(LayerMaker::Make([o](Module& parent, std::string name, Loc loc) -> std::unique_ptr<Layer> {
    return std::make_unique<M>(parent, std::move(name), o, loc);
  }));
}
template <class M>
LayerMaker layer() {
  return LayerMaker(LayerMaker::Make([](Module& parent, std::string name, Loc) -> std::unique_ptr<Layer> {
    return std::make_unique<M>(parent, std::move(name));
  }));
}

// Steps are named "0", "1", ... unless add() is given a name.
//   nn::Sequential body{*this, "body", {nn::layer<nn::Linear>({.in = 784, .out = 128}), nn::layer<nn::ReLU>()}};
class Sequential : public Layer {
 public:
  explicit Sequential(std::initializer_list<LayerMaker> steps = {}, Loc loc = Loc::current())
      : Sequential(nullptr, {}, steps, loc) {}
  Sequential(Module& parent, std::string name, std::initializer_list<LayerMaker> steps = {}, Loc loc = Loc::current())
      : Sequential(&parent, std::move(name), steps, loc) {}

  Sequential& add(const LayerMaker& step, Loc loc = Loc::current());
  Sequential& add(std::string name, const LayerMaker& step, Loc loc = Loc::current());
  size_t size() const { return steps_.size(); }
  Layer& operator[](size_t i) const { return at(i); }
  Layer& at(size_t i, Loc loc = Loc::current()) const;  // IndexError

  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override { return "Sequential"; }

 private:
  Sequential(Module* parent, std::string name, std::initializer_list<LayerMaker> steps, Loc loc);
  std::vector<std::unique_ptr<Layer>> steps_;
};

// Modules of one type, named "0", "1", ...
//   nn::ModuleList<Block> blocks{*this, "blocks"};   blocks.add({.width = 64});   for (Block& b : blocks) x = b(x);
template <class M>
class ModuleList : public Module {
 public:
  using Module::Module;
  template <class... Args>
  M& add(Args&&... args) {
    return keep(std::make_unique<M>(*this, std::to_string(items_.size()), std::forward<Args>(args)...));
  }
  template <class T = M>
  M& add(const typename T::Options& o, Loc loc = Loc::current()) {
    return keep(std::make_unique<M>(*this, std::to_string(items_.size()), o, loc));
  }
  size_t size() const { return items_.size(); }
  M& operator[](size_t i) const { return *items_[i]; }

  class Iterator {
   public:
    explicit Iterator(const std::unique_ptr<M>* at) : at_(at) {}
    M& operator*() const { return **at_; }
    Iterator& operator++() { return ++at_, *this; }
    bool operator==(const Iterator&) const = default;

   private:
    const std::unique_ptr<M>* at_;
  };
  Iterator begin() const { return Iterator(items_.data()); }
  Iterator end() const { return Iterator(items_.data() + items_.size()); }
  std::string kind() const override { return "ModuleList"; }

 private:
  M& keep(std::unique_ptr<M> m) { return *items_.emplace_back(std::move(m)); }
  std::vector<std::unique_ptr<M>> items_;
};

}  // namespace flame::nn
