// Modules: named parameters, buffers and children, registered by being members of one another.
// Registered things are known by their address, so a module is neither copied nor moved.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "flame/tensor/tensor.h"

namespace flame::nn {

class Module;

using NamedParameters = std::vector<std::pair<std::string, Parameter>>;
using NamedStates = std::vector<std::pair<std::string, State>>;
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

// A trained tensor, member of its module: `nn::Param gain{*this, "gain", ones({3})};`
// With an undefined tensor it registers nothing and stays undefined (an optional bias).
class Param : public Parameter {
 public:
  Param(Module& owner, std::string name, const Tensor& initial, Loc loc = Loc::current());
  ~Param();
  Param(const Param&) = delete;
  Param& operator=(const Param&) = delete;
  // Weight sharing: from now on this is the same parameter as `other`, of equal shape and dtype (ShapeError, DTypeError),
  // under both names: trained once, saved and loaded under each. Make optimizers afterwards.
  void share(const Param& other, Loc loc = Loc::current());

 private:
  friend class Module;
  Module& owner_;
};

// A tensor that is saved and moved with its module but not trained, such as running statistics.
class Buffer : public State {
 public:
  Buffer(Module& owner, std::string name, const Tensor& initial, Loc loc = Loc::current());
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

 private:
  friend class Module;
  Module& owner_;
};

// What load_state takes: tensors of a file, or the state of another module.
class StateEntries {
 public:
  StateEntries(std::initializer_list<std::pair<std::string, Tensor>> entries) : list_(entries) {}
  StateEntries(NamedTensors entries) : list_(std::move(entries)) {}
  StateEntries(const NamedStates& entries) : list_(entries.begin(), entries.end()) {}
  const NamedTensors& list() const { return list_; }

 private:
  NamedTensors list_;
};

struct LoadOptions {
  bool strict = true;  // a missing or unknown name throws ValueError
};
struct LoadReport {                  // what a lenient load skipped
  std::vector<std::string> missing;  // the module's, not among the entries; left as they are
  std::vector<std::string> unknown;  // the entries', not in the module
};

class Module {
 public:
  Module() : Module(nullptr, {}, Loc::current()) {}
  // A child of `parent`; names have no dots. Layers use the pointer form, where null means no parent.
  Module(Module& parent, std::string name, Loc loc = Loc::current()) : Module(&parent, std::move(name), loc) {}
  Module(Module* parent, std::string name, Loc loc);
  virtual ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // Dotted names, such as "conv1.weight": a module's own first, then its children's, in order of registration. A shared
  // parameter stands there once, under its first name.
  NamedParameters named_parameters() const;
  std::vector<Parameter> parameters() const;
  NamedStates named_buffers() const;
  std::vector<std::pair<std::string, Module*>> named_modules();  // this one first, under ""

  // Training mode is what dropout and batch norm ask for; both calls reach all children. A recorded step that asked is
  // only replayed in the same mode.
  void train(bool on = true);
  void eval() { train(false); }
  bool is_training() const;

  // Moves parameters and buffers to `d`, under new handles: make optimizers afterwards. Gradients are dropped.
  void to(Device& d, Loc loc = Loc::current());
  void zero_grad() const;
  void requires_grad_(bool on) const;  // freezes or thaws all parameters

  // Parameters and buffers of the tree, in order, shared ones under each of their names. The states are the module's own: a load writes through them.
  NamedStates state_dict() const;
  // Writes the entries into the states of the same name, cast to their dtype. Everything is checked first: ShapeError
  // for another shape, ValueError for a name that does not fit (with the nearest one); a failed load changes nothing.
  LoadReport load_state(const StateEntries& entries, const LoadOptions& o = {}, Loc loc = Loc::current());

  std::string summary() const;  // a table: layer, kind, parameters, count, and their total
  virtual std::string kind() const { return "Module"; }

 private:
  friend class Param;
  friend class Buffer;
  template <class T>
  using Named = std::vector<std::pair<std::string, T*>>;
  template <class F>
  void walk(const std::string& prefix, F&& fn) const;
  void check_name(const std::string& name, const char* what, Loc loc) const;

  Module* parent_ = nullptr;
  Named<Module> children_;
  Named<Param> params_;
  Named<Buffer> buffers_;
  const std::shared_ptr<bool> training_ = std::make_shared<bool>(true);  // shared with recorded steps
};

// A module from one tensor to one tensor; what Sequential is made of.
class Layer : public Module {
 public:
  using Module::Module;
  virtual Tensor forward(const Tensor& x, Loc loc = Loc::current()) = 0;
  Tensor operator()(const Tensor& x, Loc loc = Loc::current()) { return forward(x, loc); }
};

}  // namespace flame::nn
