// Running an island: which nodes are needed, the cached plan of its structure, one launch a group.
#include <thread>

#include "flame/core/format.h"
#include "flame/device/counters.h"
#include "flame/device/profile.h"
#include "flame/fuse/island_internal.h"

namespace flame {

namespace {
thread_local const char thread_mark = 0;  // its address names the thread
}

void Island::lock() {
  const void* me = &thread_mark;
  if (owner_.load(std::memory_order_relaxed) == me) {
    ++depth_;
    return;
  }
  const void* free = nullptr;
  while (!owner_.compare_exchange_weak(free, me, std::memory_order_acquire)) {
    free = nullptr;
    std::this_thread::yield();
  }
  depth_ = 1;
}
void Island::unlock() {
  if (--depth_ == 0) owner_.store(nullptr, std::memory_order_release);
}

void Island::compact() {
  size_t n = 0;
  for (Value* v : nodes)
    if (v) {
      v->expr.load(std::memory_order_relaxed)->index = static_cast<int>(n);
      nodes[n++] = v;
    }
  nodes.resize(n);
}

void Island::flush(const char* why, const Value* reader) {
  const char* because = std::exchange(reason, nullptr);
  if (!because) because = why;
  auto known = std::find_if(reasons.begin(), reasons.end(), [&](const auto& r) { return r.first == because; });
  if (known == reasons.end()) reasons.emplace_back(because, 1);
  else ++known->second;

  std::vector<Ref<Value>> live_nodes;
  live_nodes.reserve(nodes.size());
  std::vector<Value*> dying;  // another thread is inside their destructor, waiting for our lock
  for (Value* v : nodes) {
    if (!v) continue;
    if (!v->try_retain()) {
      dying.push_back(v);
      continue;
    }
    v->expr.load(std::memory_order_relaxed)->index = static_cast<int>(live_nodes.size());
    live_nodes.push_back(Ref<Value>::adopt(v));
  }
  const auto keep_rest = [&](auto&& rest) {
    nodes.clear();
    for (Value* v : dying) nodes.push_back(v);
    for (const Ref<Value>& v : rest)
      if (const Expr* e = v->expr.load(std::memory_order_relaxed); e && !e->asleep) nodes.push_back(v.get());
    live = static_cast<int>(nodes.size());
    for (size_t i = 0; i < nodes.size(); ++i)
      nodes[i]->expr.load(std::memory_order_relaxed)->index = static_cast<int>(i);
  };
  try {
    run(live_nodes, reader);
  } catch (...) {
    keep_rest(live_nodes);
    throw;
  }
  keep_rest(live_nodes);
}

namespace {

int leaf_index(std::vector<Value*>& leaves, Value* v) {
  for (size_t i = 0; i < leaves.size(); ++i)
    if (leaves[i] == v) return static_cast<int>(i);
  leaves.push_back(v);
  return static_cast<int>(leaves.size()) - 1;
}

void add_to_key(Key& key, const Value& v, const Expr& e, bool wanted, std::vector<Value*>& leaves) {
  key << (static_cast<uint32_t>(e.is_reduce ? static_cast<int>(e.reduce) : static_cast<int>(e.code)) |
          (e.is_reduce ? 1u << 16 : 0u) | (wanted ? 1u << 17 : 0u) | (e.reshaped ? 1u << 18 : 0u))
      << e.compute << v.dtype << static_cast<uint8_t>(e.axis) << e.axis_mask << v.shape << v.strides;
  for (int i = 0; i < e.inputs; ++i) {
    Value* in = e.in[i].value.get();
    const Expr* p = in ? in->expr.load(std::memory_order_relaxed) : nullptr;
    key << (!in ? -1 : p ? 2 * p->index : 2 * leaf_index(leaves, in) + 1);
  }
}

// A leaf that is read in two ways counts once.
void set_work(const IslandPlan& plan, const std::vector<Ref<Value>>& nodes, const std::vector<Value*>& leaves) {
  for (const IslandPlan::Group& g : plan.groups) {
    std::vector<int> read = g.leaves;
    std::sort(read.begin(), read.end());
    read.erase(std::unique(read.begin(), read.end()), read.end());
    int64_t bytes = 0;
    for (int i : read)
      bytes +=
          ideal_bytes((i >= 0 ? leaves[static_cast<size_t>(i)] : nodes[static_cast<size_t>(-1 - i)].get())->meta());
    for (int i : g.outputs) bytes += ideal_bytes(nodes[static_cast<size_t>(i)]->meta());
    g.plan->work.bytes = bytes;
  }
}

void launch_group(const IslandPlan::Group& g, const std::vector<Ref<Value>>& nodes, const std::vector<Value*>& leaves,
                  Device& d) {
  std::vector<Ref<Storage>> made;
  std::vector<Buffer> reads, writes;
  std::vector<Word> scalars;
  made.reserve(g.outputs.size());
  reads.reserve(g.leaves.size());
  writes.reserve(g.outputs.size());
  scalars.reserve(g.scalars.size());
  for (int i : g.leaves)
    reads.push_back((i >= 0 ? leaves[static_cast<size_t>(i)] : nodes[static_cast<size_t>(-1 - i)].get())->buffer());
  for (int i : g.outputs) {
    const Value& v = *nodes[static_cast<size_t>(i)];
    made.push_back(make_ref<Storage>(d, static_cast<size_t>(numel(v.shape)) * size_of(v.dtype), Loc::current()));
    writes.push_back({made.back().get(), 0});
  }
  Loc where = nodes[static_cast<size_t>(g.outputs.back())]->expr.load(std::memory_order_relaxed)->where;
  for (const auto& [node, input] : g.scalars) {
    const Expr& e = *nodes[static_cast<size_t>(node)]->expr.load(std::memory_order_relaxed);
    if (input >= draw_input) {
      const std::array<Word, 3> words = e.draw->words();
      const auto k = static_cast<size_t>(input - draw_input);
      scalars.push_back(k < words.size() ? words[k] : Word{.u = e.last});
    } else {
      scalars.push_back(e.in[input].scalar);
    }
    if (e.code != Code::iota) where = e.where;  // a number is what a recording asks about
  }
  d.launch({g.plan, reads, writes, scalars}, where);
  for (size_t i = 0; i < made.size(); ++i) nodes[static_cast<size_t>(g.outputs[i])]->storage = made[i];
  Counters& c = counters();
  c.island_launches += 1;
  c.pointwise_ops += static_cast<uint64_t>(g.ops);
  if (g.ops > 1) c.island_ops += static_cast<uint64_t>(g.ops);
}

}  // namespace

void cast_into(const Value& from, const Value& to, Loc loc) {
  Device& d = *from.device;
  Key key;
  key << "cast_into" << from.meta() << to.meta();
  const Ref<Plan> plan = d.plans().get(key, [&] {
    const Ref<Value> y = make_ref<Value>(d, to.dtype, to.shape, to.strides);
    Expr cast;
    cast.code = Code::copy;
    cast.compute = from.dtype;
    cast.inputs = 1;
    Ref<Value> x = make_ref<Value>(d, from.dtype, from.shape, from.strides);
    cast.in[0].value = x;
    y->expr.store(&cast, std::memory_order_relaxed);
    struct Detached {  // the node belongs to no island
      Value& v;
      ~Detached() { v.expr.store(nullptr, std::memory_order_relaxed); }
    } const detached{*y};
    const IslandPlan made = plan_island({y}, {true}, {x.get()}, d);
    set_work(made, {y}, {x.get()});
    return made.groups[0].plan;
  });
  const Buffer read = from.buffer(), write = to.buffer();
  d.launch({plan, {&read, 1}, {&write, 1}, {}}, loc);
}

void Island::run(std::vector<Ref<Value>>& live_nodes, const Value* reader) {
  if (live_nodes.empty()) return;
  std::vector<bool> wanted(live_nodes.size());
  std::vector<Value*> leaves;
  Key key;
  key << device;
  for (size_t i = 0; i < live_nodes.size(); ++i) {
    const Value& v = *live_nodes[i];
    const Expr& e = *v.expr.load(std::memory_order_relaxed);
    wanted[i] = v.ref_count() > e.uses + 1;  // someone beside us and the pending readers holds it
  }
  const std::vector<bool> asleep = sleepers_of(live_nodes, reader, wanted);
  for (size_t i = 0; i < live_nodes.size(); ++i) {
    const Value& v = *live_nodes[i];
    add_to_key(key, v, *v.expr.load(std::memory_order_relaxed), wanted[i], leaves);
  }
  for (const Value* leaf : leaves) key << leaf->meta();
  auto found = plans_.find(key.bytes());
  if (found == plans_.end()) {
    if (plans_.size() >= 4096) plans_.clear();
    auto made = std::make_shared<IslandPlan>(plan_island(live_nodes, wanted, leaves, *device));
    counters().plans_prepared += made->groups.size();
    set_work(*made, live_nodes, leaves);
    found = plans_.emplace(std::string(key.bytes()), std::move(made)).first;
  }
  const std::shared_ptr<IslandPlan> plan = found->second;

  // Values become ready only after every group ran, so that a failure leaves the whole island as it was.
  try {
    for (const IslandPlan::Group& g : plan->groups) launch_group(g, live_nodes, leaves, *device);
  } catch (...) {
    for (const Ref<Value>& v : live_nodes) v->storage.reset();
    throw;
  }
  for (size_t i = live_nodes.size(); i-- > 0;) {
    if (asleep[i] && !live_nodes[i]->storage) continue;  // another group of these may have written it
    Value& v = *live_nodes[i];
    Expr* e = v.expr.load(std::memory_order_relaxed);
    v.expr.store(nullptr, std::memory_order_release);
    delete e;
  }
  for (size_t i = 0; i < live_nodes.size(); ++i)
    if (asleep[i] && live_nodes[i]->pending()) put_to_sleep(*live_nodes[i]);
}

}  // namespace flame
