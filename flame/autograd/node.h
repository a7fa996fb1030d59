// Internal: steps of the backward graph, and the one place where opaque ops are dispatched.
#pragma once
#include <any>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>

#include "flame/autograd/marks.h"
#include "flame/autograd/modes.h"
#include "flame/autograd/saved.h"
#include "flame/tensor/op.h"

namespace flame {

// The n-th node made has sequence number n, so consumers always have a higher one than producers.
class Node : public RefCounted {
 public:
  Node(const char* name, Loc where, uint32_t outputs);
  const char* name;
  Loc where;
  const uint64_t sequence;
  uint32_t outputs;
  std::vector<GradEdge> next;  // one per input; null where no gradient flows

  // Gives each needed input's gradient, through `v`. `v` holds the incoming gradients.
  virtual void backward(class BackwardContext& v) = 0;
  virtual void release_saved() {}  // after backward without retain_graph
  virtual bool is_leaf() const { return false; }

  using Hook = std::function<Tensor(const Tensor&)>;
  std::vector<std::pair<uint32_t, Hook>> hooks;  // output index, function
  // Backward passes may nest and run on several threads: the pass whose id is in `owner` (0: none) keeps its place for
  // this node in `slot`, any other one in a table of its own.
  std::atomic<uint64_t> owner{0};
  uint32_t slot = 0;

 protected:
  ~Node() override = default;
  void dispose() override;  // iterative, so that a chain of a million nodes needs no deep stack
};

// A value that a node keeps for its backward, packed if a SavedTensorHooksScope is around. Holds no edge.
class SavedValue {
 public:
  void save(const Ref<Value>& v) {
    if (const auto& hooks = SavedTensorHooksScope::current()) pack(v, hooks);
    else value_ = v;
  }
  explicit operator bool() const { return value_ || packed_; }
  bool is_packed() const { return packed_ != nullptr; }
  Ref<Value> get(const Node& n) const { return packed_ ? unpack(n) : value_; }
  void reset() {
    value_.reset();
    packed_.reset();
  }

 private:
  struct Packed {
    std::shared_ptr<const SavedTensorHooks> hooks;
    std::any what;
    DType dtype;
    Shape shape;
    Device* device;
  };
  Ref<Value> value_;
  std::unique_ptr<Packed> packed_;
  void pack(const Ref<Value>& v, const std::shared_ptr<const SavedTensorHooks>& hooks);
  Ref<Value> unpack(const Node& n) const;
};

// A backward pass that runs on this thread.
class BackwardPass {
 public:
  explicit BackwardPass(uint64_t id);
  ~BackwardPass();
  BackwardPass(const BackwardPass&) = delete;
  BackwardPass& operator=(const BackwardPass&) = delete;
  static BackwardPass* current();  // the innermost, or null
  const uint64_t id;
  std::vector<std::function<void()>> at_end;

 private:
  BackwardPass* const before_;
};

// A tensor that the user or a Parameter asked gradients of. A gradient that a cast to 16 bits passes on stays in them until
// someone wants it otherwise, or another one joins it: the numbers are the same, and an optimizer reads half the bytes.
class LeafNode final : public Node {
 public:
  LeafNode(Loc where, const Shape& shape, DType t) : Node("leaf", where, 1), shape(shape), dtype(t) {}
  void backward(BackwardContext& v) override;  // adds to the gradient
  bool is_leaf() const override { return true; }
  Tensor grad() const;  // in the leaf's dtype
  Tensor held_grad() const;
  void set_grad(Tensor g);
  const Shape shape;
  const DType dtype;

 private:
  void note_for_undo();
  mutable std::mutex mutex_;  // threads may run backward over graphs that share a leaf
  mutable Tensor grad_;       // widened when it is asked for
};

// Lets the launch of a node write a sum of gradients instead of its own part.
class GradientSink {
 public:
  // Takes the gradient that others have given this input so far. The node then gives its own added to that (arrived + own,
  // each rounded as an op of its own), which nobody can tell from the sum that the pass would make. Undefined if there is
  // none, it is not materialised, or not a contiguous tensor of this device, dtype and shape.
  virtual Tensor take_arrived(const Node& n, size_t input, const Device& d, DType t, const Shape& shape) = 0;

 protected:
  ~GradientSink() = default;
};

// What Node::backward sees.
class BackwardContext {
 public:
  explicit BackwardContext(GradientSink& sink) : sink(sink) {}
  GradientSink& sink;
  std::vector<Tensor> grads;  // one per output; undefined if none arrived
  std::vector<Tensor> given;  // one per input, undefined where nothing flows
  bool create_graph = false;
  const Marks* marks = nullptr;  // null: every leaf is wanted
  bool leads(const Node* n) const {
    if (!marks) return true;
    const Mark* m = marks->find(n->sequence);
    return m && m->leads;
  }
  bool needs(const Node& n, size_t input) const { return n.next[input] && leads(n.next[input].node()); }
};

// A Parameter's gradient as its leaf holds it: in the parameter's dtype or, of a float32 one, in 16 bits.
Tensor held_grad(const Parameter& p);

// Implemented by ops; gradients that meet are added by it.
Tensor add(const Tensor& a, const Tensor& b, Loc loc);

// A tensor of one number, pending until read.
Tensor filled(const Meta& m, Device& d, double value);

// Runs `op` on `in`: infers, materialises, prepares or finds the plan, allocates, launches, and records the gradient.
std::vector<Tensor> dispatch_multi(const Ref<Op>& op, std::span<const Tensor> in, Loc loc);
// As dispatch_multi where no graph is built, for an op whose output `output` may lie where its input `input` does, with the same
// metadata: it takes that memory if the caller's handle in `in` is the only one, and what is read through it is then the result.
std::vector<Tensor> dispatch_over(const Ref<Op>& op, std::span<const Tensor> in, size_t input, size_t output, Loc loc);
Tensor dispatch(const Ref<Op>& op, std::initializer_list<Tensor> in, Loc loc);
Tensor dispatch(const Ref<Op>& op, std::span<const Tensor> in, Loc loc);

// A composed op with its own rule: `out` was computed from `in` without a graph; `rule` gives the gradients.
// `saved` is freed with the graph and goes through the hooks on saved tensors, so a rule captures no tensor itself. Rules
// run with the graph on if create_graph is set; then saved inputs and outputs are handed out with their edges.
struct CustomContext {
  std::vector<Tensor> saved;
  std::vector<Tensor> grads;  // incoming, one per output; zeros where nothing arrived
  std::vector<bool> needs;    // one per input
  bool create_graph;
  GradientSink& sink;
  const Node& node;
  Tensor take_arrived(size_t input, const Device& d, DType t, const Shape& shape) const {
    return sink.take_arrived(node, input, d, t, shape);
  }
};
using Rule = std::function<std::vector<Tensor>(const CustomContext&)>;  // one gradient per input, undefined = none
std::vector<Tensor> with_rule(const char* name, std::span<const Tensor> in, std::vector<Tensor> out,
                              const std::vector<Tensor>& saved, Rule rule, Loc loc);

// True if a graph is to be built for these inputs.
bool any_requires_grad(std::span<const Tensor> in);

}  // namespace flame
