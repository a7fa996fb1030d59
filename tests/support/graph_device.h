// A CPU device that keeps recorded steps as graphs: what a GPU does with them, without one. Launches named in `libraries`
// cannot be told anew, as a library's cannot; those named in `uncapturable` cannot be part of a graph.
#pragma once
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "flame/device/cpu/cpu_device.h"
#include "flame/device/recorder.h"

namespace flame::test {

class GraphDevice final : public CpuDevice {
 public:
  explicit GraphDevice(std::string name) : CpuDevice(Kind::cpu, std::move(name)) {}

  Ref<LaunchGraph> capture(const GraphDesc& g) override {
    if (std::exchange(fail_capture, false)) throw OutOfMemory("a planted failure", Loc::current());
    return make_ref<Graph>(*this, g);
  }

  void copy_within(void* dst, const void* src, size_t bytes) override {
    if (!taken_) return CpuDevice::copy_within(dst, src, bytes);
    const auto copy = [dst, src, bytes](const Run&) { std::memcpy(dst, src, bytes); };
    taken_->push_back({make_ref<Plan>("copy", copy), {}, {}, nullptr});
  }

  std::set<std::string> libraries = {"gemm", "conv2d", "conv2d_backward_data", "conv2d_backward_weight"};
  std::set<std::string> uncapturable;
  std::map<std::string, int> renewals;  // by op
  int captures = 0, captured_parts = 0, finished = 0, starts = 0, out_of_order = 0;
  bool fail_capture = false, fail_start = false;

 private:
  struct Kept {
    Ref<const Plan> plan;
    std::vector<void*> buffers;
    std::vector<Word> scalars;
    void* workspace;
  };
  struct Taking {  // launches into a part
    GraphDevice& device;
    Taking(GraphDevice& d, std::vector<Kept>& part) : device(d) { d.taken_ = &part; }
    ~Taking() { device.taken_ = nullptr; }
  };
  class Graph final : public LaunchGraph {
   public:
    Graph(GraphDevice& d, const GraphDesc& g) : device_(d), parts_(g.parts), names_(g.parts) {
      ++d.captures;
      for (size_t i = 0; i < g.parts; ++i) {
        names_[i] = g.name(i);
        ++d.captured_parts;
        take(i, [&] { g.launch(i); });
      }
      order_parts(g);
    }
    bool renewable(size_t part) const override { return !device_.libraries.contains(names_[part]); }
    void finish() override {
      finished_ = true;
      ++device_.finished;
    }
    void renew(size_t part, const std::function<void()>& fn) override {
      if (!finished_ || !renewable(part)) throw RecordError("a library's launch was told anew", Loc::current());
      ++device_.renewals[names_[part]];
      take(part, fn);
    }
    void start() override {
      if (!finished_) throw RecordError("a graph that is not finished was started", Loc::current());
      if (std::exchange(device_.fail_start, false)) throw OutOfMemory("a planted failure", Loc::current());
      ++device_.starts;
      for (const size_t i : order_)
        for (const Kept& k : parts_[i]) k.plan->body({k.buffers.data(), k.scalars.data(), k.workspace});
    }

   private:
    // Some order that lanes allow, as unlike the program's as may be.
    void order_parts(const GraphDesc& g) {
      if (g.lane.empty()) {
        order_.resize(g.parts);
        return std::iota(order_.begin(), order_.end(), size_t{0});
      }
      std::vector<char> done(g.parts);
      const auto ready = [&](size_t i) {
        if (done[i]) return false;
        for (size_t j = 0; j < i; ++j)
          if (!done[j] && g.lane[i] == g.lane[j]) return false;
        return std::all_of(g.after[i].begin(), g.after[i].end(), [&](uint32_t j) { return done[j]; });
      };
      while (order_.size() < g.parts)
        for (size_t i = g.parts; i-- > 0;)
          if (ready(i)) {
            device_.out_of_order += !order_.empty() && i < order_.back();
            order_.push_back(i);
            done[i] = true;
            break;
          }
    }
    void take(size_t part, const std::function<void()>& fn) {
      parts_[part].clear();
      const Taking taking(device_, parts_[part]);
      fn();
    }
    GraphDevice& device_;
    std::vector<std::vector<Kept>> parts_;
    std::vector<std::string> names_;
    std::vector<size_t> order_;
    bool finished_ = false;
  };
  void run(const Plan& plan, const Launch& l, const Run& r) override {
    if (!taken_) return plan.body(r);
    if (uncapturable.contains(plan.op)) throw DeviceError("no graph takes " + plan.op, Loc::current());
    taken_->push_back({Ref<const Plan>(&plan),
                       {r.buffers, r.buffers + l.reads.size() + l.writes.size()},
                       {l.scalars.begin(), l.scalars.end()},
                       r.workspace});
  }
  std::vector<Kept>* taken_ = nullptr;
};

inline GraphDevice& graph_device() {
  static GraphDevice* d = [] {
    auto owned = std::make_unique<GraphDevice>("cpu:graph");
    GraphDevice* made = owned.get();
    register_device(std::move(owned));
    return made;
  }();
  return *d;
}

}  // namespace flame::test
