// Internal: convolutions as graphs of cuDNN's backend API, and plans of them by its heuristics or from an engine's name.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "flame/device/cuda/library_errors.h"
#include "flame/device/cuda/library_handles.h"

namespace flame::cuda {

// A backend descriptor and the setting of its attributes.
class Descriptor {
 public:
  Descriptor(Libraries::Dnn& dnn, cudnnBackendDescriptorType_t t) : dnn_(&dnn) {
    must(dnn.device, "cudnnBackendCreateDescriptor", [&] { return dnn.f.cudnnBackendCreateDescriptor(t, &d_); });
  }
  Descriptor(Descriptor&& o) noexcept : dnn_(o.dnn_), d_(std::exchange(o.d_, nullptr)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (d_) dnn_->f.cudnnBackendDestroyDescriptor(d_);
  }
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void* values) {
    must(dnn_->device, "cudnnBackendSetAttribute",
         [&] { return dnn_->f.cudnnBackendSetAttribute(d_, name, type, count, values); });
  }
  void numbers(cudnnBackendAttributeName_t name, const std::vector<int64_t>& v) {
    set(name, CUDNN_TYPE_INT64, static_cast<int64_t>(v.size()), v.data());
  }
  void link(cudnnBackendAttributeName_t name, const Descriptor& to) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &to.d_);
  }
  // False where the library does not support it, or breaks on it.
  bool try_finalize() {
    return works(dnn_->device, "cudnnBackendFinalize", [&] { return dnn_->f.cudnnBackendFinalize(d_); });
  }
  void finalize(const char* what) {
    must(dnn_->device, what, [&] { return dnn_->f.cudnnBackendFinalize(d_); });
  }
  cudnnBackendDescriptor_t raw() const { return d_; }

 private:
  Libraries::Dnn* dnn_;
  cudnnBackendDescriptor_t d_ = nullptr;
};

// The tensors of a graph, as a variant pack names them.
enum Id : int64_t { id_x = 1, id_w, id_y, id_bias, id_sum, id_before };

// A plan that can be run, and what rebuilds it: "fused" or "plain" (bias and activation are left to a kernel of ours), the
// engine, knobs.
struct Execution {
  Descriptor plan;
  size_t workspace;
  bool fused;
  std::string config;
};

class ConvGraph {
 public:
  // With `fused`, bias and activation are part of the graph.
  ConvGraph(Libraries::Dnn& dnn, const ConvDesc& c, bool fused);
  // The first plans of the heuristics that are deterministic and, in float32, exact. None where cuDNN has none.
  std::vector<Execution> plans(size_t most, size_t most_workspace) const;
  std::optional<Execution> plan_of(const std::string& config) const;  // nothing if it cannot be made

 private:
  Descriptor& pointwise(cudnnDataType_t compute, const Descriptor& x, const Descriptor* b, const Descriptor& y);
  std::optional<Execution> finish(const Descriptor& engine_config) const;
  Libraries::Dnn& dnn_;
  const DType dtype_;
  const bool tf32_, fused_;
  std::vector<Descriptor> parts_;
  std::unique_ptr<Descriptor> graph_;  // null where cuDNN takes no such graph
};

}  // namespace flame::cuda
