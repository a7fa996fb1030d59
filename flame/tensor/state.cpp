// State: writes in place at a fixed address, after parting everyone who still shares the old bytes.
#include <cstring>

#include "flame/core/format.h"
#include "flame/device/recorder.h"
#include "flame/tensor/segment.h"
#include "flame/tensor/undo.h"

namespace flame {

StateCell::~StateCell() {
  std::lock_guard lock(mutex);
  for (Value* v : readers) v->cell = nullptr;
  if (value) value->cell = nullptr;
}

namespace {

// Copies scalars[0] bytes from the read buffer to the written one.
Ref<Plan> copy_plan(Device& d) {
  Key key;
  key << "copy_bytes";
  return d.plans().get(key, [&d] {
    return make_ref<Plan>("copy_bytes", [&d](const Run& r) {
      d.copy_within(r.buffers[1], r.buffers[0], static_cast<size_t>(r.scalars[0].i));
    });
  });
}

}  // namespace

void copy_bytes(Device& d, Buffer from, Buffer to, int64_t bytes, Loc loc) {
  const Ref<Plan> plan = copy_plan(d);
  const Word size[] = {word(bytes)};
  d.launch({plan, {&from, 1}, {&to, 1}, size}, loc);
}

bool is_shared(StateCell& c) {
  std::lock_guard lock(c.mutex);
  return c.value->ref_count() > 1 || !c.readers.empty();
}

namespace {

// Moves everyone else to a copy of the bytes; the cell keeps its address under a new Value.
void part(StateCell& c, Loc loc) {
  Value& old = *c.value;
  Ref<Storage> copy = make_ref<Storage>(*old.device, old.storage->bytes(), loc);
  copy_bytes(*old.device, {old.storage.get(), 0}, {copy.get(), 0}, static_cast<int64_t>(old.storage->bytes()), loc);
  Ref<Value> fresh = make_ref<Value>(*old.device, old.dtype, old.shape, old.strides);
  fresh->storage = old.storage;
  fresh->cell = &c;
  std::lock_guard lock(c.mutex);
  for (Value* v : c.readers) {
    v->storage = copy;
    v->cell = nullptr;
  }
  c.readers.clear();
  old.storage = copy;
  old.cell = nullptr;
  c.value = fresh;
}

}  // namespace

namespace {
void part_sharers(StateCell& c, Loc loc) {
  if (!is_shared(c)) return;
  note_flush("a state is written");
  flush_pending();
  if (is_shared(c)) part(c, loc);
}
}  // namespace

// A replay runs no host code between its launches, so what became of the shadows is noted behind it.
Value& begin_write(const Ref<StateCell>& c, Loc loc) {
  if (Recorder* r = Recorder::current()) {
    if (!r->prepares(c.get())) {
      c->left_fresh = std::make_shared<StateCell::Fresh>();
      r->before_replay(c.get(), [c, loc] { part_sharers(*c, loc); });
      r->after_replay([c, left_fresh = c->left_fresh](bool made) {
        const std::lock_guard lock(c->shadow_mutex);
        for (size_t i = 0; i < left_fresh->size(); ++i) c->shadows[i].fresh = made && (*left_fresh)[i];
      });
    }
    *c->left_fresh = {};
  }
  part_sharers(*c, loc);
  const std::lock_guard lock(c->shadow_mutex);
  for (Shadow& s : c->shadows) s.fresh = false;
  return *c->value;
}

State::State() noexcept = default;
State::State(const State&) noexcept = default;
State::State(State&&) noexcept = default;
State& State::operator=(const State&) noexcept = default;
State& State::operator=(State&&) noexcept = default;
State::~State() = default;

State::State(const Tensor& initial, Loc loc) : cell_(make_ref<StateCell>()) {
  const Value& from = initial.value();
  const Strides st = is_dense(from.shape, from.strides) ? from.strides : contiguous_strides(from.shape);
  Ref<Value> dense = converted(initial.value_ref(), from.dtype, st);
  materialize(*dense);
  Ref<Value> own = make_ref<Value>(*from.device, from.dtype, from.shape, st);
  const size_t bytes = static_cast<size_t>(flame::numel(from.shape)) * size_of(from.dtype);
  own->storage = make_ref<Storage>(*from.device, bytes, loc);
  copy_bytes(*from.device, dense->buffer(), own->buffer(), static_cast<int64_t>(bytes), loc);
  own->cell = cell_.get();
  cell_->value = own;
}

Value& State::value() const {
  if (!cell_) fail<ValueError>(Loc::current(), "state: expected a defined state, got an undefined one");
  return *cell_->value;
}

Tensor State::tensor() const {
  value();
  if (SegmentScope::active()) return SegmentScope::read(cell_, Tensor(cell_->value, cell_->leaf));
  return Tensor(cell_->value, cell_->leaf);
}

namespace {

// The writes of a second run go to a copy that this run alone sees.
Value& write_aside(Segment& s, const Ref<StateCell>& c, Loc loc) {
  const Tensor* seen = s.find(*c);
  const Tensor old = seen ? *seen : Tensor(c->value, c->leaf);
  materialize(old.value());
  const Value& own = *c->value;
  Ref<Value> copy = make_ref<Value>(*own.device, own.dtype, own.shape, own.strides);
  const size_t bytes = static_cast<size_t>(flame::numel(own.shape)) * size_of(own.dtype);
  copy->storage = make_ref<Storage>(*own.device, bytes, loc);
  copy_bytes(*own.device, old.value().buffer(), copy->buffer(), static_cast<int64_t>(bytes), loc);
  s.set(c, Tensor(copy, c->leaf));
  return *copy;
}

// The old bytes, on the host: a copy by a launch would belong to the step that is being recorded.
std::function<void()> restorer(const Ref<StateCell>& c) {
  Storage& s = *c->value->storage;
  s.device().synchronize();
  std::vector<char> old(s.bytes());
  s.device().copy_to_host(old.data(), s.data(), s.bytes());
  return [c, old = std::move(old)] {
    Storage& s = *c->value->storage;
    {
      const std::lock_guard lock(c->shadow_mutex);
      for (Shadow& shadow : c->shadows) shadow.fresh = false;
    }
    try {  // what the piece launched is over, whatever became of it
      s.device().synchronize();
    } catch (const Error&) {}
    try {
      s.device().copy_from_host(s.data(), old.data(), old.size());
    } catch (const Error&) {}  // the device is lost
  };
}

}  // namespace

Value& State::begin_write(Loc loc) const {
  value();
  if (Segment* s = SegmentScope::second_run()) return write_aside(*s, cell_, loc);
  if (SegmentScope::active()) tensor();  // a write may build on the old bytes, so they are noted
  flame::begin_write(cell_, loc);
  UndoScope::before_change(cell_.get(), [this] { return restorer(cell_); });
  return *cell_->value;
}

void State::assign(const Tensor& t, Loc loc) const {
  const Value& own = value();
  const Value& from = t.value();
  if (from.shape != own.shape) fail<ShapeError>(loc, "assign: expected shape {}, got {}", own.shape, from.shape);
  if (from.device != own.device)
    fail<DeviceError>(loc, "assign: expected a tensor on {}, got one on {}", own.device->name(), from.device->name());
  Ref<Value> dense = converted(t.value_ref(), own.dtype, own.strides);
  if (Segment* s = SegmentScope::second_run()) return s->set(cell_, Tensor(dense, cell_->leaf));
  materialize(*dense);
  Value& target = begin_write(loc);
  if (dense->storage.get() == target.storage.get()) return;  // assigned to itself
  const int64_t bytes = flame::numel(target.shape) * static_cast<int64_t>(size_of(target.dtype));
  copy_bytes(*target.device, dense->buffer(), target.buffer(), bytes, loc);
}

}  // namespace flame
