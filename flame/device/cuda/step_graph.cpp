// Capture, renewal and launch of recorded steps.
#include "flame/device/cuda/step_graph.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_set>
#include <utility>

#include "flame/core/format.h"
#include "flame/device/counters.h"
#include "flame/device/cuda/cuda_device.h"

namespace flame::cuda {

thread_local StepGraph* StepGraph::taking_ = nullptr;

namespace {

// Whether a part is on a chain of parts as long as any; all are, in one lane.
std::vector<bool> on_longest_chains(const GraphDesc& g) {
  std::vector<bool> out(g.parts, true);
  if (g.lane.empty()) return out;
  std::vector<std::vector<uint32_t>> needs = g.after;
  std::vector<size_t> before(g.parts), behind(g.parts);
  std::map<uint32_t, uint32_t> last;  // of a lane
  for (uint32_t i = 0; i < g.parts; ++i) {
    if (const auto it = last.find(g.lane[i]); it != last.end()) needs[i].push_back(it->second);
    last[g.lane[i]] = i;
    for (const uint32_t j : needs[i]) before[i] = std::max(before[i], before[j] + 1);
  }
  size_t longest = 0;
  for (size_t i = g.parts; i-- > 0;) {
    longest = std::max(longest, before[i] + behind[i]);
    for (const uint32_t j : needs[i]) behind[j] = std::max(behind[j], behind[i] + 1);
  }
  for (size_t i = 0; i < g.parts; ++i) out[i] = before[i] + behind[i] == longest;
  return out;
}

}  // namespace

StepGraph* StepGraph::taking(const CudaDevice& d) { return taking_ && &taking_->device_ == &d ? taking_ : nullptr; }

// While one lives, this thread's launches on the device are the graph's; they wait for nothing.
class StepGraph::Taking {
 public:
  Taking(StepGraph& g, bool renewing) : graph_(g), direct_(g.device_), before_(std::exchange(taking_, &g)) {
    g.renewing_ = renewing;
  }
  ~Taking() {
    taking_ = before_;
    graph_.renewing_ = false;
  }
  Taking(const Taking&) = delete;
  Taking& operator=(const Taking&) = delete;

 private:
  StepGraph& graph_;
  const CudaDevice::Direct direct_;
  StepGraph* const before_;
};

StepGraph::StepGraph(CudaDevice& d, const GraphDesc& g) : device_(d) {
  auto names = std::make_shared<std::vector<std::string>>();
  for (size_t i = 0; i < g.parts; ++i)
    if (std::find(names->begin(), names->end(), g.name(i)) == names->end()) names->push_back(g.name(i));
  names_ = std::move(names);
  std::vector<ProfilePart> profile(g.parts);
  for (size_t i = 0; g.profile && i < g.parts; ++i) profile[i] = g.profile(i);
  try {
    const CudaDevice::Meter meter(d);
    capture(g, profile);
    profile_ = std::make_shared<const std::vector<ProfilePart>>(std::move(profile));
  } catch (...) {
    destroy();
    throw;
  }
}
StepGraph::~StepGraph() { destroy(); }

void StepGraph::finish() {
  device_.enter();
  const CudaDevice::Meter meter(device_);
  device_.check(device_.with_room([&] {
    return device_.graph_refused()
               ? CUDA_ERROR_OUT_OF_MEMORY
               : driver().cuGraphInstantiateWithFlags(&handles_.ready, handles_.graph,
                                                      CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY);
  }),
                "cuGraphInstantiate");
  device_.check(device_.with_room([&] { return driver().cuGraphUpload(handles_.ready, device_.own_stream()); }),
                "cuGraphUpload");
}

// A graph that runs is destroyed by the driver when it has ended.
void StepGraph::destroy() noexcept {
  for (void* p : blocks_) device_.memory().deallocate(p);
  if (!device_.try_enter()) return;  // the device is lost
  const CudaDevice::Meter meter(device_);
  if (handles_.ready) driver().cuGraphExecDestroy(handles_.ready);
  if (handles_.graph) driver().cuGraphDestroy(handles_.graph);
}

void StepGraph::capture(const GraphDesc& g, std::vector<ProfilePart>& profile) {
  const Driver& f = driver();
  const std::unique_lock<std::mutex> one = device_.capture_alone();
  device_.check(f.cuStreamBeginCapture(device_.capture_stream(), CU_STREAM_CAPTURE_MODE_RELAXED),
                "cuStreamBeginCapture");
  try {
    const Taking taking(*this, false);
    std::vector<Ends> ends(g.parts), lanes(1);
    for (const uint32_t l : g.lane) lanes.resize(std::max<size_t>(lanes.size(), l + 1));
    for (size_t i = 0; i < g.parts; ++i) capture_part(g, i, ends, lanes, profile[i]);
    lane_ = 0;
    Ends all;
    for (const Ends& l : lanes) all.insert(all.end(), l.begin(), l.end());
    if (lanes.size() > 1) come_after(std::move(all));
    parts_.push_back({nodes_.size(), false});
    prefer(g, ends);
  } catch (...) {
    CUgraph broken = nullptr;
    if (f.cuStreamEndCapture(device_.capture_stream(), &broken) == CUDA_SUCCESS && broken) f.cuGraphDestroy(broken);
    throw;
  }
  device_.check(f.cuStreamEndCapture(device_.capture_stream(), &handles_.graph), "cuStreamEndCapture");
}

// Behind the part before it in its lane, and those that it names.
void StepGraph::capture_part(const GraphDesc& g, size_t part, std::vector<Ends>& ends, std::vector<Ends>& lanes,
                             ProfilePart& profile) {
  lane_ = g.lane.empty() ? 0 : g.lane[part];
  if (lanes.size() > 1) {
    Ends before = lanes[lane_];
    for (const uint32_t i : g.after[part]) before.insert(before.end(), ends[i].begin(), ends[i].end());
    come_after(std::move(before));
  }
  const size_t before = nodes_in_graph(nullptr), first = nodes_.size();
  kernels_.clear();
  g.launch(part);
  profile.nodes = nodes_in_graph(&ends[part]) - before;
  const bool ours = profile.nodes == nodes_.size() - first;
  if (ours) profile.kernels = kernels_;
  parts_.push_back({first, ours});
  lanes[lane_] = ends[part];
}

// Of parts that run beside each other, those behind which more must follow one by one get free multiprocessors first: the
// parts of longest chains. A part's nodes are those before its last ones that no earlier part has.
void StepGraph::prefer(const GraphDesc& g, const std::vector<Ends>& ends) const {
  const std::vector<bool> preferred = on_longest_chains(g);
  if (std::find(preferred.begin(), preferred.end(), false) == preferred.end()) return;
  const Driver& f = driver();
  int least = 0, greatest = 0;
  device_.check(f.cuCtxGetStreamPriorityRange(&least, &greatest), "cuCtxGetStreamPriorityRange");
  CUlaunchAttributeValue urgent{};
  urgent.priority = greatest;
  std::unordered_set<CUgraphNode> seen;
  for (size_t i = 0; i < g.parts; ++i) {
    Ends open = ends[i];
    while (!open.empty()) {
      const CUgraphNode node = open.back();
      open.pop_back();
      if (!seen.insert(node).second) continue;
      CUgraphNodeType type{};
      device_.check(f.cuGraphNodeGetType(node, &type), "cuGraphNodeGetType");
      if (preferred[i] && type == CU_GRAPH_NODE_TYPE_KERNEL)
        device_.check(f.cuGraphKernelNodeSetAttribute(node, CU_LAUNCH_ATTRIBUTE_PRIORITY, &urgent),
                      "cuGraphKernelNodeSetAttribute");
      size_t count = 0;
      device_.check(f.cuGraphNodeGetDependencies(node, nullptr, nullptr, &count), "cuGraphNodeGetDependencies");
      Ends before(count);
      std::vector<CUgraphEdgeData> edges(count);
      if (count > 0)
        device_.check(f.cuGraphNodeGetDependencies(node, before.data(), edges.data(), &count),
                      "cuGraphNodeGetDependencies");
      open.insert(open.end(), before.begin(), before.end());
    }
  }
}
void StepGraph::come_after(Ends nodes) const {
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
  device_.check(driver().cuStreamUpdateCaptureDependencies(device_.capture_stream(), nodes.data(), nullptr,
                                                           nodes.size(), CU_STREAM_SET_CAPTURE_DEPENDENCIES),
                "cuStreamUpdateCaptureDependencies");
}

// How many there are, and those that the stream's next launch comes behind.
size_t StepGraph::nodes_in_graph(Ends* last) const {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  CUgraph graph = nullptr;
  const CUgraphNode* before = nullptr;
  const CUgraphEdgeData* edges = nullptr;
  size_t count = 0;
  device_.check(
      driver().cuStreamGetCaptureInfo(device_.capture_stream(), &status, nullptr, &graph, &before, &edges, &count),
      "cuStreamGetCaptureInfo");
  if (status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
    device_.check(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "a launch of a recorded step");
  if (last) last->assign(before, before + count);
  size_t all = 0;
  device_.check(driver().cuGraphGetNodes(graph, nullptr, &all), "cuGraphGetNodes");
  return all;
}

void StepGraph::captured(Node::Kind kind, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  Ends last;
  nodes_in_graph(&last);
  nodes_.push_back({last.size() == 1 ? last[0] : nullptr, kind, to, from, bytes});
  kernels_.emplace_back();
}

// The node whose turn it is; a part that launches something else than it did cannot be renewed.
const StepGraph::Node& StepGraph::next(Node::Kind kind) {
  if (next_ < nodes_.size() && nodes_[next_].kind == kind) return nodes_[next_++];
  fail<RecordError>(Loc::current(), "record: a launch of a recorded step is not the one that was recorded");
}

void StepGraph::kernel(CUfunction f, const Grid& g, void** arguments, const std::string& name) {
  if (!renewing_) {
    captured(Node::Kind::kernel);
    kernels_.back() = name;
    return;
  }
  const auto size = [](int64_t n) { return static_cast<unsigned>(n); };
  CUDA_KERNEL_NODE_PARAMS p{};
  p.func = f;
  p.gridDimX = size(g.blocks), p.gridDimY = size(g.y), p.gridDimZ = size(g.z);
  p.blockDimX = size(g.threads), p.blockDimY = size(g.threads_y), p.blockDimZ = size(g.threads_z);
  p.sharedMemBytes = size(g.shared);
  p.kernelParams = arguments;
  device_.check(driver().cuGraphExecKernelNodeSetParams(handles_.ready, next(Node::Kind::kernel).node, &p),
                "cuGraphExecKernelNodeSetParams");
}

void StepGraph::copy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  if (!renewing_) {
    device_.check(driver().cuMemcpyDtoDAsync(to, from, bytes, stream()), "copy");
    return captured(Node::Kind::copy, to, from, bytes);
  }
  const Node& n = next(Node::Kind::copy);
  if (n.to == to && n.from == from && n.bytes == bytes) return;
  CUDA_MEMCPY3D p{};
  p.srcMemoryType = p.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  p.srcDevice = from, p.dstDevice = to;
  p.WidthInBytes = bytes, p.Height = p.Depth = 1;
  device_.check(driver().cuGraphExecMemcpyNodeSetParams(handles_.ready, n.node, &p, device_.context()),
                "cuGraphExecMemcpyNodeSetParams");
  nodes_[next_ - 1].to = to, nodes_[next_ - 1].from = from;
}

void StepGraph::fill(CUdeviceptr to, unsigned char byte, size_t bytes) {
  if (!renewing_) {
    device_.check(driver().cuMemsetD8Async(to, byte, bytes, stream()), "fill");
    return captured(Node::Kind::fill, to, byte, bytes);
  }
  const Node& n = next(Node::Kind::fill);
  if (n.to != to || n.from != byte || n.bytes != bytes)
    fail<RecordError>(Loc::current(), "record: a fill of a recorded step is not the one that was recorded");
}

CUstream StepGraph::stream() const {
  if (renewing_)
    fail<RecordError>(Loc::current(), "record: a launch of a recorded step is not the one that was recorded");
  return device_.capture_stream();
}

// Any thread may do it, so the context is made its own first.
void StepGraph::renew(size_t part, const std::function<void()>& fn) {
  device_.enter();
  const Taking taking(*this, true);
  next_ = parts_[part].first;
  fn();
  if (next_ != parts_[part + 1].first)
    fail<RecordError>(Loc::current(), "record: a part of a recorded step makes other launches than were recorded");
}

void StepGraph::start() {
  const ProfileRange range(device_, profile_);
  device_.start(names_, handles_.ready);
  counters().graph_launches += 1;
}

}  // namespace flame::cuda
