// The step shared by all optimizers. What can fail comes first: gradients are computed, moments made and states parted
// from their readers before the one launch that writes.
#include "flame/optim/optimizer.h"

#include <algorithm>
#include <limits>
#include <unordered_set>

#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/counters.h"
#include "flame/device/recorder.h"
#include "flame/device/settle.h"
#include "flame/ops/create.h"
#include "flame/optim/clip_internal.h"
#include "flame/optim/optimizer_internal.h"
#include "flame/optim/scaler.h"
#include "flame/tensor/internal.h"
#include "flame/tensor/shadow.h"
#include "flame/tensor/undo.h"

namespace flame::optim {

void check_number(const char* optimizer, const char* what, double number, Loc loc) {
  if (!(number >= 0)) fail<ValueError>(loc, "{}: expected {} of 0 or more, got {}", optimizer, what, number);
}
void check_betas(const char* optimizer, const Hyper& h, Loc loc) {
  if (!(h.beta1 >= 0 && h.beta1 < 1) || !(h.beta2 >= 0 && h.beta2 < 1))
    fail<ValueError>(loc, "{}: expected betas in [0, 1), got {} and {}", optimizer, h.beta1, h.beta2);
}
void check_adam(const char* optimizer, const Hyper& h, Loc loc) {
  check_number(optimizer, "lr", h.lr, loc);
  check_betas(optimizer, h, loc);
  check_number(optimizer, "eps", h.eps, loc);
  check_number(optimizer, "weight_decay", h.weight_decay, loc);
}

Optimizer::Optimizer(Optimizer&&) noexcept = default;
Optimizer& Optimizer::operator=(Optimizer&&) noexcept = default;
Optimizer::~Optimizer() = default;

Optimizer::Optimizer(const Rule& rule, const std::vector<ParameterGroup<Hyper>>& groups, Loc loc)
    : core_(std::make_shared<Core>(rule)) {
  Core& c = *core_;
  std::unordered_set<const void*> seen;
  for (const auto& [parameters, hyper] : groups) {
    rule.check(rule.name, hyper, loc);
    for (const Parameter& p : parameters) {
      const size_t i = c.slots.size();
      if (!p.defined())
        fail<ValueError>(loc, "{}: expected defined parameters, got an undefined one at {}", rule.name, i);
      if (!is_float(p.dtype()))
        fail<DTypeError>(loc, "{}: expected floating parameters, got {} at {}", rule.name, p.dtype(), i);
      if (!seen.insert(p.id()).second)
        fail<ValueError>(loc, "{}: expected each parameter once, got the one at {} twice", rule.name, i);
      if (i > 0 && &p.device() != &c.slots[0].parameter.device())
        fail<DeviceError>(loc, "{}: expected parameters on one device, got {} and {}", rule.name,
                          c.slots[0].parameter.device().name(), p.device().name());
      c.slots.push_back({.parameter = p, .group = c.groups.size(), .kinds = rule.moments(hyper, p.shape())});
    }
    c.groups.push_back(hyper);
  }
  if (c.slots.empty()) fail<ValueError>(loc, "{}: expected one parameter or more, got none", rule.name);
  c.schedules.resize(c.groups.size());
  c.blocks = std::make_unique<UpdateArguments[]>(c.slots.size());
  c.counts = std::make_unique<StepOf[]>(c.slots.size());
  c.skipped = State(zeros({static_cast<int64_t>(c.slots.size())}, DType::i64, c.slots[0].parameter.device(), loc), loc);
  for (Slot& s : c.slots)
    if (s.parameter.requires_grad()) c.make_moments(s, loc);
}

// A frozen parameter gets its moments with its first gradient.
void Core::make_moments(Slot& s, Loc loc) {
  const Value& p = s.parameter.value();
  for (size_t k = 0; k < s.kinds.size(); ++k) {
    if (s.moments[k].defined()) continue;
    const Moment& kind = s.kinds[k];
    const Shape& shape = kind.shape ? *kind.shape : p.shape;
    const Tensor start = full(shape, kind.start, compute_dtype(p.dtype), *p.device, loc);
    const Strides strides = kind.shape ? contiguous_strides(shape) : p.strides;
    s.moments[k] = State(Tensor(converted(start.value_ref(), start.dtype(), strides)), loc);
  }
}

Hyper Core::current(size_t group) const {
  Hyper h = groups[group];
  if (const Schedule& s = schedules[group]; s.defined()) {
    h.lr = s.at(steps);
    if (const auto momentum = s.momentum_at(steps)) h.beta1 = *momentum;
  }
  return h;
}

void Core::prepare_step(const std::vector<size_t>& present) {
  size_t last = slots.size();  // the slot whose numbers were computed last; most others share them
  Hyper h;
  for (const size_t i : present) {
    Slot& s = slots[i];
    s.steps += 1;
    const bool other = last == slots.size() || slots[last].group != s.group;
    if (other) h = current(s.group);
    counts[i] = {h, s.steps};
    if (!other && slots[last].steps == s.steps) {
      blocks[i] = blocks[last];
      continue;
    }
    rule.numbers.of(h, static_cast<double>(s.steps), blocks[i].data());
    last = i;
  }
  steps += 1;
}

std::function<void()> Core::counts_restorer(const std::shared_ptr<Core>& self) {
  std::vector<int64_t> of_slots;
  for (const Slot& s : self->slots) of_slots.push_back(s.steps);
  return [self, of_slots = std::move(of_slots), all = self->steps, scaled = self->scaled] {
    for (size_t i = 0; i < of_slots.size(); ++i) self->slots[i].steps = of_slots[i];
    self->steps = all;
    self->scaled = scaled;
  };
}

void Core::undo_step(const std::vector<size_t>& present) {
  for (const size_t i : present) slots[i].steps -= 1;
  steps -= 1;
}

namespace {
// What a plan depends on of one parameter with a gradient, and as a number.
struct Signed {
  size_t slot;
  DType gradient;
  std::optional<DType> shadow;
};
uint64_t number_of(const Signed& s) {
  const uint64_t shadow = s.shadow ? static_cast<uint64_t>(*s.shadow) : num_dtypes;
  return (s.slot * num_dtypes + static_cast<uint64_t>(s.gradient)) * (num_dtypes + 1) + shadow;
}
Signed read(uint64_t n) {
  const uint64_t shadow = n % (num_dtypes + 1), rest = n / (num_dtypes + 1);
  Signed s{static_cast<size_t>(rest / num_dtypes), static_cast<DType>(rest % num_dtypes), {}};
  if (shadow < num_dtypes) s.shadow = static_cast<DType>(shadow);
  return s;
}
}  // namespace

const Core::CachedPlan& Core::plan_for(const std::vector<uint64_t>& signature, const UpdateWays& ways) {
  constexpr size_t most = 16;
  const auto it = std::find_if(plans.begin(), plans.end(),
                               [&](const CachedPlan& p) { return p.ways == ways && p.signature == signature; });
  if (it != plans.end()) {
    std::rotate(plans.begin(), it, it + 1);
    return plans.front();
  }
  auto present = std::make_shared<std::vector<size_t>>();
  std::vector<UpdateTensor> tensors;
  for (const uint64_t entry : signature) {
    const Signed what = read(entry);
    const size_t i = what.slot;
    const Slot& s = slots[i];
    const Hyper& h = groups[s.group];
    present->push_back(i);
    const Value& p = s.parameter.value();
    tensors.push_back({rule.kernel(h, compute_dtype(p.dtype)), p.dtype, what.gradient, p.shape, p.strides,
                       static_cast<int>(s.kinds.size()), i, what.shadow});
  }
  if (plans.size() == most) plans.pop_back();
  Device& d = slots[0].parameter.device();
  plans.insert(plans.begin(), {signature, ways, std::move(present),
                               (rule.plan ? rule.plan : update_plan)(rule.name, tensors, d, ways)});
  if (!rule.plan) plans.front().plan->work = update_work(tensors);
  counters().plans_prepared += 1;
  return plans.front();
}

namespace {

// The gradients there are, checked, in their parameters' layout, with their bytes computed.
struct Gradients {
  std::vector<Tensor> given;
  std::vector<Ref<Value>> values;
  std::vector<uint64_t> signature;
};

Gradients gather(const Core& c, Loc loc) {
  Gradients out;
  for (size_t i = 0; i < c.slots.size(); ++i) {
    const Parameter& p = c.slots[i].parameter;
    const Tensor g = held_grad(p);
    if (!g.defined()) continue;
    if (g.shape() != p.shape())
      fail<ShapeError>(loc, "{}: expected a gradient of shape {} for parameter {}, got {}", c.rule.name, p.shape(), i,
                       g.shape());
    if (!is_float(g.dtype()))
      fail<DTypeError>(loc, "{}: expected a floating gradient for parameter {}, got {}", c.rule.name, i, g.dtype());
    if (&g.device() != &p.device())
      fail<DeviceError>(loc, "{}: expected a gradient on {} for parameter {}, got one on {}", c.rule.name,
                        p.device().name(), i, g.device().name());
    out.given.push_back(g.detach());
    out.values.push_back(converted(g.value_ref(), g.dtype(), p.value().strides));
    out.signature.push_back(number_of({i, g.dtype(), shadow_in_use(p)}));
  }
  for (const Ref<Value>& v : out.values) materialize(*v);
  return out;
}

// Reads are taken after every state is parted: a gradient may have shared a parameter's bytes.
void launch(Core& c, const Core::CachedPlan& plan, const std::vector<Ref<Value>>& gradients, const Tensor& factor,
            Loc loc) {
  std::vector<const Value*> targets;
  for (size_t k = 0; k < plan.present->size(); ++k) {
    Slot& s = c.slots[(*plan.present)[k]];
    targets.push_back(&s.parameter.begin_write(loc));
    for (State& m : s.moments)
      if (m.defined()) targets.push_back(&m.begin_write(loc));
    if (const auto shadow = read(plan.signature[k]).shadow)
      targets.push_back(&begin_shadow_write(s.parameter, *shadow, loc));
  }
  if (plan.ways.counts) targets.push_back(&c.skipped.begin_write(loc));
  std::vector<Buffer> reads, writes;
  for (const Ref<Value>& v : gradients) reads.push_back(v->buffer());
  if (plan.ways.has_factor()) reads.push_back(factor.value().buffer());
  for (const Value* v : targets) writes.push_back(v->buffer());
  const Word block[] = {word(static_cast<const void*>(c.blocks.get())), word(static_cast<const void*>(c.counts.get()))};
  c.prepare_step(*plan.present);
  try {
    if (!reads.empty()) c.slots[0].parameter.device().launch({plan.plan, reads, writes, block}, loc);
  } catch (...) {
    c.undo_step(*plan.present);
    throw;
  }
  for (size_t k = 0; k < plan.present->size(); ++k)
    if (const auto shadow = read(plan.signature[k]).shadow)
      shadow_written(c.slots[(*plan.present)[k]].parameter, *shadow);
}

// A replay counts its step, and is only good while the parameters that were skipped have no gradient. It could not see
// a gradient that someone set before the step.
void note_step(Recorder& r, const std::shared_ptr<Core>& core, const Core::CachedPlan& plan, const Gradients& g) {
  const std::shared_ptr<const std::vector<size_t>> present = plan.present;
  for (const Ref<Value>& v : g.values)
    if (!r.made_here(v->storage->id())) r.refused = "the optimizer read a gradient that was made outside the step";
  r.on_replay(
      [core, present, skips = plan.ways.skips] {
        core->prepare_step(*present);
        core->scaled = core->scaled || skips;
      },
      [core, present] { core->undo_step(*present); }, core->blocks.get(), !g.values.empty());
  if (!plan.ways.counts)
    r.guard(&core->scaled, "whether a scaler may have skipped steps", [core] { return !core->scaled; });
  if (present->size() == core->slots.size()) return;
  r.guard(core.get(), "which parameters have gradients", [core, present] {
    size_t next = 0;
    for (size_t i = 0; i < core->slots.size(); ++i) {
      if (next < present->size() && (*present)[next] == i) ++next;
      else if (held_grad(core->slots[i].parameter).defined()) return false;
    }
    return true;
  });
}

}  // namespace

namespace {
void check_scaled(const Core& c, const Gradients& g, const GradScaler& scaler, Loc loc) {
  const Device& own = c.slots[0].parameter.device();
  if (&scaler.device() != &own)
    fail<DeviceError>(loc, "{}: expected a scaler on {}, got one on {}", c.rule.name, own.name(),
                      scaler.device().name());
  for (const uint64_t entry : g.signature)
    if (c.slots[read(entry).slot].parameter.dtype() == DType::f16)
      fail<DTypeError>(loc,
                       "{}: a scaler's gradients would be too small without their scale in float16: expected "
                       "parameters of float32",
                       c.rule.name);
}
}  // namespace

namespace {
// In the parameters' dtypes.
std::vector<Tensor> whole(const Core& c, const Gradients& g) {
  std::vector<Tensor> out;
  for (size_t i = 0; i < g.values.size(); ++i)
    out.push_back(Tensor(g.values[i]).to(c.slots[read(g.signature[i]).slot].parameter.dtype()));
  return out;
}
}  // namespace

Tensor Optimizer::step(const StepOptions& o, Loc loc) {
  Core& c = *core_;
  if (!(o.max_norm >= 0))
    fail<ValueError>(loc, "{}: expected a max_norm of 0 or more, got {}", c.rule.name, o.max_norm);
  NoGrad guard;
  Gradients g = gather(c, loc);
  std::vector<Ref<Value>> gradients = g.values;
  NormAndFactor clip;
  const bool clips = (o.max_norm > 0 || o.scaler) && !g.values.empty();
  if (clips) {
    const double limit = o.max_norm > 0 ? o.max_norm : std::numeric_limits<double>::infinity();
    if (o.scaler) check_scaled(c, g, *o.scaler, loc);
    // In the order of the given ones, as clip_grad_norm sums them.
    clip = grad_norm(g.given, limit, 2, loc, o.scaler ? o.scaler->factor() : Tensor());
    materialize(clip.factor.value());
    if (c.rule.plan) {  // its plan takes them scaled
      const std::vector<Tensor> out = scaled(whole(c, g), clip.factor, loc);
      for (size_t i = 0; i < out.size(); ++i) {
        gradients[i] = out[i].value_ref();
        Signed what = read(g.signature[i]);
        what.gradient = out[i].dtype();
        g.signature[i] = number_of(what);
      }
    }
  }
  const bool skips = clips && o.scaler;
  const UpdateWays ways{clips && !c.rule.plan, skips, skips || c.scaled ? &c.rule.numbers : nullptr};
  const Core::CachedPlan& plan = c.plan_for(g.signature, ways);
  for (const size_t i : *plan.present) c.make_moments(c.slots[i], loc);
  note_flush("an optimizer step");
  flush_pending();  // what runs out of memory does so before a State is written: the loss that the caller still holds
  settle_launches();
  UndoScope::before_change(&c, [this] { return Core::counts_restorer(core_); });
  launch(c, plan, gradients, clip.factor, loc);
  if (skips) {
    c.scaled = true;
    o.scaler->found(clip.factor);
  }
  if (Recorder* r = Recorder::current()) note_step(*r, core_, plan, g);
  if (!o.keep_gradients)
    for (const size_t i : *plan.present) c.slots[i].parameter.zero_grad();
  return clip.norm;
}

void Optimizer::zero_grad() const {
  for (const Slot& s : core_->slots) s.parameter.zero_grad();
}

namespace {
void check_group(const Core& c, size_t group, Loc loc) {
  if (group >= c.groups.size())
    fail<IndexError>(loc, "{}: expected a group below {}, got {}", c.rule.name, c.groups.size(), group);
}
}  // namespace

void Optimizer::set_schedule(const Schedule& s) {
  for (Schedule& one : core_->schedules) one = s;
}
void Optimizer::set_schedule(size_t group, const Schedule& s, Loc loc) {
  check_group(*core_, group, loc);
  core_->schedules[group] = s;
}
void Optimizer::set_lr(double lr, Loc loc) {
  for (size_t g = 0; g < core_->groups.size(); ++g) set_lr(g, lr, loc);
}
void Optimizer::set_lr(size_t group, double lr, Loc loc) {
  check_group(*core_, group, loc);
  Hyper h = core_->groups[group];
  h.lr = lr;
  core_->rule.check(core_->rule.name, h, loc);
  core_->groups[group] = h;
  core_->schedules[group] = {};
}
double Optimizer::lr(size_t group, Loc loc) const {
  check_group(*core_, group, loc);
  return core_->current(group).lr;
}
int64_t Optimizer::step_count() const { return core_->steps; }
size_t Optimizer::groups() const { return core_->groups.size(); }

}  // namespace flame::optim
