// Recordings: launches with their buffers in one arena. A lifetime plan places every storage made inside the step, so the
// arena is as small as the step's peak.
#include "flame/train/recording_internal.h"

#include <algorithm>

#include "flame/core/format.h"

namespace flame {

Log log_of(const Recorder& r, const std::vector<ArgumentPlace>& args, const std::vector<Tensor>& values) {
  Log log;
  for (size_t i = 0; i < args.size(); ++i) log.arguments.emplace(args[i].storage->id(), static_cast<uint32_t>(i));
  for (const RecordedLaunch& l : r.launches) {
    Noted n{l.plan, {}, l.reads, l.scalars, l.where};
    for (const RecordedBuffer& b : l.buffers) {
      if (const auto a = log.arguments.find(b.storage_id); a != log.arguments.end()) {
        const auto element = static_cast<int64_t>(size_of(values[a->second].dtype()));
        n.places.push_back({Place::Kind::argument, a->second, b.offset - args[a->second].offset * element});
      } else if (!r.made_here(b.storage_id)) {
        const auto at = std::find(log.outside_ids.begin(), log.outside_ids.end(), b.storage_id);
        n.places.push_back({Place::Kind::outside, static_cast<uint32_t>(at - log.outside_ids.begin()), b.offset});
        if (at == log.outside_ids.end()) log.outside_ids.push_back(b.storage_id);
      } else {
        const auto [it, fresh] = log.made.emplace(b.storage_id, static_cast<uint32_t>(log.sizes.size()));
        if (fresh) log.sizes.push_back(b.storage_bytes);
        if (fresh && n.places.size() < l.reads) log.reads_unwritten = true;
        n.places.push_back({Place::Kind::arena, it->second, b.offset});
      }
    }
    log.launches.push_back(std::move(n));
  }
  return log;
}

namespace {
std::string line_of(const Noted& n) {
  return fmt::format("{} at {}:{}", n.plan->op, n.where.file_name(), n.where.line());
}

}  // namespace

std::string difference(const Log& a, const Log& b, Loc loc) {
  const size_t n = std::min(a.launches.size(), b.launches.size());
  for (size_t i = 0; i < n; ++i) {
    const Noted &x = a.launches[i], &y = b.launches[i];
    if (x.plan.get() != y.plan.get() || x.reads != y.reads || x.places != y.places)
      return fmt::format("launch {} was {}, then {}", i, line_of(x), line_of(y));
  }
  if (a.launches.size() != b.launches.size())
    return fmt::format("{} launches, then {}", a.launches.size(), b.launches.size());
  if (a.outside_ids != b.outside_ids) return "the step reads other tensors than before";
  for (size_t i = 0; i < n; ++i)
    for (size_t k = 0; k < a.launches[i].scalars.size(); ++k)
      if (a.launches[i].scalars[k].u != b.launches[i].scalars[k].u)
        fail<RecordError>(
            loc,
            "record: number {} of {} differs between two runs ({:g}, then {:g} as a double); a recorded step would "
            "repeat the first: make it a tensor argument or a State",
            k, line_of(b.launches[i]), a.launches[i].scalars[k].f, b.launches[i].scalars[k].f);
  return {};
}

namespace {

// Offsets in the arena: largest first, each at the lowest place free during its life.
struct Arena {
  struct Item {
    size_t bytes;
    size_t first = ~size_t{0}, last = 0;  // launches
    size_t offset = 0;
  };
  std::vector<Item> items;

  size_t place() {
    std::vector<Item*> order;
    order.reserve(items.size());
    for (Item& i : items) order.push_back(&i);
    std::stable_sort(order.begin(), order.end(), [](const Item* a, const Item* b) { return a->bytes > b->bytes; });
    std::vector<Item*> placed;
    size_t total = 0;
    for (Item* i : order) {
      std::vector<Item*> rivals;
      for (Item* p : placed)
        if (p->first <= i->last && i->first <= p->last) rivals.push_back(p);
      std::sort(rivals.begin(), rivals.end(), [](const Item* a, const Item* b) { return a->offset < b->offset; });
      size_t at = 0;
      for (const Item* p : rivals) {
        if (at + i->bytes <= p->offset) break;
        at = std::max(at, p->offset + (p->bytes + 63) / 64 * 64);
      }
      i->offset = at;
      placed.push_back(i);
      total = std::max(total, at + (i->bytes + 63) / 64 * 64);
    }
    return total;
  }
};

// Places all, and settles how many lanes there are. What is to run beside something must not lie where that lies, so storages
// live longer than they must; where that takes much memory, launches are large and fill the device one by one.
size_t place_arena(Arena& plan, int& lanes, const Device& d) {
  constexpr size_t longer = 2, most = size_t{256} << 20;
  if (lanes == 0) lanes = d.kind() == Device::Kind::cuda ? 2 : 1;
  if (lanes > 1) {
    Arena roomy = plan;
    for (Arena::Item& i : roomy.items)
      if (i.last != ~size_t{0}) i.last += longer;
    if (const size_t bytes = roomy.place(); bytes <= most) {
      plan = std::move(roomy);
      return bytes;
    }
    lanes = 1;
  }
  return plan.place();
}

}  // namespace

Recording::Recording(Recorder& r, const Log& log, const std::vector<ArgumentPlace>& args,
                     const std::vector<Tensor>& values, const std::vector<Tensor>& out, int most_lanes)
    : device(r.device ? r.device : &default_device()),
      hooks(std::move(r.hooks)),
      guards(std::move(r.guards)),
      preparations(std::move(r.preparations)),
      conclusions(std::move(r.conclusions)) {
  std::stable_sort(hooks.begin(), hooks.end(),
                   [](const Recorder::Hook& a, const Recorder::Hook& b) { return a.at < b.at; });
  Arena plan;
  for (size_t bytes : log.sizes) plan.items.push_back({bytes});
  std::vector<size_t> workspaces;
  for (size_t i = 0; i < log.launches.size(); ++i) {
    for (const Place& p : log.launches[i].places)
      if (p.kind == Place::Kind::arena) {
        plan.items[p.index].first = std::min(plan.items[p.index].first, i);
        plan.items[p.index].last = std::max(plan.items[p.index].last, i);
      }
    workspaces.push_back(plan.items.size());
    if (log.launches[i].plan->workspace) plan.items.push_back({log.launches[i].plan->workspace, i, i});
  }
  for (const Tensor& t : out)
    if (const auto it = log.made.find(t.value().storage->id()); it != log.made.end())
      plan.items[it->second].last = ~size_t{0};
  arena = make_ref<Storage>(*device, place_arena(plan, most_lanes, *device), Loc::current(), MemoryKind::recording);
  std::vector<size_t> offsets;
  offsets.reserve(plan.items.size());
  for (const Arena::Item& i : plan.items) offsets.push_back(i.offset);
  for (uint64_t id : log.outside_ids)
    outside.push_back(
        *std::find_if(r.outside.begin(), r.outside.end(), [&](const Ref<Storage>& s) { return s->id() == id; }));
  for (size_t i = 0; i < log.launches.size(); ++i)
    add_entry(log.launches[i], log, offsets, workspaces[i] < offsets.size() ? offsets[workspaces[i]] : 0);
  for (const Tensor& t : out) add_output(t, log, args, offsets);
  for (const Recorder::Hook& h : hooks) {
    if (h.own_launch) entries[h.at].changing = true;
    for (Entry& e : entries)
      for (const Word& w : e.scalars) e.changing = e.changing || (h.block && w.p == h.block);
  }
  capture(args, values, most_lanes);
}

void Recording::add_entry(const Noted& n, const Log& log, const std::vector<size_t>& arena_offsets, size_t workspace) {
  Entry e{n.plan, {}, {}, {}, {}, n.reads, n.scalars};
  const auto touches = [&e](const void* at, size_t bytes, bool write) {
    const auto from = reinterpret_cast<uintptr_t>(at);
    e.touched.push_back({from, from + bytes, write});
  };
  for (const Place& p : n.places) {
    Buffer b{nullptr, p.offset};
    const bool write = e.buffers.size() >= n.reads;
    if (p.kind == Place::Kind::argument) {
      e.arguments.emplace_back(static_cast<uint32_t>(e.buffers.size()), p.index);
      e.argument_offsets.push_back(p.offset);
    } else if (p.kind == Place::Kind::outside) {
      b.storage = outside[p.index].get();
      touches(b.storage->data(), b.storage->bytes(), write);
      if (write) written.push_back(outside[p.index]);
    } else {
      b = {arena.get(), p.offset + static_cast<int64_t>(arena_offsets[p.index])};
      touches(static_cast<char*>(arena->data()) + arena_offsets[p.index], log.sizes[p.index], write);
    }
    e.buffers.push_back(b);
    e.pointers.push_back(b.storage ? static_cast<char*>(b.storage->data()) + b.offset : nullptr);
  }
  if (n.plan->workspace) {
    e.workspace = static_cast<char*>(arena->data()) + workspace;
    touches(e.workspace, n.plan->workspace, true);
  }
  entries.push_back(std::move(e));
}

void Recording::add_output(const Tensor& t, const Log& log, const std::vector<ArgumentPlace>& args,
                           const std::vector<size_t>& arena_offsets) {
  const Value& v = t.value();
  Output o{Output::Kind::tensor, {}, 0, {}, v.shape, v.strides, v.offset};
  const auto made = log.made.find(v.storage->id());
  const auto argument = log.arguments.find(v.storage->id());
  if (argument != log.arguments.end()) {
    o.kind = Output::Kind::argument;
    o.argument = argument->second;
    o.offset -= args[o.argument].offset;
  } else if (v.cell) {
    o.kind = Output::Kind::state;
    o.cell = Ref<StateCell>(v.cell);
  } else if (made == log.made.end()) {
    o.tensor = t.detach();
  } else {
    Ref<Value> mine = make_ref<Value>(*v.device, v.dtype, v.shape, v.strides);
    mine->storage = arena;
    mine->offset = v.offset + static_cast<int64_t>(arena_offsets[made->second] / size_of(v.dtype));
    o.tensor = Tensor(std::move(mine));
  }
  outputs.push_back(std::move(o));
}

void Recording::place(Entry& e, uint32_t argument, const Buffer& base) {
  for (size_t k = 0; k < e.arguments.size(); ++k) {
    const auto [buffer, which] = e.arguments[k];
    if (which != argument) continue;
    e.buffers[buffer] = {base.storage, base.offset + e.argument_offsets[k]};
    e.pointers[buffer] = static_cast<char*>(base.storage->data()) + e.buffers[buffer].offset;
  }
}

void Recording::replay(Entry& e, bool counted) {
  const std::span<const Buffer> all(e.buffers);
  device->replay({e.plan, all.first(e.reads), all.subspan(e.reads), e.scalars},
                 {e.pointers.data(), e.scalars.data(), e.workspace}, counted);
}

void Recording::run(const std::vector<Tensor>& args) {
  try {
    if (graph) run_graph(args);
    else run_list(args);
  } catch (...) {
    conclude(false);
    throw;
  }
}
void Recording::conclude(bool made) const {
  for (const auto& fn : conclusions) fn(made);
}

void Recording::run_list(const std::vector<Tensor>& args) {
  size_t next = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    Entry& e = entries[i];
    const size_t first = next;
    while (next < hooks.size() && hooks[next].at <= i) hooks[next++].advance();
    for (const auto& [buffer, argument] : e.arguments) place(e, argument, args[argument].value().buffer());
    try {
      replay(e, true);
    } catch (...) {
      while (next > first)
        if (hooks[--next].own_launch) hooks[next].undo();
      throw;
    }
  }
  while (next < hooks.size()) hooks[next++].advance();
}

std::vector<Tensor> Recording::results(const std::vector<Tensor>& args) const {
  std::vector<Tensor> out;
  for (const Output& o : outputs) {
    if (o.kind == Output::Kind::tensor) out.push_back(o.tensor);
    else if (o.kind == Output::Kind::argument) {
      const Value& base = args[o.argument].value();
      out.push_back(Tensor(Value::view(base, o.shape, o.strides, base.offset + o.offset)));
    } else {
      const Ref<Value>& own = o.cell->value;
      const bool whole = own->shape == o.shape && own->strides == o.strides && own->offset == o.offset;
      out.push_back(Tensor(whole ? own : Value::view(*own, o.shape, o.strides, o.offset)));
    }
  }
  return out;
}

}  // namespace flame
