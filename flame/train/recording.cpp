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

namespace {
// The elements that a tensor spans, counted from its first one.
std::pair<int64_t, int64_t> span_of(const Value& v) {
  int64_t low = 0, high = numel(v.shape) ? 1 : 0;
  for (int i = 0; i < v.shape.rank() && high; ++i) (v.strides[i] < 0 ? low : high) += (v.shape[i] - 1) * v.strides[i];
  return {low, high};
}
char* address_of(const Value& v) {
  return static_cast<char*>(v.storage->data()) + v.offset * static_cast<int64_t>(size_of(v.dtype));
}
constexpr uintptr_t widest = 16;  // bytes that a kernel moves at once, where its buffers are aligned to them
uint32_t place_of(const void* p) { return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p) % widest); }
}  // namespace

Tensor private_copy(const Tensor& t, MemoryKind kind) {
  const Value& v = t.value();
  const auto element = static_cast<int64_t>(size_of(v.dtype));
  const auto [low, high] = span_of(v);
  Ref<Value> copy = make_ref<Value>(*v.device, v.dtype, v.shape, v.strides);
  copy->storage = make_ref<Storage>(*v.device, static_cast<size_t>((high - low) * element), Loc::current(), kind);
  copy->offset = -low;
  copy_bytes(*v.device, {v.storage.get(), (v.offset + low) * element}, {copy->storage.get(), 0}, (high - low) * element,
             Loc::current());
  return Tensor(std::move(copy), t.edge());
}

Recording::Recording(Recorder& r, const Log& log, const std::vector<ArgumentPlace>& args,
                     const std::vector<Tensor>& values, const std::vector<Tensor>& out, int lanes)
    : device(r.device ? r.device : &default_device()),
      hooks(std::move(r.hooks)),
      guards(std::move(r.guards)),
      preparations(std::move(r.preparations)) {
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
  arena = make_ref<Storage>(*device, place_arena(plan, lanes, *device), Loc::current(), MemoryKind::recording);
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
  capture(args, values, lanes);
}

// The copies of arguments that libraries read, then the entries.
void Recording::capture_parts(int lanes) {
  constexpr size_t most = 4000;  // parts, whose accesses are compared pairwise
  graph = {};
  const size_t first = copied.size();
  GraphDesc desc{first + entries.size(),
                 [&](size_t i) {
                   if (i < first) copy_argument(arguments[copied[i]]);
                   else replay(entries[i - first], false);
                 },
                 [&](size_t i) -> const std::string& {
                   static const std::string copy = "copy of an argument";
                   return i < first ? copy : entries[i - first].plan->op;
                 }};
  desc.profile = [&](size_t i) -> ProfilePart {
    if (i < first)
      return {desc.name(i), {.bytes = 2 * static_cast<int64_t>(arguments[copied[i]].slot.value().storage->bytes())}};
    const Entry& e = entries[i - first];
    const std::span<const Buffer> all(e.buffers);
    return {name_of(*e.plan), work_of({e.plan, all.first(e.reads), all.subspan(e.reads), e.scalars})};
  };
  if (lanes > 1 && desc.parts <= most) {
    std::vector<Accesses> parts(first);
    for (const Entry& e : entries) parts.push_back(e.touched);
    for (size_t i = 0; i < first; ++i) {
      const Argument& a = arguments[copied[i]];
      const auto at = reinterpret_cast<uintptr_t>(a.slot.value().storage->data());
      const uintptr_t end = at + a.slot.value().storage->bytes();
      parts[i].push_back({at, end, true});
      for (const uint32_t reader : a.readers) parts[first + reader].push_back({at, end, false});
    }
    Lanes found = lanes_of(parts, static_cast<uint32_t>(lanes));
    desc.lane = std::move(found.lane);
    desc.after = std::move(found.after);
  }
  graph = device->capture(desc);
}

// Once with the arguments where they are; what a library reads of them then gets memory of the recording's, since nothing
// but a new capture could tell the library another address.
void Recording::capture(const std::vector<ArgumentPlace>& args, const std::vector<Tensor>& values, int lanes) {
  for (size_t a = 0; a < args.size(); ++a) {
    const Value& v = values[a].value();
    const Buffer at{args[a].storage.get(), args[a].offset * static_cast<int64_t>(size_of(v.dtype))};
    Argument one{static_cast<char*>(at.storage->data()) + at.offset, 0, {}, {}};
    one.place = place_of(one.address);
    for (size_t i = 0; i < entries.size(); ++i) {
      const auto& read = entries[i].arguments;
      if (std::none_of(read.begin(), read.end(), [a](const auto& p) { return p.second == a; })) continue;
      one.readers.push_back(static_cast<uint32_t>(i));
      place(entries[i], static_cast<uint32_t>(a), at);
    }
    arguments.push_back(std::move(one));
  }
  capture_parts(lanes);
  if (!graph) return;
  for (size_t a = 0; a < args.size(); ++a) {
    Argument& one = arguments[a];
    if (std::all_of(one.readers.begin(), one.readers.end(), [&](uint32_t i) { return graph->renewable(i); })) continue;
    one.slot = private_copy(values[a], MemoryKind::recording);
    for (const uint32_t i : one.readers) place(entries[i], static_cast<uint32_t>(a), one.slot.value().buffer());
    copied.push_back(static_cast<uint32_t>(a));
  }
  const size_t first = copied.size();
  if (first > 0) capture_parts(lanes);
  for (size_t i = 0; i < entries.size(); ++i) {
    Entry& e = entries[i];
    const bool moves = std::any_of(e.arguments.begin(), e.arguments.end(),
                                   [&](const auto& p) { return !arguments[p.second].slot.defined(); });
    if (!moves && !e.changing) continue;
    if (!graph->renewable(first + i))
      fail<NotImplemented>(Loc::current(), "record: {} asks a library with numbers that change from step to step",
                           e.plan->op);
    renewed.push_back(static_cast<uint32_t>(i));
  }
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

std::vector<Tensor> Recording::safe(const std::vector<Tensor>& args) const {
  std::vector<Tensor> out = args;
  for (Tensor& t : out)
    if (t.value().storage == arena || t.value().cell) t = private_copy(t);
  if (!graph) return out;
  for (size_t a = 0; a < out.size(); ++a)
    if (!arguments[a].slot.defined() && place_of(address_of(out[a].value())) != arguments[a].place)
      out[a] = private_copy(out[a]);
  return out;
}

void Recording::copy_argument(const Argument& a) const {
  const Value& to = a.slot.value();
  const auto element = static_cast<int64_t>(size_of(to.dtype));
  const auto [low, high] = span_of(to);
  device->copy_within(address_of(to) + low * element, static_cast<const char*>(a.address) + low * element,
                      static_cast<size_t>((high - low) * element));
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
  const ProfileRange range(RangeKind::op, "recorded step", {});
  if (graph) run_graph(args);
  else run_list(args);
}

// All or nothing: until the graph is started, what was done on the host is taken back if something fails.
void Recording::run_graph(const std::vector<Tensor>& args) {
  for (size_t a = 0; a < args.size(); ++a) {
    Argument& one = arguments[a];
    const Value& v = args[a].value();
    void* const at = address_of(v);
    if (at == one.address || one.readers.empty()) continue;
    one.address = at;
    one.stale = true;
    if (one.slot.defined()) continue;
    for (const uint32_t i : one.readers) {
      place(entries[i], static_cast<uint32_t>(a), v.buffer());
      entries[i].stale = true;
    }
  }
  size_t next = 0;
  try {
    for (size_t k = 0; k < copied.size(); ++k) {
      Argument& one = arguments[copied[k]];
      if (!one.stale) continue;
      graph->renew(k, [&] { copy_argument(one); });
      one.stale = false;
    }
    for (const uint32_t i : renewed) {
      Entry& e = entries[i];
      while (next < hooks.size() && hooks[next].at <= i) hooks[next++].advance();
      if (!e.changing && !e.stale) continue;
      e.stale = true;
      graph->renew(copied.size() + i, [&] { replay(e, false); });
      e.stale = false;
    }
    while (next < hooks.size()) hooks[next++].advance();
    graph->start();
  } catch (...) {
    while (next > 0) hooks[--next].undo();
    throw;
  }
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
