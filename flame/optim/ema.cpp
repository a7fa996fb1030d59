// The averages are States of their own. Floating ones take part in one launch of the optimizers' kind; integer buffers
// are copied.
#include "flame/optim/ema.h"

#include <map>
#include <unordered_set>

#include "flame/autograd/autograd.h"
#include "flame/core/format.h"
#include "flame/device/recorder.h"
#include "flame/device/settle.h"
#include "flame/optim/update_internal.h"
#include "flame/tensor/internal.h"

namespace flame::optim {

namespace {
struct Average {
  std::string name;
  State source, average;
  bool averaged;  // otherwise the latest is kept
};
}  // namespace

struct EMA::Core {
  EMAOptions options;
  std::vector<Average> floating, integers;
  int64_t updates = 0;
  std::array<UpdateArguments, 2> blocks = {{{1, 1, 0, 0}, {1, 1, 0, 1}}};  // of what is averaged, of what is copied
  Ref<Plan> plan;
  std::vector<Tensor> own;  // the module's values while the averages are swapped in

  std::vector<const Average*> all() const {
    std::vector<const Average*> out;
    out.reserve(floating.size() + integers.size());
    for (const Average& a : floating) out.push_back(&a);
    for (const Average& a : integers) out.push_back(&a);
    return out;
  }
  void prepare() {
    const double n = static_cast<double>(updates);
    const double decay = options.warmup ? std::min(options.decay, (1 + n) / (10 + n)) : options.decay;
    blocks[0][3] = 1 - decay;
    ++updates;
  }
};

EMA::EMA(EMA&&) noexcept = default;
EMA& EMA::operator=(EMA&&) noexcept = default;
EMA::~EMA() = default;

EMA::EMA(const nn::Module& module, const EMAOptions& o, Loc loc) : core_(std::make_shared<Core>()) {
  if (!(o.decay >= 0 && o.decay <= 1)) fail<ValueError>(loc, "EMA: expected a decay in [0, 1], got {}", o.decay);
  Core& c = *core_;
  c.options = o;
  std::unordered_set<const void*> parameters;
  for (const auto& [name, p] : module.named_parameters()) parameters.insert(p.id());
  if (parameters.empty()) fail<ValueError>(loc, "EMA: expected a module with parameters, got none");
  for (const auto& [name, s] : module.state_dict()) {
    const bool floating = is_float(s.dtype());
    const DType t = floating ? compute_dtype(s.dtype()) : s.dtype();
    const Tensor start = s.tensor().detach();
    (floating ? c.floating : c.integers)
        .push_back({name, s, State(start.to(t, loc), loc), floating && (o.buffers || parameters.count(s.id()) > 0)});
  }
  for (const Average* a : c.all())
    if (Device& first = c.all()[0]->source.device(); &a->source.device() != &first)
      fail<DeviceError>(loc, "EMA: expected all states on one device, got {} on {} and {} on {}", c.all()[0]->name,
                        first.name(), a->name, a->source.device().name());
  std::vector<UpdateTensor> tensors;
  tensors.reserve(c.floating.size());
  for (const Average& a : c.floating)
    tensors.push_back({Kernels::best().average[kernel_index(a.average.dtype())], a.average.dtype(), a.source.dtype(),
                       a.average.shape(), a.average.value().strides, 0, a.averaged ? 0u : 1u});
  c.plan = update_plan("EMA", tensors, c.floating.empty() ? default_device() : c.floating[0].average.device());
  c.plan->work = update_work(tensors);
}

void EMA::update(Loc loc) {
  Core& c = *core_;
  if (!c.own.empty()) fail<ValueError>(loc, "EMA: expected swap_out() before update()");
  NoGrad guard;
  std::vector<Ref<Value>> sources;
  sources.reserve(c.floating.size());
  for (const Average& a : c.floating)
    sources.push_back(converted(a.source.tensor().value_ref(), a.source.dtype(), a.average.value().strides));
  for (const Ref<Value>& v : sources) materialize(*v);
  settle_launches();
  for (const Average* a : c.all()) a->average.begin_write(loc);
  std::vector<Buffer> reads, writes;
  for (const Ref<Value>& v : sources) reads.push_back(v->buffer());
  for (const Average& a : c.floating) writes.push_back(a.average.value().buffer());
  const Word block[] = {word(static_cast<const void*>(c.blocks.data()))};
  c.prepare();
  try {
    c.floating[0].average.device().launch({c.plan, reads, writes, block}, loc);
  } catch (...) {
    --c.updates;
    throw;
  }
  if (Recorder* r = Recorder::current())
    r->on_replay([core = core_] { core->prepare(); }, [core = core_] { --core->updates; }, block[0].p, true);
  for (const Average& a : c.integers) a.average.assign(a.source.tensor(), loc);
}

int64_t EMA::updates() const { return core_->updates; }

void EMA::copy_to(nn::Module& module, Loc loc) const {
  nn::NamedTensors entries;
  for (const Average* a : core_->all()) entries.emplace_back(a->name, a->average.tensor());
  module.load_state(entries, {}, loc);
}

namespace {
// All values are computed and all sharers parted before the first is written.
void assign_all(const std::vector<std::pair<State, Tensor>>& list, Loc loc) {
  std::vector<Ref<Value>> values;
  values.reserve(list.size());
  for (const auto& [state, t] : list) values.push_back(converted(t.value_ref(), state.dtype(), state.value().strides));
  for (const Ref<Value>& v : values) materialize(*v);
  for (const auto& [state, t] : list) state.begin_write(loc);
  for (size_t i = 0; i < list.size(); ++i) list[i].first.assign(Tensor(values[i]), loc);
}
}  // namespace

void EMA::swap_in(Loc loc) {
  Core& c = *core_;
  if (!c.own.empty()) fail<ValueError>(loc, "EMA: expected swap_out() before another swap_in()");
  std::vector<std::pair<State, Tensor>> list;
  std::vector<Tensor> own;
  for (const Average* a : c.all()) {
    own.push_back(a->source.tensor().detach());  // keeps the bytes that the write below parts from the module
    list.emplace_back(a->source, a->average.tensor());
  }
  assign_all(list, loc);
  c.own = std::move(own);
}

void EMA::swap_out(Loc loc) {
  Core& c = *core_;
  if (c.own.empty()) fail<ValueError>(loc, "EMA: expected swap_in() before swap_out()");
  std::vector<std::pair<State, Tensor>> list;
  size_t i = 0;
  for (const Average* a : c.all()) list.emplace_back(a->source, c.own[i++]);
  assign_all(list, loc);
  c.own.clear();
}

nn::NamedTensors EMA::state_dict() const {
  nn::NamedTensors out;
  for (const Average* a : core_->all()) out.emplace_back(a->name, a->average.tensor());
  out.emplace_back("updates", Tensor::from(std::vector<int64_t>{core_->updates}, {1}, cpu()));
  return out;
}

void EMA::load_state(const nn::NamedTensors& entries, Loc loc) {
  Core& c = *core_;
  std::map<std::string, Tensor> left;
  for (const auto& [name, t] : entries)
    if (!left.emplace(name, t).second) fail<ValueError>(loc, "EMA: load_state expected '{}' once, got it twice", name);
  const auto take = [&](const std::string& name, const Shape& shape, DType dtype) {
    const auto it = left.find(name);
    if (it == left.end()) fail<ValueError>(loc, "EMA: load_state expected an entry '{}', got none", name);
    Tensor t = it->second.detach();
    if (t.shape() != shape)
      fail<ShapeError>(loc, "EMA: load_state expected '{}' of shape {}, got {}", name, shape, t.shape());
    if (t.dtype() != dtype)
      fail<DTypeError>(loc, "EMA: load_state expected '{}' of {}, got {}", name, dtype, t.dtype());
    left.erase(it);
    return t;
  };
  const int64_t updates = take("updates", {1}, DType::i64).item<int64_t>(loc);
  if (updates < 0) fail<ValueError>(loc, "EMA: load_state expected updates of 0 or more, got {}", updates);
  std::vector<std::pair<State, Tensor>> list;
  for (const Average* a : c.all())
    list.emplace_back(a->average, take(a->name, a->average.shape(), a->average.dtype()).to(a->average.device(), loc));
  if (!left.empty()) fail<ValueError>(loc, "EMA: load_state expected no entry '{}'", left.begin()->first);
  assign_all(list, loc);
  c.updates = updates;
}

}  // namespace flame::optim
