// The thread's modes and scopes: graph on or off, inference, hooks on saved tensors; and how a saved value is packed.
#include "flame/autograd/modes.h"

#include "flame/autograd/node.h"
#include "flame/core/format.h"

namespace flame {

namespace {
thread_local bool grad_on = true;
thread_local bool inference = false;
thread_local std::shared_ptr<const SavedTensorHooks> saved_hooks;
thread_local BackwardPass* pass = nullptr;
}  // namespace

bool grad_enabled() { return grad_on && !inference; }
void set_grad_enabled(bool on) { grad_on = on; }
GradMode::GradMode(bool on) : before_(grad_on) { grad_on = on; }
GradMode::~GradMode() { grad_on = before_; }
InferenceMode::InferenceMode(bool on) : before_(inference) { inference = on; }
InferenceMode::~InferenceMode() { inference = before_; }
bool InferenceMode::enabled() { return inference; }

bool any_requires_grad(std::span<const Tensor> in) {
  if (!grad_enabled()) return false;
  for (const Tensor& t : in)
    if (t.requires_grad()) return true;
  return false;
}

SavedTensorHooksScope::SavedTensorHooksScope(SavedTensorHooks hooks, Loc loc) : before_(saved_hooks) {
  if (!hooks.pack || !hooks.unpack)
    fail<ValueError>(loc, "saved tensor hooks: expected pack and unpack, got {}",
                     hooks.pack     ? "no unpack"
                     : hooks.unpack ? "no pack"
                                    : "neither");
  saved_hooks = std::make_shared<const SavedTensorHooks>(std::move(hooks));
}
SavedTensorHooksScope::~SavedTensorHooksScope() { saved_hooks = std::move(before_); }
const std::shared_ptr<const SavedTensorHooks>& SavedTensorHooksScope::current() { return saved_hooks; }

BackwardPass::BackwardPass(uint64_t id) : id(id), before_(std::exchange(pass, this)) {}
BackwardPass::~BackwardPass() {
  pass = before_;
  for (const auto& fn : at_end) fn();
}
BackwardPass* BackwardPass::current() { return pass; }

void SavedValue::pack(const Ref<Value>& v, const std::shared_ptr<const SavedTensorHooks>& hooks) {
  NoGrad guard;
  packed_ = std::make_unique<Packed>(Packed{hooks, hooks->pack(Tensor(v)), v->dtype, v->shape, v->device});
}

Ref<Value> SavedValue::unpack(const Node& n) const {
  NoGrad guard;
  const Packed& p = *packed_;
  const Tensor t = p.hooks->unpack(p.what);
  if (!t.defined())
    fail<AutogradError>(n.where, "backward of {}: expected {} {} from the unpack hook, got an undefined tensor", n.name,
                        p.dtype, p.shape);
  if (t.dtype() != p.dtype || t.shape() != p.shape || &t.device() != p.device)
    fail<AutogradError>(n.where, "backward of {}: expected {} {} on {} from the unpack hook, got {} {} on {}", n.name,
                        p.dtype, p.shape, p.device->name(), t.dtype(), t.shape(), t.device().name());
  return t.value_ref();
}

}  // namespace flame
