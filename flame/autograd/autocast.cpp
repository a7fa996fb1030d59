// The thread's autocast, and the casts that ops ask of it.
#include "flame/autograd/autocast.h"

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/fuse/island.h"
#include "flame/tensor/shadow.h"

namespace flame {

namespace {
thread_local std::optional<DType> mode;
thread_local int calls = 0;  // AutocastCalls that live and cast

bool narrow(DType t) { return t == DType::f16 || t == DType::bf16; }
bool is_cast(const Tensor& x) { return x.defined() && is_float(x.dtype()); }

// The cast of a weight. A leaf takes its gradient in 16 bits, anyone else in float32.
class ShadowNode final : public Node {
 public:
  ShadowNode(Loc where, const Tensor& weight) : Node("to", where, 1) { next.push_back(weight.edge()); }
  void backward(BackwardContext& c) override {
    const Tensor& g = c.grads[0];
    if (!g.defined()) return;
    c.given[0] = next[0].node()->is_leaf() && !c.create_graph ? g : g.to(DType::f32, where);
  }
};
}  // namespace

AutocastScope::AutocastScope(std::optional<DType> t, Loc loc) : before_(mode) {
  if (t && !narrow(*t)) fail<DTypeError>(loc, "autocast: expected float16 or bfloat16, got {}", *t);
  mode = t;
}
AutocastScope::~AutocastScope() { mode = before_; }
std::optional<DType> autocast_dtype() { return mode; }

bool autocasts() { return mode && !OpScope::current(); }
bool within_autocast() { return mode || calls > 0; }

DType autocast_result(AutocastOp, const Tensor& x) {
  if (!x.defined()) return DType::f32;  // about to be refused
  return narrow(x.dtype()) && autocasts() ? DType::f32 : x.dtype();
}

namespace {
// The dtype that the inputs are to have, if one is to be cast.
std::optional<DType> target(Precision p, std::span<const Tensor* const> in) {
  std::optional<DType> widest;
  for (const Tensor* x : in) {
    if (!is_cast(*x)) continue;
    if (x->dtype() == DType::f64) return {};
    widest = widest ? promote(*widest, x->dtype()) : x->dtype();
  }
  if (!widest) return {};
  const DType to = p == Precision::low ? *mode : p == Precision::wide ? DType::f32 : *widest;
  const bool same = std::ranges::all_of(in, [&](const Tensor* x) { return !is_cast(*x) || x->dtype() == to; });
  return same ? std::nullopt : std::optional(to);
}
}  // namespace

AutocastCall::AutocastCall(AutocastOp op, std::initializer_list<const Tensor*> in) : before_(mode) {
  if (!autocasts()) return;
  to_ = target(op.precision, {in.begin(), in.size()});
  suspend();
}
AutocastCall::AutocastCall(AutocastOp op, std::span<const Tensor> in) : before_(mode) {
  if (!autocasts()) return;
  std::vector<const Tensor*> all;
  all.reserve(in.size());
  for (const Tensor& x : in) all.push_back(&x);
  to_ = target(op.precision, all);
  suspend();
}
void AutocastCall::suspend() {
  if (!to_) return;
  mode.reset();
  ++calls;
}
AutocastCall::~AutocastCall() {
  if (!to_) return;
  mode = before_;
  --calls;
}

Tensor AutocastCall::operator()(const Tensor& x, Loc loc) const {
  if (!is_cast(x) || x.dtype() == *to_) return x;
  if (!narrow(*to_) || x.dtype() != DType::f32 || !x.value().cell) {
    if (narrow(*to_)) note_passing(x.value());
    return x.to(*to_, loc);
  }
  Ref<Value> shadow = shadow_of(x.value(), *to_, loc);
  if (!any_requires_grad({&x, 1})) return Tensor(std::move(shadow));
  const Ref<Node> node(new ShadowNode(loc, x));
  return Tensor(std::move(shadow), GradEdge(node.get(), 0));
}

}  // namespace flame
