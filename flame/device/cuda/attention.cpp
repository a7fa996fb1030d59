// Attention by cuDNN's graph API, through cudnn-frontend where its headers were found; without them, and for what cuDNN
// refuses, there is no plan. This is the one file that includes them: they take a minute to compile.
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/libraries.h"

#ifdef FLAME_CUDNN_FRONTEND
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#include <cudnn_frontend.h>

#include <atomic>
#include <optional>

#include "flame/core/format.h"
#include "flame/device/cuda/library.h"
#include "flame/device/cuda/library_errors.h"
#include "flame/device/cuda/library_handles.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // the library that cudnn-frontend takes its functions from
}

namespace flame::cuda {
namespace {

namespace fe = cudnn_frontend;
using Values = std::unordered_map<int64_t, void*>;

fe::DataType_t data_type(DType t) { return t == DType::f16 ? fe::DataType_t::HALF : fe::DataType_t::BFLOAT16; }

// Sizes of 1 may have any stride in a tensor; cuDNN is given the one that a dense tensor would have.
std::vector<int64_t> strides_of(const Meta& m) {
  std::vector<int64_t> s(m.strides.begin(), m.strides.end());
  for (int i = 3; i-- > 0;)
    if (m.shape[i] == 1) s[static_cast<size_t>(i)] = s[static_cast<size_t>(i) + 1] * m.shape[i + 1];
  return s;
}
bool readable(const Meta& m) {
  for (int i = 0; i < 4; ++i)
    if (m.shape[i] == 0 || (m.shape[i] > 1 && m.strides[i] <= 0) || m.shape[i] > INT32_MAX) return false;
  return true;
}

enum Id : int64_t { id_q = 1, id_k, id_v, id_out, id_lse, id_scale, id_g, id_dq, id_dk, id_dv };

class Graph {
 public:
  explicit Graph(const AttentionDesc& a) {
    graph_.set_io_data_type(data_type(a.q.dtype))
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    const auto q = rows(id_q, a.q), k = rows(id_k, a.k), v = rows(id_v, a.v);
    const auto scale = graph_.tensor(named(id_scale)
                                         .set_dim({1, 1, 1, 1})
                                         .set_stride({1, 1, 1, 1})
                                         .set_is_pass_by_value(true)
                                         .set_data_type(fe::DataType_t::FLOAT));
    if (a.backward) backward(a, q, k, v, scale);
    else forward(a, q, k, v, scale);
  }
  // The first error of building it.
  fe::error_t build(cudnnHandle_t handle) {
    try {
      if (auto e = graph_.validate(); e.is_bad()) return e;
      if (auto e = graph_.build_operation_graph(handle); e.is_bad()) return e;
      if (auto e = graph_.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}); e.is_bad()) return e;
      if (auto e = graph_.check_support(); e.is_bad()) return e;
      return graph_.build_plans();
    } catch (const std::exception& e) { return {fe::error_code_t::CUDNN_BACKEND_API_FAILED, e.what()}; }
  }
  size_t workspace() const { return static_cast<size_t>(std::max<int64_t>(0, graph_.get_workspace_size())); }
  fe::error_t run(cudnnHandle_t handle, Values& values, void* workspace) const {
    return graph_.execute(handle, values, workspace);
  }

 private:
  using Attributes = fe::graph::Tensor_attributes;
  using Tensor = std::shared_ptr<Attributes>;
  static Attributes named(Id id) { return Attributes().set_uid(id); }
  Tensor rows(Id id, const Meta& m) {
    return graph_.tensor(named(id).set_dim({m.shape[0], m.shape[1], m.shape[2], m.shape[3]}).set_stride(strides_of(m)));
  }
  static void output(const Tensor& t, Id id, const Meta& m) {
    t->set_output(true).set_uid(id).set_dim({m.shape[0], m.shape[1], m.shape[2], m.shape[3]}).set_stride(strides_of(m));
  }
  static std::vector<int64_t> lse_sizes(const AttentionDesc& a) {
    return {a.q.shape[0], a.q.shape[1], a.q.shape[2], 1};
  }
  static std::vector<int64_t> lse_strides(const AttentionDesc& a) {
    return {a.q.shape[1] * a.q.shape[2], a.q.shape[2], 1, 1};
  }
  // Query i sees the keys up to i, counted from the first of each.
  template <class Options>
  static void limit(Options& o, const AttentionDesc& a) {
    if (a.causal) o.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT).set_diagonal_band_right_bound(0);
  }
  void forward(const AttentionDesc& a, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& scale) {
    fe::graph::SDPA_attributes o;
    o.set_name("attention").set_generate_stats(true).set_attn_scale(scale);
    limit(o, a);
    const auto [out, lse] = graph_.sdpa(q, k, v, o);
    output(out, id_out, a.out);
    lse->set_output(true)
        .set_uid(id_lse)
        .set_data_type(fe::DataType_t::FLOAT)
        .set_dim(lse_sizes(a))
        .set_stride(lse_strides(a));
  }
  void backward(const AttentionDesc& a, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& scale) {
    fe::graph::SDPA_backward_attributes o;
    o.set_name("attention").set_attn_scale(scale);
    limit(o, a);
    const auto lse = graph_.tensor(
        named(id_lse).set_data_type(fe::DataType_t::FLOAT).set_dim(lse_sizes(a)).set_stride(lse_strides(a)));
    const auto [dq, dk, dv] = graph_.sdpa_backward(q, k, v, rows(id_out, a.out), rows(id_g, a.g), lse, o);
    output(dq, id_dq, a.dq);
    output(dk, id_dk, a.dk);
    output(dv, id_dv, a.dv);
  }

  mutable fe::graph::Graph graph_;
};

// cudnn-frontend tells the library's status in words alone.
Verdict verdict_of(fe::error_t e) {
  const std::string text = e.get_message();
  const auto says = [&](const char* part) { return text.find(part) != std::string::npos; };
  if (e.is_good()) return Verdict::done;
  if (says("ALLOCATION_FAILED") || says("ALLOC_FAILED")) return Verdict::no_memory;
  if (e.get_code() == fe::error_code_t::GRAPH_NOT_SUPPORTED || says("NOT_SUPPORTED")) return Verdict::unsupported;
  const bool broken = says("INTERNAL_ERROR") || says("EXECUTION_FAILED") || says("NOT_INITIALIZED");
  const bool no_plan = e.get_code() == fe::error_code_t::HEURISTIC_QUERY_FAILED ||
                       e.get_code() == fe::error_code_t::GRAPH_EXECUTION_PLAN_CREATION_FAILED;
  return no_plan && !broken ? Verdict::unsupported : Verdict::failed;
}
// True if it worked, false if cuDNN does not support it; else throws. Once more with the cache emptied without memory.
template <class Fn>
bool supported(CudaDevice& d, const char* what, Fn&& fn) {
  fe::error_t e = fn();
  if (verdict_of(e) == Verdict::no_memory && !d.capturing()) {
    d.empty_cache();
    e = fn();
  }
  const Verdict v = verdict_of(e);
  if (v == Verdict::done) return true;
  if (v == Verdict::unsupported) return false;
  raise_device_error(d, v, what);
  fail<DeviceError>(Loc::current(), "cuda: {} failed: {}", what, e.get_message());
}

// What cudnn-frontend opens by itself must have been found by our rules before.
bool ready() {
  static const bool found = [] {
    std::string why;
    fe::cudnn_dlhandle = need_library("cuDNN", {"libcudnn.so.9", "libcudnn.so"});
    return open_library({"libcudart.so.13", "libcudart.so.12"}, why) != nullptr;
  }();
  return found;
}

}  // namespace

Ref<Plan> CudaDevice::attention(const AttentionDesc& a) {
  if (a.backward && deterministic()) return {};  // its sums over keys have no order
  for (const Meta* m : {&a.q, &a.k, &a.v, &a.out})
    if (!readable(*m)) return {};
  if (a.backward)
    for (const Meta* m : {&a.g, &a.dq, &a.dk, &a.dv})
      if (!readable(*m)) return {};
  return prepared([&]() -> Ref<Plan> {
    enter();
    const Meter meter(*this);
    Libraries::Dnn& dnn = libraries().dnn();
    if (!ready()) return {};
    std::lock_guard lock(dnn.mutex);
    std::shared_ptr<Graph> graph;
    const auto build = [&] {
      graph = std::make_shared<Graph>(a);
      return graph->build(dnn.handle);
    };
    if (!supported(*this, "cuDNN's attention", build)) return {};
    return make_ref<Plan>(a.backward ? "attention_backward" : "attention",
                          in_order(a.backward ? 9 : 5, 1,
                                   [this, &dnn, graph, backward = a.backward,
                                    used = std::make_shared<std::atomic<bool>>(false)](const Run& r) {
                                     std::optional<Meter> first;  // the first run loads the library's kernels
                                     if (!used->exchange(true)) first.emplace(*this);
                                     void* const* b = r.buffers;
                                     float scale = static_cast<float>(r.scalars[0].f);
                                     Values values{{id_q, b[0]},   {id_k, b[1]},   {id_v, b[2]},
                                                   {id_out, b[3]}, {id_lse, b[4]}, {id_scale, &scale}};
                                     if (backward)
                                       values.insert({{id_g, b[5]}, {id_dq, b[6]}, {id_dk, b[7]}, {id_dv, b[8]}});
                                     std::lock_guard lock(dnn.mutex);
                                     dnn.follow();
                                     if (!supported(*this, "cuDNN's attention",
                                                    [&] { return graph->run(dnn.handle, values, r.workspace); }))
                                       fail<DeviceError>(Loc::current(),
                                                         "cuda: cuDNN's attention has a plan that it does not run");
                                   }),
                          graph->workspace());
  });
}

}  // namespace flame::cuda

#else
namespace flame::cuda {
Ref<Plan> CudaDevice::attention(const AttentionDesc&) { return {}; }
}  // namespace flame::cuda
#endif
