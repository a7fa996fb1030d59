// Noting pending ops: shapes are known, layouts are chosen, nothing runs. Running them is in flush.cpp.
#include "flame/fuse/island.h"

#include <algorithm>

#include "flame/core/format.h"
#include "flame/fuse/island_internal.h"
#include "flame/tensor/internal.h"

namespace flame {

namespace {

// Islands outlive their threads, since a value noted in one may be held elsewhere; a later thread takes over an empty one.
struct IslandPool {
  std::mutex mutex;
  std::vector<std::unique_ptr<Island>> idle;
};
IslandPool& island_pool() {
  static IslandPool* pool = new IslandPool;
  return *pool;
}

struct IslandOfThread {
  IslandOfThread() {
    std::lock_guard lock(island_pool().mutex);
    auto& idle = island_pool().idle;
    const auto empty = std::find_if(idle.begin(), idle.end(), [](const std::unique_ptr<Island>& i) {
      std::lock_guard its(*i);
      return i->live == 0;
    });
    if (empty == idle.end()) {
      island = std::make_unique<Island>();
    } else {
      island = std::move(*empty);
      idle.erase(empty);
    }
  }
  // What is pending stays so until its holder reads it: other thread-local objects are gone already.
  ~IslandOfThread() {
    island->fusion = true;
    std::lock_guard lock(island_pool().mutex);
    island_pool().idle.push_back(std::move(island));
  }
  IslandOfThread(const IslandOfThread&) = delete;
  IslandOfThread& operator=(const IslandOfThread&) = delete;
  std::unique_ptr<Island> island;
};

}  // namespace

Island& Island::current() {
  static thread_local IslandOfThread mine;
  return *mine.island;
}

Expr::~Expr() {
  for (Slot& s : in)
    if (s.value)
      if (Expr* e = s.value->expr.load(std::memory_order_relaxed)) --e->uses;
}

void drop_expr(Value& v) {
  Island& island = *v.island;
  std::lock_guard lock(island);
  Expr* e = v.expr.load(std::memory_order_acquire);
  if (!e) return;
  if (e->asleep) {
    island.forget_sleeper(*e);
  } else {
    island.nodes[static_cast<size_t>(e->index)] = nullptr;
    --island.live;
  }
  v.expr.store(nullptr, std::memory_order_release);
  delete e;
}

namespace {

bool fusing(Island& i) { return i.fusion; }

// Puts a new pending value into the island; runs the island first if a limit is reached.
Ref<Value> note(Island& island, Expr* e, Device& d, DType out, const Shape& shape, const Strides& strides) {
  Ref<Value> v = make_ref<Value>(d, out, shape, strides);
  e->index = static_cast<int>(island.nodes.size());
  v->island = &island;
  v->expr.store(e, std::memory_order_release);
  island.nodes.push_back(v.get());
  ++island.live;
  if (!fusing(island)) island.flush("fusion is off");
  return v;
}

// Values pending on another thread run there first; done before our own lock, so that no two are held at once.
void make_foreign_ready(const Island& island, std::initializer_list<Operand> in) {
  for (const Operand& o : in)
    if (o.value && (*o.value)->pending() && (*o.value)->island != &island) materialize(**o.value);
}

// Runs the island if the new op would not fit.
void make_room(Island& island, Device& d, std::initializer_list<Operand> in) {
  if (island.live >= Island::max_ops) island.flush("64 ops");
  else if (island.nodes.size() >= 4 * Island::max_ops) island.compact();
  int depth = 0;
  for (const Operand& o : in) {
    if (!o.value) continue;
    Value& v = **o.value;
    if (v.pending()) depth = std::max(depth, v.expr.load(std::memory_order_relaxed)->depth);
  }
  if (depth >= Island::max_depth) island.flush("depth 32");
  if (island.device != &d) {
    if (island.live) island.flush("another device");
    island.device = &d;
  }
}

void connect(Expr& e, std::initializer_list<Operand> in, DType compute) {
  for (const Operand& o : in) {
    Slot& s = e.in[e.inputs++];
    if (!o.value) {
      s.scalar =
          is_float(compute)
              ? word(o.scalar.kind == Scalar::Kind::floating ? o.scalar.value : static_cast<double>(o.scalar.integral))
              : word(o.scalar.kind == Scalar::Kind::floating ? static_cast<int64_t>(o.scalar.value)
                                                             : o.scalar.integral);
      continue;
    }
    s.value = *o.value;
    if (Expr* p = s.value->expr.load(std::memory_order_relaxed)) {
      s.value->island->wake(*s.value);
      ++p->uses;
      e.depth = std::max(e.depth, p->depth + 1);
    }
  }
}

// Dense strides in the order of the first operand of full shape; row-major if there is none.
Strides layout_of(const Shape& shape, std::initializer_list<Operand> in) {
  for (const Operand& o : in)
    if (o.value && (*o.value)->shape == shape) return dense_strides_like(shape, (*o.value)->strides);
  return contiguous_strides(shape);
}

}  // namespace

Ref<Value> pend_pointwise(Code code, DType out, const Shape& shape, std::initializer_list<Operand> in, Device& d,
                          Loc where) {
  Island& island = Island::current();
  make_foreign_ready(island, in);
  std::lock_guard lock(island);
  make_room(island, d, in);
  Expr* e = new Expr;
  e->code = code;
  e->compute = out;
  e->where = where;
  if (code != Code::where)  // whose condition is bool; elsewhere all inputs share the compute dtype
    for (const Operand& o : in)
      if (o.value) e->compute = (*o.value)->dtype;
  connect(*e, in, e->compute);
  return note(island, e, d, out, shape, layout_of(shape, in));
}

Ref<Value> pend_copy(const Ref<Value>& x, DType out, const Strides* strides) {
  Island& island = Island::current();
  make_foreign_ready(island, {Operand(x)});
  std::lock_guard lock(island);
  make_room(island, *x->device, {Operand(x)});
  Expr* e = new Expr;
  e->code = Code::copy;
  e->compute = x->dtype;
  connect(*e, {Operand(x)}, x->dtype);
  return note(island, e, *x->device, out, x->shape, strides ? *strides : contiguous_strides(x->shape));
}

Ref<Value> before_widening(const Ref<Value>& x) {
  if (!x->pending() || x->island != &Island::current()) return {};
  std::lock_guard lock(*x->island);
  const Expr* e = x->expr.load(std::memory_order_relaxed);
  if (!e || e->is_reduce || e->code != Code::copy || e->inputs != 1 || !e->in[0].value) return {};
  const Ref<Value>& from = e->in[0].value;
  const bool exact = (from->dtype == DType::f16 || from->dtype == DType::bf16) && x->dtype == DType::f32;
  return exact && !from->pending() && from->shape == x->shape && from->strides == x->strides ? from : Ref<Value>();
}

bool is_pending_one(const Ref<Value>& x) {
  if (!x->pending() || x->island != &Island::current() || !is_float(x->dtype)) return false;
  std::lock_guard lock(*x->island);
  const Expr* e = x->expr.load(std::memory_order_relaxed);
  return e && !e->is_reduce && e->code == Code::iota && e->in[0].scalar.f == 1 && e->in[1].scalar.f == 0;
}

Ref<Value> pend_iota(const Shape& shape, DType t, int axis, Scalar start, Scalar step, Device& d) {
  Island& island = Island::current();
  std::lock_guard lock(island);
  make_room(island, d, {});
  Expr* e = new Expr;
  e->code = Code::iota;
  e->compute = t;
  e->axis = axis;
  connect(*e, {Operand(start), Operand(step)}, t);
  return note(island, e, d, t, shape, contiguous_strides(shape));
}

Ref<Value> pend_dropout(const Ref<Value>& x, const Draw& draw, uint32_t last, double scale, Loc where) {
  Island& island = Island::current();
  make_foreign_ready(island, {Operand(x)});
  std::lock_guard lock(island);
  make_room(island, *x->device, {Operand(x)});
  Expr* e = new Expr;
  e->code = Code::dropout;
  e->compute = x->dtype;
  e->where = where;
  e->draw = std::make_unique<Draw>(draw);
  e->last = last;
  connect(*e, {Operand(x), Operand(scale)}, x->dtype);
  return note(island, e, *x->device, x->dtype, x->shape, dense_strides_like(x->shape, x->strides));
}

Ref<Value> pend_reduce(Reduce r, const Ref<Value>& x, uint32_t axis_mask) {
  Shape shape = x->shape;
  bool shrinks = false;
  for (int i = 0; i < shape.rank(); ++i)
    if (axis_mask >> i & 1) {
      shrinks |= shape[i] != 1;
      shape[i] = 1;
    }
  const DType out = r == Reduce::any || r == Reduce::all ? DType::boolean : x->dtype;
  if (!shrinks) return pend_copy(x, out);
  Island& island = Island::current();
  make_foreign_ready(island, {Operand(x)});
  std::lock_guard lock(island);
  make_room(island, *x->device, {Operand(x)});
  Expr* e = new Expr;
  e->is_reduce = true;
  e->reduce = r;
  e->compute = x->dtype;
  e->axis_mask = axis_mask;
  connect(*e, {Operand(x)}, x->dtype);
  Strides kept = x->strides;
  return note(island, e, *x->device, out, shape, dense_strides_like(shape, kept));
}

Ref<Value> pend_reshape_ones(const Ref<Value>& x, const Shape& shape) {
  Strides st = contiguous_strides(shape);
  for (int i = 0, j = 0; i < shape.rank(); ++i) {
    if (shape[i] == 1) continue;
    while (x->shape[j] == 1) ++j;
    st[i] = x->strides[j++];
  }
  Island& island = Island::current();
  make_foreign_ready(island, {Operand(x)});
  std::lock_guard lock(island);
  make_room(island, *x->device, {Operand(x)});
  if (!x->pending()) return Value::view(*x, shape, st, x->offset);
  const Expr& from = *x->expr.load(std::memory_order_relaxed);
  if (from.is_reduce && from.uses == 0 &&
      x->ref_count() == 1) {  // the caller's alone: noted again, the first one dies unread
    Expr* again = new Expr;
    again->is_reduce = true;
    again->reduce = from.reduce;
    again->compute = from.compute;
    again->axis_mask = from.axis_mask;
    connect(*again, {Operand(from.in[0].value)}, from.compute);
    return note(island, again, *x->device, x->dtype, shape, st);
  }
  Expr* e = new Expr;
  e->code = Code::copy;
  e->compute = x->dtype;
  e->reshaped = true;
  connect(*e, {Operand(x)}, x->dtype);
  return note(island, e, *x->device, x->dtype, shape, st);
}

bool sums_beside_rows(const Device& d, int64_t rows, int64_t length) {
  constexpr bool joined = true;                                    // groups of rows carry such sums
  constexpr int64_t least = 24576, shortest = 64, longest = 1024;  // enough blocks of 256 rows to fill a GPU
  return joined && d.kind() == Device::Kind::cuda && rows >= least && length >= shortest && length <= longest;
}

bool sums_beside_rows(const Value& x) {
  const int last = x.shape.rank() - 1;
  if (!x.pending() || x.island != &Island::current() || last < 1 || !is_contiguous(x.shape, x.strides)) return false;
  if (!sums_beside_rows(*x.device, numel(x.shape) / std::max<int64_t>(1, x.shape[last]), x.shape[last])) return false;
  std::lock_guard lock(*x.island);
  const uint32_t mask = (1u << last) - 1;
  return std::ranges::none_of(x.island->nodes, [&](const Value* v) {
    const Expr* e = v ? v->expr.load(std::memory_order_relaxed) : nullptr;
    return e && e->is_reduce && e->in[0].value->shape == x.shape && !(e->axis_mask >> last) && e->axis_mask != mask;
  });
}

void materialize(Value& v) {
  if (!v.pending()) return;
  Island& island = *v.island;
  std::lock_guard lock(island);
  if (!v.pending()) return;
  island.wake(v);
  island.flush("an opaque op reads it", &v);
}

void note_passing(const Value& x) {
  if (!x.pending() || x.island != &Island::current()) return;
  std::lock_guard lock(*x.island);
  if (Expr* e = x.expr.load(std::memory_order_relaxed)) e->passing = true;
}

void flush_pending() {
  Island& island = Island::current();
  std::lock_guard lock(island);
  island.wake_held();
  if (island.live) island.flush("flushed");
}

Ref<Value> converted(const Ref<Value>& x, DType t, const Strides& st) {
  bool same = x->dtype == t;
  for (int i = 0; same && i < st.rank(); ++i) same = x->shape[i] == 1 || x->strides[i] == st[i];
  return same || (x->dtype == t && numel(x->shape) == 0) ? x : pend_copy(x, t, &st);
}

void set_fusion(bool on) {
  Island& island = Island::current();
  std::lock_guard lock(island);
  if (island.live) island.flush("fusion was switched");
  island.fusion = on;
}
bool fusion_enabled() { return Island::current().fusion; }

void note_flush(const char* reason) { Island::current().reason = reason; }
void note_flush_reason(const char* reason) { note_flush(reason); }

std::string explain() {
  Island& island = Island::current();
  std::lock_guard lock(island);
  std::string out;
  for (const auto& [reason, n] : island.reasons) out += fmt::format("{} x {}\n", n, reason);
  island.reasons.clear();
  return out;
}

}  // namespace flame
