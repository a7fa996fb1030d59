// The backward engine: nodes in falling order of their making, from a heap. Nothing here recurses over the graph;
// passes may nest (a hook or rule may run backward) and threads may share leaves.
#include <algorithm>
#include <unordered_map>

#include "flame/autograd/autocast.h"
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/profile.h"
#include "flame/fuse/island.h"

namespace flame {

namespace {

thread_local bool anomaly = false;
std::atomic<uint64_t> next_run{1};

bool all_finite(const Tensor& g) {
  if (!is_float(g.dtype()) || g.numel() == 0) return true;
  Ref<Value> ok = pend_pointwise(Code::isfinite, DType::boolean, g.shape(), {Operand(g)}, g.device());
  return Tensor(pend_reduce(Reduce::all, ok, ~0u)).item() != 0;
}

struct Wanted {
  GradEdge edge;
  Tensor found;
};

class Engine final : GradientSink {
 public:
  Engine(bool retain, bool create_graph) : retain_(retain), run_(next_run.fetch_add(1, std::memory_order_relaxed)) {
    context_.create_graph = create_graph;
  }
  // For grad: runs only the nodes between `outputs` and the wanted ones.
  Engine(bool retain, bool create_graph, const std::vector<Tensor>& outputs, std::vector<Wanted>& wanted)
      : Engine(retain, create_graph) {
    wanted_ = &wanted;
    context_.marks = &marks_;
    mark(outputs);
  }
  ~Engine() {
    for (const auto& [sequence, slot] : heap_) leave(*entries_[slot].node);  // of a pass that threw
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void seed(const Tensor& output, const Tensor& gradient) { push(output.edge(), gradient); }

  void run() {
    const GradMode mode(context_.create_graph);
    const NoAutocast as_forward;  // whose dtypes the rules compute in
    const BackwardPass pass(run_);
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end());
      const auto [sequence, slot] = heap_.back();
      heap_.pop_back();
      step(slot);
    }
  }

 private:
  struct Entry {
    Ref<Node> node;
    std::vector<Tensor> grads;
  };
  bool retain_;
  uint64_t run_;
  std::vector<Wanted>* wanted_ = nullptr;
  Marks marks_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> free_;
  std::vector<std::pair<uint64_t, uint32_t>> heap_;   // sequence, entry
  std::unordered_map<const Node*, uint32_t> others_;  // entries of nodes that another pass owns
  BackwardContext context_{*this};

  // Depth first, without recursion. Producers are older than consumers, so a node met again is done.
  void mark(const std::vector<Tensor>& outputs) {
    uint64_t oldest = ~uint64_t{0};
    for (const Wanted& w : *wanted_) {
      const uint64_t sequence = w.edge.node()->sequence;
      oldest = std::min(oldest, sequence);
      Mark& m = marks_.at(sequence);
      m.wanted = m.leads = true;
    }
    struct Visit {
      const Node* node;
      bool leads;
      size_t next;
    };
    std::vector<Visit> path;
    const auto meet = [&](const Node* n, bool& leads) {
      if (!n || n->sequence < oldest) return;
      Mark& m = marks_.at(n->sequence);
      leads |= m.leads;
      if (!std::exchange(m.visited, true)) path.push_back({n, m.leads, 0});
    };
    for (const Tensor& t : outputs) {
      bool unused = false;
      meet(t.edge().node(), unused);
      while (!path.empty()) {
        Visit& v = path.back();
        if (v.next < v.node->next.size()) {
          meet(v.node->next[v.next++].node(), v.leads);
          continue;
        }
        const bool leads = v.leads;
        marks_.at(v.node->sequence).leads = leads;
        path.pop_back();
        if (!path.empty()) path.back().leads |= leads;
      }
    }
  }

  static constexpr uint32_t nowhere = ~0u;
  uint32_t known_slot(const Node& n) const {
    if (n.owner.load(std::memory_order_relaxed) == run_) return n.slot;
    if (!others_.empty())
      if (const auto found = others_.find(&n); found != others_.end()) return found->second;
    return nowhere;
  }
  uint32_t slot_of(Node& n) {
    if (const uint32_t known = known_slot(n); known != nowhere) return known;
    if (free_.empty()) {
      free_.push_back(static_cast<uint32_t>(entries_.size()));
      entries_.emplace_back();
    }
    const uint32_t slot = free_.back();
    entries_[slot].node = Ref<Node>(&n);
    entries_[slot].grads.assign(n.outputs, Tensor());
    heap_.emplace_back(n.sequence, slot);
    std::push_heap(heap_.begin(), heap_.end());
    free_.pop_back();
    uint64_t nobody = 0;
    if (n.owner.compare_exchange_strong(nobody, run_, std::memory_order_acquire, std::memory_order_relaxed))
      n.slot = slot;
    else others_.emplace(&n, slot);
    return slot;
  }
  void leave(Node& n) {
    if (n.owner.load(std::memory_order_relaxed) == run_) n.owner.store(0, std::memory_order_release);
    else others_.erase(&n);
  }

  void push(const GradEdge& e, const Tensor& g) {
    if (!context_.leads(e.node())) return;
    Tensor& sum = entries_[slot_of(*e.node())].grads[e.index()];
    sum = sum.defined() ? add(whole(*e.node(), sum), whole(*e.node(), g), e.node()->where) : g;
  }
  // What arrived is added first, as in `push`. An input that stands twice gets two parts, whose order would change.
  Tensor take_arrived(const Node& n, size_t input, const Device& d, DType t, const Shape& shape) override {
    const GradEdge& e = n.next[input];
    if (context_.create_graph || anomaly || !e) return {};
    const uint32_t slot = known_slot(*e.node());
    if (slot == nowhere) return {};
    Tensor& g = entries_[slot].grads[e.index()];
    if (!g.defined() || g.value().pending() || &g.device() != &d || g.dtype() != t || g.shape() != shape ||
        !is_contiguous(g.shape(), g.strides()))
      return {};
    if (std::count_if(n.next.begin(), n.next.end(),
                      [&](const GradEdge& o) { return o.node() == e.node() && o.index() == e.index(); }) > 1)
      return {};
    return std::exchange(g, Tensor());
  }
  // A leaf's gradient may come in 16 bits from a cast; it is added up and shown in the leaf's dtype.
  static Tensor whole(const Node& n, const Tensor& g) {
    if (!n.is_leaf() || !g.defined()) return g;
    const DType t = static_cast<const LeafNode&>(n).dtype;
    return g.dtype() == t ? g : g.to(t, n.where);
  }

  void step(uint32_t slot) {
    BackwardContext& c = context_;
    const Ref<Node> node = std::move(entries_[slot].node);
    leave(*node);
    std::swap(c.grads, entries_[slot].grads);
    free_.push_back(slot);
    if (node->is_leaf() && (wanted_ || c.create_graph || !node->hooks.empty())) c.grads[0] = whole(*node, c.grads[0]);
    if (!node->hooks.empty()) run_hooks(*node);
    if (anomaly) check_incoming(*node);
    if (wanted_ && !capture(*node)) return c.grads.clear();
    c.given.assign(node->next.size(), Tensor());
    {
      const ProfileRange range(RangeKind::backward, node->name, node->where);
      node->backward(c);
    }
    c.grads.clear();
    for (size_t i = 0; i < node->next.size(); ++i) {
      if (!c.given[i].defined() || !node->next[i]) continue;
      if (anomaly && !all_finite(c.given[i]))
        fail<AutogradError>(node->where,
                            "backward of {}: the gradient of input {} has NaN or Inf; its forward call was", node->name,
                            i);
      push(node->next[i], c.given[i]);
    }
    c.given.clear();
    if (!retain_) node->release_saved();
  }

  // Seeds, sums and what hooks gave; what rules gave was checked when they gave it.
  void check_incoming(const Node& n) const {
    for (size_t i = 0; i < context_.grads.size(); ++i)
      if (context_.grads[i].defined() && !all_finite(context_.grads[i]))
        fail<AutogradError>(n.where,
                            "backward of {}: the incoming gradient of output {} has NaN or Inf; its forward call was",
                            n.name, i);
  }

  // A hook may register more, which moves the others; those run from the next pass on.
  void run_hooks(Node& n) {
    for (size_t i = 0, count = n.hooks.size(); i < count; ++i) {
      const auto [index, hook] = n.hooks[i];
      Tensor& g = context_.grads[index];
      if (!g.defined()) continue;
      Tensor replaced = hook(g);
      if (!replaced.defined()) continue;
      if (replaced.shape() != g.shape() || replaced.dtype() != g.dtype())
        fail<AutogradError>(n.where, "hook of {}: expected a gradient of {} {}, got {} {}", n.name, g.dtype(),
                            g.shape(), replaced.dtype(), replaced.shape());
      g = std::move(replaced);
    }
  }

  // Takes what is wanted of this node; false if nothing further down is.
  bool capture(const Node& n) {
    if (!marks_.at(n.sequence).wanted) return true;
    for (Wanted& w : *wanted_)
      if (w.edge.node() == &n) w.found = context_.grads[w.edge.index()];
    return std::any_of(n.next.begin(), n.next.end(), [&](const GradEdge& e) { return e && context_.leads(e.node()); });
  }
};

Tensor seed_gradient(const char* op, const Tensor& output, const Tensor& given, Loc loc) {
  if (!output.requires_grad())
    fail<AutogradError>(loc, "{}: the output does not depend on anything that requires a gradient", op);
  if (!given.defined()) {
    if (output.numel() != 1)
      fail<ShapeError>(loc, "{}: expected a gradient for the output of shape {}; only one element needs none", op,
                       output.shape());
    return filled(output.value().meta(), output.device(), 1);
  }
  if (given.shape() != output.shape())
    fail<ShapeError>(loc, "{}: expected a gradient of shape {}, got {}", op, output.shape(), given.shape());
  if (given.dtype() != output.dtype())
    fail<DTypeError>(loc, "{}: expected a gradient of {}, got {}", op, output.dtype(), given.dtype());
  return given;
}

}  // namespace

AnomalyMode::AnomalyMode() : before_(anomaly) { anomaly = true; }
AnomalyMode::~AnomalyMode() { anomaly = before_; }

namespace {
void check_mode(const char* op, bool create_graph, Loc loc) {
  if (create_graph && InferenceMode::enabled())
    fail<AutogradError>(loc, "{}: create_graph builds a graph, which an InferenceMode forbids", op);
}
}  // namespace

void backward(const Tensor& output, const BackwardOptions& o, Loc loc) {
  check_mode("backward", o.create_graph, loc);
  const Tensor g = seed_gradient("backward", output, o.gradient, loc);
  Engine engine(o.retain_graph || o.create_graph, o.create_graph);
  engine.seed(output, g);
  engine.run();
}

std::vector<Tensor> grad(const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs, const GradOptions& o,
                         Loc loc) {
  check_mode("grad", o.create_graph, loc);
  if (!o.grad_outputs.empty() && o.grad_outputs.size() != outputs.size())
    fail<ValueError>(loc, "grad: expected {} grad_outputs, got {}", outputs.size(), o.grad_outputs.size());
  std::vector<Wanted> wanted;
  for (const Tensor& t : inputs) {
    if (!t.requires_grad()) fail<AutogradError>(loc, "grad: input {} does not require a gradient", wanted.size());
    wanted.push_back({t.edge(), {}});
  }
  Engine engine(o.retain_graph || o.create_graph, o.create_graph, outputs, wanted);
  for (size_t i = 0; i < outputs.size(); ++i)
    engine.seed(outputs[i],
                seed_gradient("grad", outputs[i], o.grad_outputs.empty() ? Tensor() : o.grad_outputs[i], loc));
  engine.run();
  std::vector<Tensor> found;
  for (Wanted& w : wanted) {
    if (!w.found.defined() && !o.allow_unused)
      fail<AutogradError>(loc, "grad: no output depends on input {}; pass allow_unused to get an undefined gradient",
                          found.size());
    found.push_back(std::move(w.found));
  }
  return found;
}

}  // namespace flame
