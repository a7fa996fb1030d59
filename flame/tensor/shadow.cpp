// Shadows. One that a recorded step finds stale is cast before the step, unless the step itself has written the State: so
// every run of it makes the same launches, and a replay finds what it reads fresh.
#include "flame/tensor/shadow.h"

#include "flame/device/recorder.h"
#include "flame/tensor/internal.h"
#include "flame/tensor/segment.h"

namespace flame {
namespace {

constexpr size_t index_of(DType t) { return t == DType::f16 ? 0 : 1; }
constexpr DType dtype_at(size_t i) { return i == 0 ? DType::f16 : DType::bf16; }

void refresh(StateCell& c, size_t i, Loc loc) {
  Shadow& s = c.shadows[i];
  if (s.fresh) return;
  if (s.cell) {
    cast_into(*c.value, begin_write(s.cell, loc), loc);
  } else {
    const Value& own = *c.value;
    const DType t = dtype_at(i);
    Ref<StateCell> made = make_ref<StateCell>();
    made->value = make_ref<Value>(*own.device, t, own.shape, own.strides);
    made->value->storage = make_ref<Storage>(*own.device, static_cast<size_t>(numel(own.shape)) * size_of(t), loc);
    made->value->cell = made.get();
    cast_into(own, *made->value, loc);
    s.cell = std::move(made);
  }
  s.fresh = true;
}

void fresh_before_replay(Recorder& r, const Ref<StateCell>& c, size_t i, Loc loc) {
  r.before_replay(&c->shadows[i], [c, i, loc] {
    const std::lock_guard lock(c->shadow_mutex);
    refresh(*c, i, loc);
  });
}

}  // namespace

Ref<Value> shadow_of(const Value& v, DType t, Loc loc) {
  const Ref<StateCell> c(v.cell);
  const size_t i = index_of(t);
  const std::lock_guard lock(c->shadow_mutex);
  Shadow& s = c->shadows[i];
  c->shadow_in_use = static_cast<int>(i);
  Recorder* const r = Recorder::current();
  const bool written_by_step = r && r->prepares(c.get());
  if (r && !written_by_step) fresh_before_replay(*r, c, i, loc);
  if (!s.fresh && written_by_step && s.cell) {
    refresh(*c, i, loc);
    (*c->left_fresh)[i] = true;
  } else if (!s.fresh) {
    if (r && s.cell && is_shared(*s.cell)) flush_pending();  // of the step, which a pause would hide
    const Recorder::Pause before_the_step;
    refresh(*c, i, loc);
  }
  const Value& own = *c->value;
  const Ref<Value>& shadow = s.cell->value;
  if (v.shape == own.shape && v.strides == own.strides && v.offset == own.offset) return shadow;
  return Value::view(*shadow, v.shape, v.strides, v.offset);
}

std::optional<DType> shadow_in_use(const State& s) {
  StateCell* const c = s.value().cell;
  if (c->shadow_in_use < 0 || SegmentScope::second_run()) return {};
  const size_t i = static_cast<size_t>(c->shadow_in_use);
  if (!c->shadows[i].cell) return {};
  if (Recorder* r = Recorder::current(); r && !r->prepares(c))
    fresh_before_replay(*r, Ref<StateCell>(c), i, Loc::current());
  return dtype_at(i);
}

Value& begin_shadow_write(const State& s, DType t, Loc loc) {
  return begin_write(s.value().cell->shadows[index_of(t)].cell, loc);
}

void shadow_written(const State& s, DType t) {
  StateCell& c = *s.value().cell;
  c.shadows[index_of(t)].fresh = true;
  if (Recorder::current()) (*c.left_fresh)[index_of(t)] = true;
}

}  // namespace flame
