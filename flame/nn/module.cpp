// The module tree: registration, names, modes, moves. Loading is in load_state.cpp, the table in summary.cpp.
#include "flame/nn/module.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "flame/core/format.h"
#include "flame/device/recorder.h"
#include "flame/nn/walk_internal.h"

namespace flame::nn {
namespace {

template <class List, class T>
void forget(List& list, const T* item) {
  std::erase_if(list, [&](const auto& entry) { return entry.second == item; });
}

}  // namespace

Param::Param(Module& owner, std::string name, const Tensor& initial, Loc loc) : owner_(owner) {
  if (!initial.defined()) return;
  owner.check_name(name, "parameter", loc);
  static_cast<Parameter&>(*this) = Parameter(initial, loc);
  owner.params_.emplace_back(std::move(name), this);
}
Param::~Param() {
  if (defined()) forget(owner_.params_, this);
}

void Param::share(const Param& other, Loc loc) {
  if (!defined() || !other.defined()) fail<ValueError>(loc, "share: expected two defined parameters");
  if (shape() != other.shape())
    fail<ShapeError>(loc, "share: expected a parameter of shape {}, got {}", shape(), other.shape());
  if (dtype() != other.dtype())
    fail<DTypeError>(loc, "share: expected a parameter of {}, got {}", dtype(), other.dtype());
  static_cast<Parameter&>(*this) = other;
}

Buffer::Buffer(Module& owner, std::string name, const Tensor& initial, Loc loc) : owner_(owner) {
  if (!initial.defined()) return;
  owner.check_name(name, "buffer", loc);
  static_cast<State&>(*this) = State(initial, loc);
  owner.buffers_.emplace_back(std::move(name), this);
}
Buffer::~Buffer() {
  if (defined()) forget(owner_.buffers_, this);
}

Module::Module(Module* parent, std::string name, Loc loc) {
  if (!parent) return;
  parent->check_name(name, "module", loc);
  parent_ = parent;
  parent->children_.emplace_back(std::move(name), this);
  *training_ = *parent->training_;
}

Module::~Module() {
  if (parent_) forget(parent_->children_, this);
  for (const auto& [name, child] : children_) child->parent_ = nullptr;
}

void Module::check_name(const std::string& name, const char* what, Loc loc) const {
  if (name.empty() || name.find('.') != std::string::npos)
    fail<ValueError>(loc, "module: expected a {} name without dots, got '{}'", what, name);
  const auto taken = [&](const auto& list) {
    return std::any_of(list.begin(), list.end(), [&](const auto& e) { return e.first == name; });
  };
  if (taken(children_) || taken(params_) || taken(buffers_))
    fail<ValueError>(loc, "module: expected a new {} name, got '{}', which is taken", what, name);
}

NamedParameters Module::named_parameters() const {
  NamedParameters out;
  std::unordered_set<const void*> seen;
  walk("", [&](const std::string& prefix, const Module& m) {
    for (const auto& [name, p] : m.params_)
      if (seen.insert(p->id()).second) out.emplace_back(prefix + name, *p);
  });
  return out;
}

std::vector<Parameter> Module::parameters() const {
  std::vector<Parameter> out;
  for (auto& [name, p] : named_parameters()) out.push_back(std::move(p));
  return out;
}

NamedStates Module::named_buffers() const {
  NamedStates out;
  walk("", [&](const std::string& prefix, const Module& m) {
    for (const auto& [name, b] : m.buffers_) out.emplace_back(prefix + name, *b);
  });
  return out;
}

std::vector<std::pair<std::string, Module*>> Module::named_modules() {
  std::vector<std::pair<std::string, Module*>> out;
  walk("", [&](const std::string& prefix, const Module& m) {
    out.emplace_back(prefix.substr(0, prefix.size() - !prefix.empty()), const_cast<Module*>(&m));
  });
  return out;
}

NamedStates Module::state_dict() const {
  NamedStates out;
  walk("", [&](const std::string& prefix, const Module& m) {
    for (const auto& [name, p] : m.params_) out.emplace_back(prefix + name, *p);
    for (const auto& [name, b] : m.buffers_) out.emplace_back(prefix + name, *b);
  });
  return out;
}

void Module::train(bool on) {
  *training_ = on;
  for (const auto& [name, child] : children_) child->train(on);
}

bool Module::is_training() const {
  if (Recorder* r = Recorder::current())
    r->guard(training_.get(), "train or eval mode", [flag = training_, now = *training_] { return *flag == now; });
  return *training_;
}

void Module::to(Device& d, Loc loc) {
  std::unordered_map<const void*, Parameter> moved;  // by the old one: what was shared stays so
  std::vector<Parameter> keep;                       // whose addresses may not come again meanwhile
  walk("", [&](const std::string&, const Module& m) {
    for (const auto& [name, p] : m.params_) {
      if (&p->device() == &d) continue;
      keep.push_back(*p);
      const auto [at, fresh] = moved.try_emplace(p->id());
      if (fresh) {
        at->second = Parameter(p->tensor().detach().to(d, loc), loc);
        at->second.requires_grad_(p->requires_grad());
      }
      static_cast<Parameter&>(*p) = at->second;
    }
    for (const auto& [name, b] : m.buffers_)
      if (&b->device() != &d) static_cast<State&>(*b) = State(b->tensor().to(d, loc), loc);
  });
}

void Module::zero_grad() const {
  for (const Parameter& p : parameters()) p.zero_grad();
}
void Module::requires_grad_(bool on) const {
  for (const Parameter& p : parameters()) p.requires_grad_(on);
}

}  // namespace flame::nn
