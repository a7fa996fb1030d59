// A recording as the graph of its device: what arguments launches read, where they read them, and what is told anew.
#include <algorithm>
#include <new>

#include "flame/core/error.h"
#include "flame/core/format.h"
#include "flame/train/recording_internal.h"

namespace flame {

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

// The copies of arguments that libraries read, then the entries.
void Recording::capture_parts(int most_lanes) {
  constexpr size_t most = 4000;  // parts, whose accesses are compared pairwise
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
  lanes = 1;
  if (most_lanes > 1 && desc.parts <= most) {
    std::vector<Accesses> parts(first);
    for (const Entry& e : entries) parts.push_back(e.touched);
    for (size_t i = 0; i < first; ++i) {
      const Argument& a = arguments[copied[i]];
      const auto at = reinterpret_cast<uintptr_t>(a.slot.value().storage->data());
      const uintptr_t end = at + a.slot.value().storage->bytes();
      parts[i].push_back({at, end, true});
      for (const uint32_t reader : a.readers) parts[first + reader].push_back({at, end, false});
    }
    Lanes found = lanes_of(parts, static_cast<uint32_t>(most_lanes));
    for (const uint32_t l : found.lane) lanes = std::max(lanes, l + 1);
    desc.lane = std::move(found.lane);
    desc.after = std::move(found.after);
  }
  graph = device->capture(desc);
}

// What a library reads of the arguments gets memory of the recording's, since nothing but a new capture could tell the library
// another address. Which launches are a library's is seen by taking up those that read arguments, where they are now.
void Recording::place_arguments(const std::vector<ArgumentPlace>& args, const std::vector<Tensor>& values) {
  std::vector<size_t> readers;
  for (size_t i = 0; i < entries.size(); ++i)
    if (!entries[i].arguments.empty()) readers.push_back(i);
  for (size_t a = 0; a < args.size(); ++a) {
    const Value& v = values[a].value();
    const Buffer at{args[a].storage.get(), args[a].offset * static_cast<int64_t>(size_of(v.dtype))};
    Argument one{static_cast<char*>(at.storage->data()) + at.offset, 0, {}, {}};
    one.place = place_of(one.address);
    for (const size_t i : readers) {
      const auto& read = entries[i].arguments;
      if (std::none_of(read.begin(), read.end(), [a](const auto& p) { return p.second == a; })) continue;
      one.readers.push_back(static_cast<uint32_t>(i));
      place(entries[i], static_cast<uint32_t>(a), at);
    }
    arguments.push_back(std::move(one));
  }
  const Ref<LaunchGraph> tried =
      device->capture({readers.size(), [&](size_t k) { replay(entries[readers[k]], false); },
                       [&](size_t k) -> const std::string& { return entries[readers[k]].plan->op; }});
  if (!tried) return;
  for (size_t k = 0; k < readers.size(); ++k) {
    if (tried->renewable(k)) continue;
    for (const auto& [buffer, a] : entries[readers[k]].arguments) {
      Argument& one = arguments[a];
      if (one.slot.defined()) continue;
      one.slot = private_copy(values[a], MemoryKind::recording);
      for (const uint32_t i : one.readers) place(entries[i], a, one.slot.value().buffer());
      copied.push_back(a);
    }
  }
}

void Recording::make_graph(const std::vector<ArgumentPlace>& args, const std::vector<Tensor>& values, int most_lanes) {
  place_arguments(args, values);
  capture_parts(most_lanes);
  if (!graph) {
    lanes = 0;
    return;
  }
  const size_t first = copied.size();
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
  graph->finish();
}

// A step that the device cannot keep as a graph stays a list. Without memory there is no recording.
void Recording::capture(const std::vector<ArgumentPlace>& args, const std::vector<Tensor>& values, int most_lanes) {
  try {
    make_graph(args, values, most_lanes);
  } catch (const OutOfMemory&) { throw; } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    if (dynamic_cast<const DeviceError*>(&e)) device->synchronize();  // throws if the device is lost
    graph = {};
    lanes = 0;
    arguments.clear();
    copied.clear();
    renewed.clear();
    no_graph = e.what();
  }
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

}  // namespace flame
