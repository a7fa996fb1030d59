// Graph nodes: life and death, leaves, and the Tensor and Parameter methods that speak of gradients.
#include "flame/autograd/node.h"

#include "flame/autograd/autograd.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/device/recorder.h"
#include "flame/tensor/internal.h"
#include "flame/tensor/undo.h"

namespace flame {

namespace {
std::atomic<uint64_t> next_sequence{1};
}  // namespace

void retain_node(Node* n) { n->retain(); }
void release_node(Node* n) { n->release(); }

namespace {
thread_local const char* scope_name = nullptr;
}  // namespace

OpScope::OpScope(const char* name) : before_(scope_name) {
  if (!before_) scope_name = name;
}
OpScope::~OpScope() { scope_name = before_; }
const char* OpScope::current() { return scope_name; }

Node::Node(const char* name, Loc where, uint32_t outputs)
    : name(scope_name ? scope_name : name),
      where(where),
      sequence(next_sequence.fetch_add(1, std::memory_order_relaxed)),
      outputs(outputs) {}

void Node::dispose() {
  thread_local std::vector<Node*>* queue = nullptr;
  if (queue) {
    queue->push_back(this);
    return;
  }
  std::vector<Node*> mine{this};
  queue = &mine;
  while (!mine.empty()) {
    Node* n = mine.back();
    mine.pop_back();
    delete n;
  }
  queue = nullptr;
}

void LeafNode::backward(BackwardContext& v) {
  const Tensor& g = v.grads[0];
  if (g.shape() != shape)
    fail<AutogradError>(where, "backward: a leaf of shape {} got a gradient of shape {}", shape, g.shape());
  if (Recorder* r = Recorder::current()) {
    const Ref<LeafNode> self(this);
    r->guard(this, "which gradients are set",
             [self, set = held_grad().defined()] { return self->held_grad().defined() == set; });
  }
  const Tensor kept = v.create_graph ? g : g.detach();
  note_for_undo();
  Tensor before;  // dies after the lock is gone: its graph may hold objects of the user's
  const std::lock_guard lock(mutex_);
  before = grad_;
  grad_ = before.defined() ? add(before.to(dtype, where), kept.to(dtype, where), where) : kept;
}
Tensor LeafNode::grad() const {
  const std::lock_guard lock(mutex_);
  if (grad_.defined() && grad_.dtype() != dtype) grad_ = grad_.to(dtype, where);
  return grad_;
}
Tensor LeafNode::held_grad() const {
  const std::lock_guard lock(mutex_);
  return grad_;
}
void LeafNode::note_for_undo() {
  UndoScope::before_change(this, [this] {
    return [self = Ref<LeafNode>(this), old = held_grad()]() mutable {
      const std::lock_guard lock(self->mutex_);
      std::swap(self->grad_, old);
    };
  });
}
void LeafNode::set_grad(Tensor g) {
  note_for_undo();
  const std::lock_guard lock(mutex_);
  std::swap(grad_, g);  // the old one dies with the argument, after the lock is gone
}

namespace {
LeafNode* leaf_of(const GradEdge& e) { return e && e.node()->is_leaf() ? static_cast<LeafNode*>(e.node()) : nullptr; }
void check_grad(const char* op, const Tensor& g, const Shape& shape, DType t, Loc loc) {
  if (!g.defined()) return;
  if (g.shape() != shape) fail<ShapeError>(loc, "{}: expected shape {}, got {}", op, shape, g.shape());
  if (g.dtype() != t) fail<DTypeError>(loc, "{}: expected {}, got {}", op, t, g.dtype());
}
}  // namespace

Tensor& Tensor::requires_grad_(Loc loc) {
  if (!is_float(dtype())) fail<DTypeError>(loc, "requires_grad_: expected a floating dtype, got {}", dtype());
  if (!edge_) edge_ = GradEdge(new LeafNode(loc, shape(), dtype()), 0);
  return *this;
}
Tensor Tensor::grad() const {
  const LeafNode* leaf = leaf_of(edge_);
  return leaf ? leaf->grad() : Tensor();
}
void Tensor::set_grad(const Tensor& g, Loc loc) const {
  LeafNode* leaf = leaf_of(edge_);
  if (!leaf)
    fail<AutogradError>(loc, "set_grad: expected a leaf (requires_grad_), got {}",
                        edge_ ? edge_.node()->name : "a tensor without gradient");
  check_grad("set_grad", g, shape(), dtype(), loc);
  leaf->set_grad(g);
}
void Tensor::register_hook(std::function<Tensor(const Tensor&)> fn, Loc loc) const {
  if (!edge_) fail<AutogradError>(loc, "register_hook: the tensor has no gradient");
  edge_.node()->hooks.emplace_back(edge_.index(), std::move(fn));
}

Parameter::Parameter(const Tensor& initial, Loc loc) : State(initial, loc) {
  if (!is_float(dtype())) fail<DTypeError>(loc, "parameter: expected a floating dtype, got {}", dtype());
  cell_->leaf = GradEdge(new LeafNode(loc, shape(), dtype()), 0);
}
namespace {
LeafNode& leaf_of(const StateCell& c) { return static_cast<LeafNode&>(*(c.leaf ? c.leaf : c.frozen).node()); }
}  // namespace
Tensor Parameter::grad() const {
  value();
  return leaf_of(*cell_).grad();
}
Tensor held_grad(const Parameter& p) {
  p.value();
  return leaf_of(*p.value().cell).held_grad();
}
void Parameter::set_grad(const Tensor& g, Loc loc) const {
  check_grad("set_grad", g, shape(), dtype(), loc);
  leaf_of(*cell_).set_grad(g);
}
void Parameter::zero_grad() const { leaf_of(*cell_).set_grad({}); }
bool Parameter::requires_grad() const {
  value();
  return static_cast<bool>(cell_->leaf);
}
void Parameter::requires_grad_(bool on) const {
  value();
  if (on != static_cast<bool>(cell_->leaf)) std::swap(cell_->leaf, cell_->frozen);
}

}  // namespace flame
