// Internal: convolutions as graphs of cuDNN's backend API, and plans of them by its heuristics or from an engine's name.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "flame/device/cuda/library_handles.h"

namespace flame::cuda {

// DeviceError, or OutOfMemory, unless s is success.
void check(const DnnFunctions& f, cudnnStatus_t s, const char* what);

// A backend descriptor and the setting of its attributes.
class Descriptor {
 public:
  Descriptor(const DnnFunctions& f, cudnnBackendDescriptorType_t t) : f_(&f) {
    check(f, f.cudnnBackendCreateDescriptor(t, &d_), "cudnnBackendCreateDescriptor");
  }
  Descriptor(Descriptor&& o) noexcept : f_(o.f_), d_(std::exchange(o.d_, nullptr)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (d_) f_->cudnnBackendDestroyDescriptor(d_);
  }
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void* values) {
    check(*f_, f_->cudnnBackendSetAttribute(d_, name, type, count, values), "cudnnBackendSetAttribute");
  }
  void numbers(cudnnBackendAttributeName_t name, const std::vector<int64_t>& v) {
    set(name, CUDNN_TYPE_INT64, static_cast<int64_t>(v.size()), v.data());
  }
  void link(cudnnBackendAttributeName_t name, const Descriptor& to) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &to.d_);
  }
  // False where the library does not support it; OutOfMemory where there is none.
  bool try_finalize();
  void finalize(const char* what) { check(*f_, f_->cudnnBackendFinalize(d_), what); }
  cudnnBackendDescriptor_t raw() const { return d_; }

 private:
  const DnnFunctions* f_;
  cudnnBackendDescriptor_t d_ = nullptr;
};

// The tensors of a graph, as a variant pack names them.
enum Id : int64_t { id_x = 1, id_w, id_y, id_bias, id_sum };

// A plan that can be run, and what rebuilds it: "fused" or "plain" (the bias is left to a kernel of ours), the engine, knobs.
struct Execution {
  Descriptor plan;
  size_t workspace;
  bool fused;
  std::string config;
};

class ConvGraph {
 public:
  // With `fused`, the bias is part of the graph.
  ConvGraph(Libraries::Dnn& dnn, const ConvDesc& c, bool fused);
  // The first plans of the heuristics that are deterministic and, in float32, exact. None where cuDNN has none.
  std::vector<Execution> plans(size_t most, size_t most_workspace) const;
  std::unique_ptr<Execution> plan_of(const std::string& config) const;  // null if it cannot be made

 private:
  std::unique_ptr<Execution> finish(const Descriptor& engine_config) const;
  Libraries::Dnn& dnn_;
  const DType dtype_;
  const bool fused_;
  std::vector<Descriptor> parts_;
  std::unique_ptr<Descriptor> graph_;  // null where cuDNN takes no such graph
};

}  // namespace flame::cuda
