// Internal: the one walk over a module tree, parents before children, with the dotted prefix of each module.
#pragma once
#include "flame/nn/module.h"

namespace flame::nn {

// fn(prefix, module); the prefix is empty or ends in a dot.
template <class F>
void Module::walk(const std::string& prefix, F&& fn) const {
  fn(prefix, *this);
  for (const auto& [name, child] : children_) child->walk(prefix + name + '.', fn);
}

}  // namespace flame::nn
