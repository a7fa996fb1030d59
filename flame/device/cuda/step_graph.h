// Internal: a recorded step as one CUDA graph. A thread's launches are captured on a stream of their own, so that other threads
// go on; kernels and copies of ours can then be told anew, node by node.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "flame/device/cuda/driver.h"
#include "flame/device/cuda/launch_watch.h"
#include "flame/device/kernel.h"
#include "flame/device/profile.h"
#include "flame/device/recorder.h"

namespace flame::cuda {

class CudaDevice;

class StepGraph final : public LaunchGraph {
 public:
  StepGraph(CudaDevice& d, const GraphDesc& g);
  ~StepGraph() override;
  bool renewable(size_t part) const override { return parts_[part].renewable; }
  void finish() override;
  void renew(size_t part, const std::function<void()>& fn) override;
  void start() override;

  // The graph that takes this thread's launches on a device, or null.
  static StepGraph* taking(const CudaDevice& d);
  // A kernel that was just captured, or is to be set; a copy or fill that is to be captured or set.
  void kernel(CUfunction f, const Grid& g, void** arguments, const std::string& name);
  void copy(CUdeviceptr to, CUdeviceptr from, size_t bytes);
  void fill(CUdeviceptr to, unsigned char byte, size_t bytes);
  CUstream stream() const;  // throws while a part is renewed
  bool renewing() const { return renewing_; }
  uint32_t lane() const { return lane_; }               // of the part that is captured
  void keep(void* block) { blocks_.push_back(block); }  // memory that was given back, which launches still use

 private:
  struct Node {
    CUgraphNode node;
    enum class Kind : uint8_t { kernel, copy, fill } kind;
    CUdeviceptr to, from;
    size_t bytes;
  };
  struct Part {
    size_t first;  // node
    bool renewable;
  };
  class Taking;
  using Ends = std::vector<CUgraphNode>;  // what comes next waits for these
  struct Handles {
    CUgraph graph = nullptr;
    CUgraphExec ready = nullptr;
  };
  void capture(const GraphDesc& g, std::vector<ProfilePart>& profile);
  void capture_part(const GraphDesc& g, size_t part, std::vector<Ends>& ends, std::vector<Ends>& lanes,
                    ProfilePart& profile);
  void prefer(const GraphDesc& g, const std::vector<Ends>& ends) const;
  void come_after(Ends nodes) const;
  void captured(Node::Kind kind, CUdeviceptr to = 0, CUdeviceptr from = 0, size_t bytes = 0);
  const Node& next(Node::Kind kind);
  size_t nodes_in_graph(Ends* last) const;
  void destroy() noexcept;

  CudaDevice& device_;
  LaunchWatch::Names names_;
  ProfileParts profile_;
  std::vector<std::string> kernels_;  // of the part that is captured; empty: a copy or a fill
  Handles handles_;
  std::vector<Node> nodes_;  // of ours
  std::vector<Part> parts_;
  std::vector<void*> blocks_;
  size_t next_ = 0;  // node to renew
  bool renewing_ = false;
  uint32_t lane_ = 0;
  static thread_local StepGraph* taking_;
};

}  // namespace flame::cuda
