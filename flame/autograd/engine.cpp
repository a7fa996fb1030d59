// The backward engine: nodes in falling order of their making, from a heap. Nothing here recurses.
#include <algorithm>
#include <unordered_map>

#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/fuse/island.h"

namespace flame {

namespace {

thread_local bool anomaly = false;
std::atomic<uint64_t> next_run{1};

class GradMode {
 public:
  explicit GradMode(bool on) : before_(grad_enabled()) { set_grad_enabled(on); }
  ~GradMode() { set_grad_enabled(before_); }
  GradMode(const GradMode&) = delete;
  GradMode& operator=(const GradMode&) = delete;

 private:
  bool before_;
};

bool all_finite(const Tensor& g) {
  if (!is_float(g.dtype()) || g.numel() == 0) return true;
  Ref<Value> ok = pend_pointwise(Code::isfinite, DType::boolean, g.shape(), {Operand(g)}, g.device());
  return Tensor(pend_reduce(Reduce::all, ok, ~0u)).item() != 0;
}

struct Wanted {
  Node* node;
  uint32_t index;
  Tensor found;
};

class Engine {
 public:
  Engine(bool retain, bool create_graph, std::vector<Wanted>* wanted)
      : retain_(retain), create_graph_(create_graph), wanted_(wanted), run_(next_run.fetch_add(1)) {
    if (!wanted_) return;
    oldest_ = ~uint64_t{0};
    for (const Wanted& w : *wanted_) oldest_ = std::min(oldest_, w.node->sequence);
  }

  void seed(const Tensor& output, const Tensor& gradient) { push(output.edge(), gradient); }

  void run() {
    GradMode mode(create_graph_);
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
  bool retain_, create_graph_;
  std::vector<Wanted>* wanted_;
  uint64_t run_, oldest_ = 0;
  std::vector<Entry> entries_;
  std::vector<uint32_t> free_;
  std::vector<std::pair<uint64_t, uint32_t>> heap_;  // sequence, entry
  BackwardContext context_;

  void push(const GradEdge& e, const Tensor& g) {
    Node* n = e.node();
    if (n->sequence < oldest_) return;
    if (n->run_id != run_) {
      n->run_id = run_;
      if (free_.empty()) {
        n->slot = static_cast<uint32_t>(entries_.size());
        entries_.emplace_back();
      } else {
        n->slot = free_.back();
        free_.pop_back();
      }
      Entry& fresh = entries_[n->slot];
      fresh.node = Ref<Node>(n);
      fresh.grads.assign(n->outputs, Tensor());
      heap_.emplace_back(n->sequence, n->slot);
      std::push_heap(heap_.begin(), heap_.end());
    }
    Tensor& sum = entries_[n->slot].grads[e.index()];
    sum = sum.defined() ? add(sum, g, n->where) : g;
  }

  void step(uint32_t slot) {
    const Ref<Node> node = std::move(entries_[slot].node);
    BackwardContext& c = context_;
    std::swap(c.grads, entries_[slot].grads);
    free_.push_back(slot);
    for (const auto& [index, hook] : node->hooks)
      if (c.grads[index].defined())
        if (Tensor replaced = hook(c.grads[index]); replaced.defined()) c.grads[index] = std::move(replaced);
    if (wanted_) {
      bool only_wanted = false;
      for (Wanted& w : *wanted_)
        if (w.node == node.get()) {
          w.found = c.grads[w.index];
          only_wanted = node->is_leaf();
        }
      if (node->is_leaf() || only_wanted) return c.grads.clear();
    }
    c.create_graph = create_graph_;
    c.oldest = oldest_;
    c.given.assign(node->next.size(), Tensor());
    node->backward(c);
    c.grads.clear();
    for (size_t i = 0; i < node->next.size(); ++i) {
      if (!c.given[i].defined() || !node->next[i]) continue;
      if (anomaly && !all_finite(c.given[i]))
        fail<AutogradError>(node->where, "backward of {}: the gradient of input {} has NaN or Inf; its forward call was", node->name, i);
      push(node->next[i], c.given[i]);
    }
    c.given.clear();
    if (!retain_) node->release_saved();
  }
};

Tensor seed_gradient(const char* op, const Tensor& output, const Tensor& given, Loc loc) {
  if (!output.requires_grad()) fail<AutogradError>(loc, "{}: the output does not depend on anything that requires a gradient", op);
  if (!given.defined()) {
    if (output.numel() != 1)
      fail<ShapeError>(loc, "{}: expected a gradient for the output of shape {}; only one element needs none", op, output.shape());
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

void backward(const Tensor& output, const BackwardOptions& o, Loc loc) {
  const Tensor g = seed_gradient("backward", output, o.gradient, loc);
  Engine engine(o.retain_graph || o.create_graph, o.create_graph, nullptr);
  engine.seed(output, g);
  engine.run();
}

std::vector<Tensor> grad(const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs, const GradOptions& o, Loc loc) {
  if (!o.grad_outputs.empty() && o.grad_outputs.size() != outputs.size())
    fail<ValueError>(loc, "grad: expected {} grad_outputs, got {}", outputs.size(), o.grad_outputs.size());
  std::vector<Wanted> wanted;
  for (const Tensor& t : inputs) {
    if (!t.requires_grad()) fail<AutogradError>(loc, "grad: input {} does not require a gradient", wanted.size());
    wanted.push_back({t.edge().node(), t.edge().index(), {}});
  }
  Engine engine(o.retain_graph || o.create_graph, o.create_graph, &wanted);
  for (size_t i = 0; i < outputs.size(); ++i)
    engine.seed(outputs[i], seed_gradient("grad", outputs[i], o.grad_outputs.empty() ? Tensor() : o.grad_outputs[i], loc));
  engine.run();
  std::vector<Tensor> found;
  for (Wanted& w : wanted) {
    if (!w.found.defined() && !o.allow_unused)
      fail<AutogradError>(loc, "grad: no output depends on input {}; pass allow_unused to get an undefined gradient", found.size());
    found.push_back(std::move(w.found));
  }
  return found;
}

}  // namespace flame
