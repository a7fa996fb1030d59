// The dispatcher of opaque ops: infer, materialise, plan, allocate, launch, and note the gradient. And custom rules.
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/profile.h"
#include "flame/fuse/island.h"
#include "flame/tensor/internal.h"

namespace flame {

Tensor filled(const Meta& m, Device& d, double value) {
  const Scalar v = is_float(m.dtype) ? Scalar(value) : Scalar(static_cast<int64_t>(value));
  return Tensor(pend_iota(m.shape, m.dtype, 0, v, Scalar(0), d));
}

namespace {

[[noreturn]] void fail_freed(const Node& n) {
  fail<AutogradError>(
      n.where, "backward of {}: its saved tensors were freed by an earlier backward; pass retain_graph to that one",
      n.name);
}

void check_given(const Node& n, size_t input, const Meta& m, const Tensor& g) {
  if (g.shape() != m.shape || g.dtype() != m.dtype)
    fail<AutogradError>(n.where, "backward of {}: the rule gave input {} of {} {} a gradient of {} {}", n.name, input,
                        m.dtype, m.shape, g.dtype(), g.shape());
}

class OpNode final : public Node {
 public:
  OpNode(Ref<Op> op, std::span<const Tensor> in, Loc loc, uint32_t outputs, Device& d)
      : Node(op->name(), loc, outputs), op_(std::move(op)), device_(d), inputs_(in.size()), outputs_(outputs) {
    for (size_t i = 0; i < in.size(); ++i) {
      input_metas_.push_back(in[i].defined() ? in[i].value().meta() : Meta{});
      if (in[i].defined() && op_->saves_input(static_cast<int>(i))) inputs_[i].save(in[i].value_ref());
      next.push_back(in[i].defined() ? in[i].edge() : GradEdge());
    }
  }
  void save_outputs(const std::vector<Tensor>& out) {
    for (size_t i = 0; i < out.size(); ++i) {
      output_metas_.push_back(out[i].value().meta());
      if (op_->saves_output(static_cast<int>(i))) outputs_[i].save(out[i].value_ref());
    }
  }
  void backward(BackwardContext& c) override {
    if (released_) fail_freed(*this);
    Call call(*this, c);
    op_->vjp(call);
  }
  void release_saved() override {
    released_ = true;
    for (SavedValue& v : inputs_) v.reset();
    for (SavedValue& v : outputs_) v.reset();
  }

 private:
  // One run of the rule; a pass inside this pass may run the same node again.
  class Call final : public Vjp {
   public:
    Call(OpNode& node, BackwardContext& c) : node_(node), context_(c) {}
    bool needs(int i) const override { return context_.needs(node_, at(i)); }
    Tensor input(int i) const override { return Tensor(value(node_.inputs_[at(i)]), node_.next[at(i)]); }
    Tensor output(int i) const override {
      return Tensor(value(node_.outputs_[at(i)]), GradEdge(&node_, static_cast<uint32_t>(i)));
    }
    const Meta& input_meta(int i) const override { return node_.input_metas_[at(i)]; }
    const Meta& output_meta(int i) const override { return node_.output_metas_[at(i)]; }
    bool has_grad(int i) const override { return context_.grads[at(i)].defined(); }
    Tensor grad(int i) const override {
      const Tensor& g = context_.grads[at(i)];
      return g.defined() ? g : filled(output_meta(i), node_.device_, 0);
    }
    bool create_graph() const override { return context_.create_graph; }
    void give(int i, const Tensor& g) override {
      if (!g.defined()) return;
      check_given(node_, at(i), input_meta(i), g);
      context_.given[at(i)] = g;
    }
    const Loc& call_site() const override { return node_.where; }

   private:
    OpNode& node_;
    BackwardContext& context_;
    mutable std::vector<std::pair<const SavedValue*, Ref<Value>>>
        unpacked_;  // once a run, however often it is asked for
    Ref<Value> value(const SavedValue& v) const {
      if (node_.released_) fail_freed(node_);
      if (!v.is_packed()) return v.get(node_);
      for (const auto& [which, known] : unpacked_)
        if (which == &v) return known;
      return unpacked_.emplace_back(&v, v.get(node_)).second;
    }
    static size_t at(int i) { return static_cast<size_t>(i); }
  };

  Ref<Op> op_;
  Device& device_;
  std::vector<SavedValue> inputs_, outputs_;
  std::vector<Meta> input_metas_, output_metas_;
  bool released_ = false;
};

Strides layout_strides(Layout l, const Meta& m) {
  if (l == Layout::contiguous && !is_contiguous(m.shape, m.strides)) return contiguous_strides(m.shape);
  if (l == Layout::channels_last && !is_channels_last(m.shape, m.strides)) return channels_last_strides(m.shape);
  return m.strides;
}

Device& common_device(const Op& op, std::span<const Tensor> in, Loc loc) {
  Device* d = nullptr;
  for (const Tensor& t : in) {
    if (!t.defined()) continue;
    if (d && d != &t.device())
      fail<DeviceError>(loc, "{}: expected all tensors on one device, got {} and {}", op.name(), d->name(),
                        t.device().name());
    d = &t.device();
  }
  return d ? *d : op.device() ? *op.device() : default_device();
}

// Inputs as the bodies want them: run, in the layout asked for. Undefined inputs are left out.
std::vector<Ref<Value>> ready(const Op& op, std::span<const Tensor> in) {
  std::vector<Ref<Value>> out;
  out.reserve(in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    if (!in[i].defined()) continue;
    const Ref<Value>& v = in[i].value_ref();
    const Layout l = op.layout(static_cast<int>(i), v->meta());
    out.push_back(l == Layout::any ? v : converted(v, v->dtype, layout_strides(l, v->meta())));
  }
  for (const Ref<Value>& v : out) note_read(*v);
  for (const Ref<Value>& v : out)
    if (v->pending()) {
      note_flush_reason(op.name());
      materialize(*v);
    }
  return out;
}

Ref<Plan> plan_for(const Op& op, Device& d, std::span<const Meta> in, std::span<const Meta> out) {
  Key key;
  const std::string_view name = op.name();
  key << name.size();
  key.put(name.data(), name.size());
  key << in.size() << out.size();
  for (const Meta& m : in) key << m;
  for (const Meta& m : out) key << m;
  op.key(key);
  return d.plans().get(key, [&] {
    Ref<Plan> plan = op.prepare(d, in, out);
    plan->work = {ideal_bytes(in) + ideal_bytes(out), op.flops(in, out), in.empty() ? out[0].dtype : in[0].dtype};
    if (plan->op != name) plan->user = name;
    return plan;
  });
}

// Which output may take the memory of which input.
struct Reuse {
  size_t input, output;
};
// Whether all that holds `v` are its handle among the inputs and the one that has just been made ready.
bool is_given_up(const Value& v, const Meta& as) {
  return v.ref_count() == 2 && v.storage->ref_count() == 1 && !v.cell && v.offset == 0 && v.meta() == as;
}

std::vector<Tensor> run_op(const Ref<Op>& op, std::span<const Tensor> in, const Reuse* reuse, Loc loc) {
  const ProfileRange range(RangeKind::op, op->name(), loc);
  Device& d = common_device(*op, in, loc);
  const bool wants_graph = any_requires_grad(in);
  if (wants_graph && !op->differentiable())
    fail<NotDifferentiable>(loc, "{}: has no gradient; detach its inputs or use no_grad", op->name());
  std::vector<Meta> out_metas = op->infer(in, loc);
  const std::vector<Ref<Value>> values = ready(*op, in);
  std::vector<Meta> in_metas;
  std::vector<Buffer> reads, writes;
  for (const Ref<Value>& v : values) {
    in_metas.push_back(v->meta());
    reads.push_back(v->buffer());
  }
  const Ref<Plan> plan = plan_for(*op, d, in_metas, out_metas);
  std::vector<Tensor> out;
  for (const Meta& m : out_metas) {
    Ref<Value> v = make_ref<Value>(d, m.dtype, m.shape, m.strides);
    const bool over = reuse && !wants_graph && out.size() == reuse->output && reuse->input < values.size() &&
                      is_given_up(*values[reuse->input], m);
    v->storage = over ? values[reuse->input]->storage
                      : make_ref<Storage>(d, static_cast<size_t>(numel(m.shape)) * size_of(m.dtype), loc);
    writes.push_back(v->buffer());
    out.push_back(Tensor(std::move(v)));
  }
  const std::vector<Word> scalars = op->scalars();
  d.launch({plan, reads, writes, scalars}, loc);
  if (wants_graph) {
    auto* node = new OpNode(op, in, loc, static_cast<uint32_t>(out.size()), d);
    const Ref<Node> keep(node);
    node->save_outputs(out);
    for (size_t i = 0; i < out.size(); ++i)
      if (is_float(out[i].dtype())) out[i] = Tensor(out[i].value_ref(), GradEdge(node, static_cast<uint32_t>(i)));
  }
  return out;
}

}  // namespace

std::vector<Tensor> dispatch_multi(const Ref<Op>& op, std::span<const Tensor> in, Loc loc) {
  return run_op(op, in, nullptr, loc);
}
std::vector<Tensor> dispatch_over(const Ref<Op>& op, std::span<const Tensor> in, size_t input, size_t output, Loc loc) {
  const Reuse reuse{input, output};
  return run_op(op, in, &reuse, loc);
}
Tensor dispatch(const Ref<Op>& op, std::span<const Tensor> in, Loc loc) {
  return std::move(dispatch_multi(op, in, loc)[0]);
}
Tensor dispatch(const Ref<Op>& op, std::initializer_list<Tensor> in, Loc loc) {
  return dispatch(op, std::span<const Tensor>(in.begin(), in.size()), loc);
}

namespace {

class RuleNode final : public Node {
 public:
  RuleNode(const char* name, Loc loc, std::span<const Tensor> in, const std::vector<Tensor>& out,
           const std::vector<Tensor>& saved, Rule rule)
      : Node(name, loc, static_cast<uint32_t>(out.size())), device_(out[0].device()), rule_(std::move(rule)) {
    for (const Tensor& t : in) {
      next.push_back(t.defined() ? t.edge() : GradEdge());
      input_metas_.push_back(t.defined() ? t.value().meta() : Meta{});
    }
    for (const Tensor& t : out) output_metas_.push_back(t.value().meta());
    for (const Tensor& t : saved) {
      Saved& s = saved_.emplace_back();
      if (!t.defined()) continue;
      s.value.save(t.value_ref());
      s.edge = t.edge();
      for (size_t k = 0; k < out.size(); ++k)
        if (!t.edge() && is_float(out[k].dtype()) && t.value_ref() == out[k].value_ref()) s.own = static_cast<int>(k);
    }
  }
  void backward(BackwardContext& c) override {
    if (released_) fail_freed(*this);
    CustomContext now{{}, {}, {}, c.create_graph, c.sink, *this};
    for (const Saved& s : saved_) {
      const bool own = c.create_graph && s.own >= 0;
      now.saved.push_back(
          s.value ? Tensor(s.value.get(*this), own ? GradEdge(this, static_cast<uint32_t>(s.own)) : s.edge) : Tensor());
    }
    for (size_t i = 0; i < output_metas_.size(); ++i)
      now.grads.push_back(c.grads[i].defined() ? c.grads[i] : filled(output_metas_[i], device_, 0));
    for (size_t i = 0; i < next.size(); ++i) now.needs.push_back(c.needs(*this, i));
    std::vector<Tensor> given = rule_(now);
    if (given.size() != next.size())
      fail<AutogradError>(where, "backward of {}: expected {} gradients, got {}", name, next.size(), given.size());
    for (size_t i = 0; i < next.size(); ++i)
      if (next[i] && given[i].defined()) check_given(*this, i, input_metas_[i], given[i]);
    c.given = std::move(given);
  }
  void release_saved() override {
    released_ = true;
    saved_.clear();
  }

 private:
  Device& device_;
  Rule rule_;
  struct Saved {
    SavedValue value;
    GradEdge edge;
    int own = -1;  // which output it is; held without edge, or it were a cycle
  };
  std::vector<Saved> saved_;
  std::vector<Meta> input_metas_, output_metas_;
  bool released_ = false;
};

}  // namespace

std::vector<Tensor> with_rule(const char* name, std::span<const Tensor> in, std::vector<Tensor> out,
                              const std::vector<Tensor>& saved, Rule rule, Loc loc) {
  if (!any_requires_grad(in)) return out;
  const Ref<Node> node(new RuleNode(name, loc, in, out, saved, std::move(rule)));
  for (size_t i = 0; i < out.size(); ++i)
    if (is_float(out[i].dtype())) out[i] = Tensor(out[i].value_ref(), GradEdge(node.get(), static_cast<uint32_t>(i)));
  return out;
}

std::vector<Tensor> apply(const Function& f, const std::vector<Tensor>& inputs, Loc loc) {
  auto context = std::make_shared<FunctionContext>();
  std::vector<Tensor> out = no_grad([&] { return f.forward(*context, inputs); });
  if (out.empty()) fail<ValueError>(loc, "{}: expected at least one output, got none", f.name);
  return with_rule(
      f.name, inputs, std::move(out), context->saved,
      [backward = f.backward](const CustomContext& c) { return backward(FunctionContext{c.saved}, c.grads); }, loc);
}

}  // namespace flame
