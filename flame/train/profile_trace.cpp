// A profile as a Chrome trace: the host is one process of the picture, each GPU another one.
#include <map>
#include <nlohmann/json.hpp>

#include "flame/core/format.h"
#include "flame/io/file.h"
#include "flame/train/profile_internal.h"

namespace flame::train {
namespace {

using Json = nlohmann::json;

class Trace {
 public:
  Trace(io::FileSink& sink, int64_t start) : sink_(sink), start_(start) {
    text_ = R"({"displayTimeUnit": "ms", "traceEvents": [)";
  }
  void end() {
    text_ += "\n]}\n";
    sink_.write(std::exchange(text_, {}));
  }
  void put(const Json& event) {
    text_ += std::exchange(first_, false) ? "\n" : ",\n";
    text_ += event.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text_.size() > size_t{1} << 20) sink_.write(std::exchange(text_, {}));
  }
  double at(int64_t ns) const { return static_cast<double>(ns - start_) * 1e-3; }
  void complete(const std::string& name, const char* category, int pid, uint32_t tid, int64_t from, int64_t to,
                Json args) {
    put({{"ph", "X"},
         {"name", name},
         {"cat", category},
         {"pid", pid},
         {"tid", tid},
         {"ts", at(from)},
         {"dur", static_cast<double>(to - from) * 1e-3},
         {"args", std::move(args)}});
  }
  void meta(const char* what, int pid, uint32_t tid, const std::string& name) {
    put({{"ph", "M"}, {"name", what}, {"pid", pid}, {"tid", tid}, {"ts", 0}, {"args", {{"name", name}}}});
  }
  // An arrow from a launch to the first thing that a GPU did for it.
  void flow(const char* ph, uint64_t launch, int pid, uint32_t tid, int64_t when) {
    Json e = {{"ph", ph},   {"name", "launch"}, {"cat", "launch"}, {"id", launch},
              {"pid", pid}, {"tid", tid},       {"ts", at(when)}};
    if (*ph == 'f') e["bp"] = "e";
    put(e);
  }

 private:
  io::FileSink& sink_;
  const int64_t start_;
  std::string text_;
  bool first_ = true;
};

constexpr int host = 0;

Json what_is_known(const Work& w, uint64_t launch) {
  Json args = Json::object();
  if (launch) args["launch"] = launch;
  if (w.bytes > 0) args["bytes"] = w.bytes;
  if (w.flops > 0) {
    args["flops"] = w.flops;
    args["dtype"] = name_of(w.type);
  }
  return args;
}

void put_ranges(Trace& t, const Profile& p) {
  std::map<uint32_t, bool> threads;
  for (const ProfiledRange& r : p.ranges) {
    if (!std::exchange(threads[r.thread], true))
      t.meta("thread_name", host, r.thread, fmt::format("thread {}", r.thread));
    Json args = what_is_known(r.work, r.launch);
    if (r.where.line() > 0) args["at"] = fmt::format("{}:{}", r.where.file_name(), r.where.line());
    const bool here = r.device && r.device->host_accessible();
    const char* category = r.kind == RangeKind::scope      ? "scope"
                           : r.kind == RangeKind::op       ? "op"
                           : r.kind == RangeKind::backward ? "backward"
                           : here                          ? "kernel"
                                                           : "launch";
    t.complete(r.name, category, host, r.thread, r.start, r.end, std::move(args));
    if (r.launch && !here) t.flow("s", r.launch, host, r.thread, r.start);
  }
}

void put_memory(Trace& t, const Profile& p) {
  constexpr const char* kinds[num_memory_kinds] = {"tensors", "recordings", "workspace", "staging"};
  for (const ProfiledMemory& m : p.memory) {
    Json args = Json::object();
    for (size_t k = 0; k < m.bytes.size(); ++k) args[kinds[k]] = m.bytes[k];
    t.put({{"ph", "C"},
           {"name", "memory of " + m.device->name()},
           {"pid", host},
           {"tid", 0},
           {"ts", t.at(m.at)},
           {"args", std::move(args)}});
  }
}

void put_activities(Trace& t, const Profile& p) {
  std::map<std::string, int> devices;
  std::map<std::pair<int, uint32_t>, bool> streams;
  std::map<uint64_t, bool> launches;
  const std::vector<ActivityCause> causes = causes_of(p);
  for (size_t i = 0; i < causes.size(); ++i) {
    const ProfiledActivity& a = p.activities[i];
    const auto [it, fresh] = devices.emplace(a.device, static_cast<int>(devices.size()) + 1);
    const int pid = it->second;
    if (fresh) t.meta("process_name", pid, 0, a.device);
    if (!std::exchange(streams[{pid, a.stream}], true))
      t.meta("thread_name", pid, a.stream, fmt::format("stream {}", a.stream));
    Json args = what_is_known(causes[i].first ? causes[i].work : Work{.bytes = 0}, a.launch);
    args["op"] = causes[i].name;
    t.complete(a.name, "kernel", pid, a.stream, a.start, a.end, std::move(args));
    if (a.launch && !std::exchange(launches[a.launch], true)) t.flow("f", a.launch, pid, a.stream, a.start);
  }
}

}  // namespace

void write_chrome_trace(const Profile& p, const std::string& path, Loc loc) {
  io::write_file_atomic(
      path,
      [&](io::FileSink& sink) {
        Trace t(sink, p.start);
        t.meta("process_name", host, 0, "host");
        put_ranges(t, p);
        put_memory(t, p);
        put_activities(t, p);
        t.end();
      },
      {}, loc);
}

}  // namespace flame::train
