// Convolutions by cuDNN's graph API, channels-last, deterministic engines alone; float32 without TF32. What cuDNN has no
// engine for is left to the own kernels. Filters are turned to channels-last in the workspace.
#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "flame/core/format.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/library.h"
#include "flame/device/cuda/library_handles.h"

namespace flame::cuda {

DnnFunctions::DnnFunctions() {
  void* l = need_library("cuDNN", {"libcudnn.so.9", "libcudnn.so"});
#define FLAME_LOAD(name) name = reinterpret_cast<decltype(name)>(need_symbol(l, #name));
  FLAME_DNN_FUNCTIONS(FLAME_LOAD)
#undef FLAME_LOAD
}

namespace {

void check(const DnnFunctions& f, cudnnStatus_t s, const char* what) {
  if (s != CUDNN_STATUS_SUCCESS)
    fail<DeviceError>(Loc::current(), "cuda: {} failed: {}", what, f.cudnnGetErrorString(s));
}

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
  cudnnStatus_t try_finalize() { return f_->cudnnBackendFinalize(d_); }
  void finalize(const char* what) { check(*f_, try_finalize(), what); }
  cudnnBackendDescriptor_t raw() const { return d_; }

 private:
  const DnnFunctions* f_;
  cudnnBackendDescriptor_t d_ = nullptr;
};

enum Id : int64_t { id_x = 1, id_w, id_y };

// Sizes and channels-last strides over two or three axes; a single axis gets one of size 1 before it.
struct Packed {
  std::vector<int64_t> sizes, strides;
  explicit Packed(const Meta& m) {
    sizes = {m.shape[0], m.shape[1]};
    if (m.shape.rank() == 3) sizes.push_back(1);
    for (int i = 2; i < m.shape.rank(); ++i) sizes.push_back(m.shape[i]);
    strides.resize(sizes.size());
    int64_t step = 1;
    strides[1] = step;
    step *= sizes[1];
    for (size_t i = sizes.size(); i-- > 2;) {
      strides[i] = step;
      step *= sizes[i];
    }
    strides[0] = step;
  }
};
std::vector<int64_t> along(const Dims& d, int64_t missing) {
  std::vector<int64_t> out(d.begin(), d.end());
  if (d.rank() == 1) out.insert(out.begin(), missing);
  return out;
}

cudnnDataType_t data_type(DType t) {
  return t == DType::f64   ? CUDNN_DATA_DOUBLE
         : t == DType::f32 ? CUDNN_DATA_FLOAT
         : t == DType::f16 ? CUDNN_DATA_HALF
                           : CUDNN_DATA_BFLOAT16;
}

Descriptor tensor(const DnnFunctions& f, Id id, const Meta& m) {
  const Packed p(m);
  Descriptor d(f, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const cudnnDataType_t t = data_type(m.dtype);
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &t);
  d.numbers(CUDNN_ATTR_TENSOR_DIMENSIONS, p.sizes);
  d.numbers(CUDNN_ATTR_TENSOR_STRIDES, p.strides);
  d.numbers(CUDNN_ATTR_TENSOR_UNIQUE_ID, {id});
  d.numbers(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, {16});
  d.finalize("a cuDNN tensor");
  return d;
}

// Whether padding alike on both sides gives the same places of y; cuDNN's engines want that.
bool even_padding(const ConvDesc& c) {
  for (int i = 0; i < c.stride.rank(); ++i) {
    const int64_t room = c.x.shape[2 + i] + 2 * c.padding[i] - c.dilation[i] * (c.w.shape[2 + i] - 1) - 1;
    if (c.padding[i] < 0 || room < 0 || room / c.stride[i] + 1 != c.y.shape[2 + i]) return false;
  }
  return true;
}

bool allowed(const DnnFunctions& f, cudnnBackendDescriptor_t config, DType t) {
  Descriptor engine(f, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t e = engine.raw();
  int64_t count = 0;
  if (f.cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &e) !=
      CUDNN_STATUS_SUCCESS)
    return false;
  std::array<cudnnBackendNumericalNote_t, 32> notes{};
  if (f.cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, notes.size(), &count,
                                 notes.data()) != CUDNN_STATUS_SUCCESS)
    return false;
  return std::none_of(notes.begin(), notes.begin() + count, [t](cudnnBackendNumericalNote_t n) {
    switch (n) {
      case CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP: return false;
      case CUDNN_NUMERICAL_NOTE_TENSOR_CORE: return t == DType::f32;  // TF32
      default: return true;  // reduced precision, FFT, Winograd, or another result each time
    }
  });
}

struct Execution {
  Descriptor plan;
  size_t workspace;
};

// The first plan of the heuristics that is allowed and can be made; null if there is none.
std::unique_ptr<Execution> first_plan(Libraries::Dnn& dnn, const Descriptor& graph, DType t) {
  const DnnFunctions& f = dnn.f;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    Descriptor heuristics(f, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristics.link(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (heuristics.try_finalize() != CUDNN_STATUS_SUCCESS) continue;
    int64_t count = 0;
    if (f.cudnnBackendGetAttribute(heuristics.raw(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0,
                                   &count, nullptr) != CUDNN_STATUS_SUCCESS)
      continue;
    std::vector<Descriptor> configs;
    std::vector<cudnnBackendDescriptor_t> raw;
    for (int64_t i = 0; i < count; ++i)
      raw.push_back(configs.emplace_back(f, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).raw());
    if (count == 0 ||
        f.cudnnBackendGetAttribute(heuristics.raw(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                   count, &count, raw.data()) != CUDNN_STATUS_SUCCESS)
      continue;
    for (int64_t i = 0; i < count; ++i) {
      if (!allowed(f, raw[static_cast<size_t>(i)], t)) continue;
      Descriptor plan(f, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &dnn.handle);
      plan.link(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configs[static_cast<size_t>(i)]);
      if (plan.try_finalize() != CUDNN_STATUS_SUCCESS) continue;
      int64_t bytes = 0, one = 0;
      check(f,
            f.cudnnBackendGetAttribute(plan.raw(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &one,
                                       &bytes),
            "a cuDNN plan's workspace");
      return std::make_unique<Execution>(Execution{std::move(plan), static_cast<size_t>(bytes)});
    }
  }
  return nullptr;
}

std::unique_ptr<Execution> make_plan(Libraries::Dnn& dnn, const ConvDesc& c) {
  const DnnFunctions& f = dnn.f;
  const DType t = c.x.dtype;
  const Descriptor x = tensor(f, id_x, c.x), w = tensor(f, id_w, c.w), y = tensor(f, id_y, c.y);
  Descriptor conv(f, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  const cudnnDataType_t compute = t == DType::f64 ? CUDNN_DATA_DOUBLE : CUDNN_DATA_FLOAT;
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  const std::vector<int64_t> stride = along(c.stride, 1), padding = along(c.padding, 0),
                             dilation = along(c.dilation, 1);
  conv.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  conv.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
  conv.numbers(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, {static_cast<int64_t>(stride.size())});
  conv.numbers(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, stride);
  conv.numbers(CUDNN_ATTR_CONVOLUTION_DILATIONS, dilation);
  conv.numbers(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, padding);
  conv.numbers(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, padding);
  conv.finalize("a cuDNN convolution");

  struct Names {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t conv, x, w, y, alpha, beta;
  };
  constexpr Names names[] = {
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA}};
  const Names& n = names[static_cast<int>(c.pass)];
  Descriptor op(f, n.type);
  op.link(n.conv, conv);
  op.link(n.x, x);
  op.link(n.w, w);
  op.link(n.y, y);
  const double one = 1, zero = 0;
  const float one32 = 1, zero32 = 0;
  const bool wide = t == DType::f64;
  const cudnnBackendAttributeType_t number = wide ? CUDNN_TYPE_DOUBLE : CUDNN_TYPE_FLOAT;
  op.set(n.alpha, number, 1, wide ? static_cast<const void*>(&one) : &one32);
  op.set(n.beta, number, 1, wide ? static_cast<const void*>(&zero) : &zero32);
  if (op.try_finalize() != CUDNN_STATUS_SUCCESS) return nullptr;
  Descriptor graph(f, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.link(CUDNN_ATTR_OPERATIONGRAPH_OPS, op);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &dnn.handle);
  if (graph.try_finalize() != CUDNN_STATUS_SUCCESS) return nullptr;
  return first_plan(dnn, graph, t);
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// [outer][a][b] to [outer][b][a], and the bias of a channels-last tensor.
struct Helpers {
  Ref<Kernel> swap, bias;
  int64_t outer, channels, taps;
  Helpers(CudaDevice& d, const ConvDesc& c)
      : outer(c.w.shape[0]), channels(c.w.shape[1]), taps(numel(c.w.shape) / (outer * channels)) {
    const std::string type = std::string("-DFLAME_T=") + device_type(c.x.dtype),
                      text(device_text("device/cuda/filter.cu"));
    swap = d.kernel({"conv filter", text, "swap_last", {type}});
    if (c.bias) bias = d.kernel({"conv bias", text, "add_bias", {type, "--fmad=false"}});
  }
  bool turns() const { return channels > 1 && taps > 1; }
  int64_t count() const { return outer * channels * taps; }
};

}  // namespace

Libraries::Dnn::Dnn(CudaDevice& d) {
  check(f, f.cudnnCreate(&handle), "cudnnCreate");
  check(f, f.cudnnSetStream(handle, reinterpret_cast<cudaStream_t>(d.stream())), "cudnnSetStream");
}

Ref<Plan> dnn_conv(CudaDevice& d, const ConvDesc& c) {
  using Pass = ConvDesc::Pass;
  if (!is_float(c.x.dtype) || numel(c.x.shape) == 0 || numel(c.y.shape) == 0 || numel(c.w.shape) == 0 ||
      !even_padding(c))
    return {};
  Libraries::Dnn& dnn = d.libraries().dnn();
  std::unique_lock lock(dnn.mutex);
  const std::shared_ptr<Execution> e = make_plan(dnn, c);
  lock.unlock();
  if (!e) return {};
  const Helpers h(d, c);
  const Ref<Plan> own = own_conv(d, c);
  const size_t filter_at = (e->workspace + 255) / 256 * 256;
  const size_t filter_bytes = h.turns() ? static_cast<size_t>(h.count()) * size_of(c.x.dtype) : 0;
  const int64_t y_count = numel(c.y.shape), y_channels = c.y.shape[1];
  return make_ref<Plan>(
      own->op,
      [&dnn, e, h, own, filter_at, pass = c.pass, bias = c.bias, y_count, y_channels](const Run& r) {
        void* out = r.buffers[bias ? 3 : 2];
        if (!aligned(r.buffers[0]) || !aligned(r.buffers[1]) || !aligned(out)) return own->body(r);
        void* turned = h.turns() ? static_cast<char*>(r.workspace) + filter_at : nullptr;
        const Grid grid{.blocks = blocks_for(h.count(), 256)};
        void *x = r.buffers[0], *w = r.buffers[1], *y = out;
        if (pass == Pass::backward_data) std::swap(x, y);
        if (pass == Pass::backward_weight) std::swap(w, y);
        if (pass != Pass::backward_weight && turned) (*h.swap)(grid, w, turned, h.outer, h.channels, h.taps);
        const std::array<void*, 3> pointers{x, turned ? turned : w, y};
        constexpr std::array<int64_t, 3> ids{id_x, id_w, id_y};
        Descriptor pack(dnn.f, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
        pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3, pointers.data());
        pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3, ids.data());
        pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &r.workspace);
        pack.finalize("a cuDNN variant pack");
        std::lock_guard lock(dnn.mutex);
        check(dnn.f, dnn.f.cudnnBackendExecute(dnn.handle, e->plan.raw(), pack.raw()), "cudnnBackendExecute");
        if (pass == Pass::backward_weight && turned) (*h.swap)(grid, turned, w, h.outer, h.taps, h.channels);
        if (bias) (*h.bias)({.blocks = blocks_for(y_count, 256)}, r.buffers[2], y, y_count, y_channels);
      },
      std::max(filter_at + filter_bytes, own->workspace));
}

Ref<Plan> CudaDevice::conv(const ConvDesc& c) {
  enter();
  if (Ref<Plan> p = dnn_conv(*this, c)) return p;
  return own_conv(*this, c);
}

}  // namespace flame::cuda
