// Recorded steps: two equal eager runs, then a flat list of launches over one arena. A lifetime plan places every
// storage made inside the step, so the arena is as small as the step's peak.
#include "flame/train/record.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <unordered_map>

#include "flame/core/format.h"
#include "flame/device/counters.h"
#include "flame/device/recorder.h"
#include "flame/autograd/node.h"
#include "flame/fuse/island.h"
#include "flame/tensor/internal.h"

namespace flame {

namespace {

// Where a recorded buffer is found at replay.
struct Place {
  enum class Kind : uint8_t { outside, argument, arena } kind;
  uint32_t index;  // outside: in the recorder's list; argument: which; arena: order of first use
  int64_t offset;  // bytes from the start of that storage; argument: from its first element
  bool operator==(const Place&) const = default;
};

struct Noted {
  Ref<Plan> plan;
  std::vector<Place> places;
  uint32_t reads;
  std::vector<Word> scalars;
  Loc where;
};

// One eager run, in a form that two runs can be compared in.
struct Log {
  std::vector<Noted> launches;
  std::vector<size_t> sizes;         // bytes of the storages made inside, by first use
  std::vector<uint64_t> outside_ids;
  std::unordered_map<uint64_t, uint32_t> made;  // storage id to arena index
};

Log log_of(const Recorder& r, const std::vector<Tensor>& args) {
  Log log;
  std::unordered_map<uint64_t, uint32_t> arguments;
  for (size_t i = 0; i < args.size(); ++i) arguments.emplace(args[i].value().storage->id(), static_cast<uint32_t>(i));
  for (const RecordedLaunch& l : r.launches) {
    Noted n{l.plan, {}, l.reads, l.scalars, l.where};
    for (const RecordedBuffer& b : l.buffers) {
      if (const auto a = arguments.find(b.storage_id); a != arguments.end()) {
        n.places.push_back({Place::Kind::argument, a->second, b.offset - args[a->second].value().buffer().offset});
      } else if (!r.made_here(b.storage_id)) {
        const auto at = std::find(log.outside_ids.begin(), log.outside_ids.end(), b.storage_id);
        n.places.push_back({Place::Kind::outside, static_cast<uint32_t>(at - log.outside_ids.begin()), b.offset});
        if (at == log.outside_ids.end()) log.outside_ids.push_back(b.storage_id);
      } else {
        const auto [it, fresh] = log.made.emplace(b.storage_id, static_cast<uint32_t>(log.sizes.size()));
        if (fresh) log.sizes.push_back(b.storage_bytes);
        n.places.push_back({Place::Kind::arena, it->second, b.offset});
      }
    }
    log.launches.push_back(std::move(n));
  }
  return log;
}

std::string line_of(const Noted& n) { return fmt::format("{} at {}:{}", n.plan->op, n.where.file_name(), n.where.line()); }

// Empty if the runs repeat; else where they part. Throws if only a host number differs.
std::string difference(const Log& a, const Log& b, Loc loc) {
  const size_t n = std::min(a.launches.size(), b.launches.size());
  for (size_t i = 0; i < n; ++i) {
    const Noted &x = a.launches[i], &y = b.launches[i];
    if (x.plan.get() != y.plan.get() || x.reads != y.reads || x.places != y.places)
      return fmt::format("launch {} was {}, then {}", i, line_of(x), line_of(y));
  }
  if (a.launches.size() != b.launches.size()) return fmt::format("{} launches, then {}", a.launches.size(), b.launches.size());
  if (a.outside_ids != b.outside_ids) return "the step reads other tensors than before";
  for (size_t i = 0; i < n; ++i)
    for (size_t k = 0; k < a.launches[i].scalars.size(); ++k)
      if (a.launches[i].scalars[k].u != b.launches[i].scalars[k].u)
        fail<RecordError>(loc, "record: number {} of {} differs between two runs ({:g}, then {:g} as a double); a recorded step would "
                          "repeat the first: make it a tensor argument or a State", k, line_of(b.launches[i]), a.launches[i].scalars[k].f,
                          b.launches[i].scalars[k].f);
  return {};
}

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

struct Recording {
  struct Entry {
    Ref<Plan> plan;
    std::vector<Buffer> buffers;
    std::vector<void*> pointers;
    std::vector<std::pair<uint32_t, uint32_t>> arguments;  // buffer, argument
    std::vector<int64_t> argument_offsets;
    uint32_t reads;
    std::vector<Word> scalars;
    void* workspace = nullptr;
    Loc where;
  };
  struct Output {
    Tensor value;       // detached; arena tensors read the arena
    int argument = -1;  // or the argument itself
  };
  Device* device;
  Ref<Storage> arena;
  std::vector<Ref<Storage>> outside;
  std::vector<Ref<Storage>> written;  // of these, what the step writes
  std::vector<Entry> entries;
  std::vector<Recorder::Hook> hooks;
  std::vector<Recorder::Guard> guards;
  std::vector<std::function<void()>> preparations;
  std::vector<Output> outputs;
  size_t made_bytes = 0;

  void run(const std::vector<Tensor>& args, bool advance) {
    if (advance) {
      for (const auto& fn : preparations) fn();
      for (const Recorder::Hook& h : hooks) h.advance();
    }
    for (Entry& e : entries) {
      for (size_t i = 0; i < e.arguments.size(); ++i) {
        const auto [buffer, argument] = e.arguments[i];
        const Buffer base = args[argument].value().buffer();
        e.buffers[buffer] = {base.storage, base.offset + e.argument_offsets[i]};
        e.pointers[buffer] = static_cast<char*>(base.storage->data()) + e.buffers[buffer].offset;
      }
      const std::span<const Buffer> all(e.buffers);
      device->replay({e.plan, all.first(e.reads), all.subspan(e.reads), e.scalars}, {e.pointers.data(), e.scalars.data(), e.workspace});
    }
  }
};

bool same_bits(const Tensor& a, const Tensor& b) {
  const size_t bytes = static_cast<size_t>(a.numel()) * size_of(a.dtype());
  std::vector<char> x(bytes), y(bytes);
  a.copy_to_host(x.data(), a.dtype());
  b.copy_to_host(y.data(), b.dtype());
  return x == y;
}

std::vector<char> bytes_of(const Storage& s) {
  std::vector<char> out(s.bytes());
  s.device().copy_to_host(out.data(), s.data(), s.bytes());
  return out;
}

}  // namespace

struct RecordedStep::Impl {
  struct Signature {
    std::string key;
    int runs = 0;
    std::unique_ptr<Log> last;
    std::unique_ptr<Recording> recording;
    uint64_t replays = 0;
  };
  Fn fn;
  RecordOptions options;
  RecordStats stats;
  uint64_t mode = 0;
  std::list<Signature> signatures;  // last used first

  Signature& find(const std::vector<Tensor>& args) {
    Key key;
    key << mode << grad_enabled() << fusion_enabled() << args.size();
    for (const Tensor& t : args) key << t.value().meta() << &t.device() << t.requires_grad();
    for (auto it = signatures.begin(); it != signatures.end(); ++it)
      if (it->key == key.bytes()) {
        signatures.splice(signatures.begin(), signatures, it);
        return signatures.front();
      }
    if (static_cast<int>(signatures.size()) >= options.max_recordings) signatures.pop_back();
    signatures.push_front({std::string(key.bytes()), 0, nullptr, nullptr, 0});
    return signatures.front();
  }

  std::vector<Tensor> eager(Signature& s, const std::vector<Tensor>& args, Loc loc) {
    Recorder recorder;
    std::vector<Tensor> out = fn(args);
    flush_pending();
    for (const Tensor& t : out) materialize(t.value());
    ++s.runs;
    if (const char* why = check(recorder, args, out)) {
      miss(s, why);
      s.last.reset();
      return out;
    }
    auto log = std::make_unique<Log>(log_of(recorder, args));
    const bool enough = s.last && s.runs >= options.warmup;
    const std::string parted = s.last ? difference(*s.last, *log, loc) : std::string();
    s.last = std::move(log);
    if (!parted.empty()) miss(s, "the ops did not repeat: " + parted);
    else if (enough) s.recording = build(recorder, *s.last, args, out);
    return out;
  }

  void miss(const Signature& s, std::string why) {
    if (s.runs >= options.warmup) {
      ++stats.misses;
      counters().recording_misses += 1;
    }
    stats.last_miss = std::move(why);
  }

  // Why this run cannot be replayed, or null.
  static const char* check(const Recorder& r, const std::vector<Tensor>& args, const std::vector<Tensor>& out) {
    if (r.refused) return r.refused;
    for (size_t i = 0; i < args.size(); ++i)
      for (size_t k = 0; k < i; ++k)
        if (args[i].value().storage == args[k].value().storage) return "two arguments share their memory";
    for (uint64_t id : r.alive) {
      bool returned = false;
      for (const Tensor& t : out) returned = returned || t.value().storage->id() == id;
      if (!returned) return "a tensor made inside the step outlives it";
    }
    return nullptr;
  }

  std::unique_ptr<Recording> build(Recorder& r, const Log& log, const std::vector<Tensor>& args, const std::vector<Tensor>& out) {
    auto rec = std::make_unique<Recording>();
    rec->device = r.device ? r.device : &default_device();
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
      if (const auto it = log.made.find(t.value().storage->id()); it != log.made.end()) plan.items[it->second].last = ~size_t{0};
    rec->arena = make_ref<Storage>(*rec->device, plan.place(), Loc::current());
    for (uint64_t id : log.outside_ids)
      rec->outside.push_back(*std::find_if(r.outside.begin(), r.outside.end(), [&](const Ref<Storage>& s) { return s->id() == id; }));
    for (size_t i = 0; i < log.launches.size(); ++i) {
      const Noted& n = log.launches[i];
      Recording::Entry e{n.plan, {}, {}, {}, {}, n.reads, n.scalars, nullptr, n.where};
      for (const Place& p : n.places) {
        Buffer b{nullptr, p.offset};
        if (p.kind == Place::Kind::argument) {
          e.arguments.emplace_back(static_cast<uint32_t>(e.buffers.size()), p.index);
          e.argument_offsets.push_back(p.offset);
        } else if (p.kind == Place::Kind::outside) {
          b.storage = rec->outside[p.index].get();
          if (e.buffers.size() >= n.reads) rec->written.push_back(rec->outside[p.index]);
        } else {
          b = {rec->arena.get(), p.offset + static_cast<int64_t>(plan.items[p.index].offset)};
        }
        e.buffers.push_back(b);
        e.pointers.push_back(b.storage ? static_cast<char*>(b.storage->data()) + b.offset : nullptr);
      }
      if (n.plan->workspace) e.workspace = static_cast<char*>(rec->arena->data()) + plan.items[workspaces[i]].offset;
      rec->entries.push_back(std::move(e));
    }
    for (const Tensor& t : out) rec->outputs.push_back(output(t, args, log, plan, *rec));
    rec->hooks = std::move(r.hooks);
    rec->guards = std::move(r.guards);
    rec->preparations = std::move(r.preparations);
    ++stats.recordings;
    stats.arena_bytes = rec->arena->bytes();
    stats.launches = rec->entries.size();
    return rec;
  }

  static Recording::Output output(const Tensor& t, const std::vector<Tensor>& args, const Log& log, const Arena& plan, const Recording& rec) {
    for (size_t i = 0; i < args.size(); ++i)
      if (args[i].value_ref() == t.value_ref()) return {{}, static_cast<int>(i)};
    const Value& v = t.value();
    const auto it = log.made.find(v.storage->id());
    if (it == log.made.end()) return {t.detach(), -1};
    Ref<Value> mine = make_ref<Value>(*v.device, v.dtype, v.shape, v.strides);
    mine->storage = rec.arena;
    mine->offset = v.offset + static_cast<int64_t>(plan.items[it->second].offset / size_of(v.dtype));
    return {Tensor(std::move(mine)), -1};
  }

  static std::vector<Tensor> results(const Recording& r, const std::vector<Tensor>& args) {
    std::vector<Tensor> out;
    for (const Recording::Output& o : r.outputs) out.push_back(o.argument >= 0 ? args[static_cast<size_t>(o.argument)] : o.value);
    return out;
  }

  // Replays, takes everything back, runs eagerly, and compares what both wrote.
  std::vector<Tensor> verified(Recording& r, const std::vector<Tensor>& args, Loc loc) {
    for (const auto& fn : r.preparations) fn();
    std::vector<std::vector<char>> before, after;
    for (const Ref<Storage>& s : r.written) before.push_back(bytes_of(*s));
    for (const Recorder::Hook& h : r.hooks) h.advance();
    r.run(args, false);
    for (const Ref<Storage>& s : r.written) after.push_back(bytes_of(*s));
    std::vector<Tensor> replayed;
    for (const Tensor& t : results(r, args)) {
      std::vector<char> raw(static_cast<size_t>(t.numel()) * size_of(t.dtype()));
      t.copy_to_host(raw.data(), t.dtype());
      replayed.push_back(Tensor::from_host(raw.data(), static_cast<size_t>(t.numel()), t.dtype(), t.shape(), t.device(), loc));
    }
    for (auto h = r.hooks.rbegin(); h != r.hooks.rend(); ++h) h->undo();
    for (size_t i = 0; i < r.written.size(); ++i)
      r.written[i]->device().copy_from_host(r.written[i]->data(), before[i].data(), before[i].size());
    std::vector<Tensor> out = fn(args);
    flush_pending();
    for (size_t i = 0; i < out.size(); ++i)
      if (!same_bits(out[i], replayed[i])) fail<RecordError>(loc, "record: result {} of a replay differs from the eager step", i);
    for (size_t i = 0; i < r.written.size(); ++i)
      if (bytes_of(*r.written[i]) != after[i]) fail<RecordError>(loc, "record: a state written by a replay differs from the eager step");
    return out;
  }

  std::vector<Tensor> call(const std::vector<Tensor>& args, Loc loc) {
    ++stats.calls;
    if (Recorder::current()) return fn(args);  // part of an outer recorded step
    for (const Tensor& t : args) materialize(t.value());
    flush_pending();
    Signature& s = find(args);
    if (!s.recording) return eager(s, args, loc);
    for (const Recorder::Guard& g : s.recording->guards)
      if (!g.holds()) {
        ++s.runs;
        miss(s, g.what);
        return fn(args);
      }
    ++s.replays;
    ++stats.replays;
    counters().replays += 1;
    if (options.verify > 0 && s.replays % static_cast<uint64_t>(options.verify) == 0) return verified(*s.recording, args, loc);
    s.recording->run(args, true);
    return results(*s.recording, args);
  }
};

RecordedStep::RecordedStep(Fn fn, RecordOptions options) : impl_(std::make_unique<Impl>()) {
  if (options.warmup < 2) fail<ValueError>(Loc::current(), "record: expected a warm-up of at least 2 calls, got {}", options.warmup);
  impl_->fn = std::move(fn);
  impl_->options = options;
}
RecordedStep::~RecordedStep() = default;
std::vector<Tensor> RecordedStep::operator()(const std::vector<Tensor>& in, Loc loc) { return impl_->call(in, loc); }
const RecordStats& RecordedStep::stats() const { return impl_->stats; }
void RecordedStep::set_mode(uint64_t mode) { impl_->mode = mode; }

}  // namespace flame
