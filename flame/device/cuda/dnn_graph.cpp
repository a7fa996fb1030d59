// Graphs of convolutions, channels-last, and the choice of their engines.
#include "flame/device/cuda/dnn_graph.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "flame/core/format.h"
#include "flame/device/cuda/tuning.h"

namespace flame::cuda {

namespace {

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
  const int first = d.rank() == 1 ? 1 : 0;
  std::vector<int64_t> out(static_cast<size_t>(first + d.rank()), missing);
  std::copy(d.begin(), d.end(), out.begin() + first);
  return out;
}

cudnnDataType_t data_type(DType t) {
  return t == DType::f64   ? CUDNN_DATA_DOUBLE
         : t == DType::f32 ? CUDNN_DATA_FLOAT
         : t == DType::f16 ? CUDNN_DATA_HALF
                           : CUDNN_DATA_BFLOAT16;
}

Descriptor tensor(Libraries::Dnn& dnn, Id id, const Meta& m, cudnnDataType_t t, bool in_memory = true) {
  const Packed p(m);
  Descriptor d(dnn, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &t);
  d.numbers(CUDNN_ATTR_TENSOR_DIMENSIONS, p.sizes);
  d.numbers(CUDNN_ATTR_TENSOR_STRIDES, p.strides);
  d.numbers(CUDNN_ATTR_TENSOR_UNIQUE_ID, {id});
  d.numbers(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, {16});
  const bool is_virtual = !in_memory;
  d.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
  d.finalize("a cuDNN tensor");
  return d;
}

struct Names {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t conv, x, w, y, alpha, beta;
};
constexpr Names names[] = {
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA}};

// Engines whose numbers may be used: none that rounds operands if they shall be exact, and none that sums in another order each time.
bool allowed(Libraries::Dnn& dnn, cudnnBackendDescriptor_t config, bool exact) {
  const DnnFunctions& f = dnn.f;
  Descriptor engine(dnn, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t e = engine.raw();
  int64_t count = 0;
  if (f.cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &e) !=
      CUDNN_STATUS_SUCCESS)
    return false;
  std::array<cudnnBackendNumericalNote_t, 32> notes{};
  if (f.cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, notes.size(), &count,
                                 notes.data()) != CUDNN_STATUS_SUCCESS)
    return false;
  const auto last = notes.begin() + count;
  if (std::find(notes.begin(), last, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) != last) {
    tuning_stats().unordered += 1;
    return false;
  }
  return std::none_of(notes.begin(), last, [exact](cudnnBackendNumericalNote_t n) {
    switch (n) {
      case CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP: return false;
      case CUDNN_NUMERICAL_NOTE_TENSOR_CORE: return exact;  // TF32
      default: return true;                                 // reduced precision, FFT, Winograd
    }
  });
}

// "e 12 k 3:1 k 5:0": the engine and its knobs.
std::string engine_text(Libraries::Dnn& dnn, cudnnBackendDescriptor_t config) {
  const DnnFunctions& f = dnn.f;
  Descriptor engine(dnn, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t e = engine.raw();
  int64_t count = 0, index = -1;
  f.cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &e);
  f.cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count, &index);
  std::string out = fmt::format("e {}", index);
  std::vector<Descriptor> choices;
  std::vector<cudnnBackendDescriptor_t> raw;
  raw.reserve(CUDNN_KNOB_TYPE_COUNTS);
  for (int i = 0; i < CUDNN_KNOB_TYPE_COUNTS; ++i)
    raw.push_back(choices.emplace_back(dnn, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR).raw());
  int64_t knobs = 0;
  if (f.cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                 static_cast<int64_t>(raw.size()), &knobs, raw.data()) != CUDNN_STATUS_SUCCESS)
    return out;
  for (int64_t i = 0; i < std::min<int64_t>(knobs, static_cast<int64_t>(raw.size())); ++i) {
    cudnnBackendKnobType_t type{};
    int64_t value = 0;
    const cudnnBackendDescriptor_t k = raw[static_cast<size_t>(i)];
    if (f.cudnnBackendGetAttribute(k, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &count, &type) ==
            CUDNN_STATUS_SUCCESS &&
        f.cudnnBackendGetAttribute(k, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &count, &value) ==
            CUDNN_STATUS_SUCCESS)
      out += fmt::format(" k {}:{}", static_cast<int>(type), value);
  }
  return out;
}

// The numbers of such a text: the engine, then pairs of knob and value. Empty if it is none.
std::vector<int64_t> numbers_of(std::string_view text) {
  std::vector<int64_t> out;
  for (const char *at = text.data(), *end = at + text.size(); at < end;) {
    int64_t n = 0;
    const auto [stop, error] = std::from_chars(at, end, n);
    if (error == std::errc()) out.push_back(n);
    at = error == std::errc() ? stop : at + 1;
  }
  if (out.size() % 2 == 0) out.clear();
  return out;
}

Descriptor convolution(Libraries::Dnn& dnn, const ConvDesc& c) {
  Descriptor conv(dnn, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  const cudnnDataType_t compute = c.x.dtype == DType::f64 ? CUDNN_DATA_DOUBLE : CUDNN_DATA_FLOAT;
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
  return conv;
}

}  // namespace

// y = x + b, or relu(x) without b.
Descriptor& ConvGraph::pointwise(cudnnDataType_t compute, const Descriptor& x, const Descriptor* b,
                                 const Descriptor& y) {
  const cudnnPointwiseMode_t mode = b ? CUDNN_POINTWISE_ADD : CUDNN_POINTWISE_RELU_FWD;
  Descriptor& what = parts_.emplace_back(dnn_, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  what.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  what.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  what.finalize("a cuDNN pointwise operation");
  Descriptor& op = parts_.emplace_back(dnn_, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  op.link(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, what);
  op.link(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
  if (b) op.link(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b);
  op.link(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  return op;
}

ConvGraph::ConvGraph(Libraries::Dnn& dnn, const ConvDesc& c, bool fused)
    : dnn_(dnn), dtype_(c.x.dtype), tf32_(c.tf32), fused_(fused) {
  const bool wide = dtype_ == DType::f64;
  const cudnnDataType_t type = data_type(dtype_), compute = wide ? CUDNN_DATA_DOUBLE : CUDNN_DATA_FLOAT;
  const auto keep = [this](Descriptor d) -> Descriptor& { return parts_.emplace_back(std::move(d)); };
  parts_.reserve(16);  // references into it stay
  const bool bias = fused && c.bias, relu = fused && c.activation == Activation::relu;
  const Descriptor &x = keep(tensor(dnn, id_x, c.x, type)), &w = keep(tensor(dnn, id_w, c.w, type)),
                   &y = keep(tensor(dnn, id_y, c.y, type)), &conv = keep(convolution(dnn, c));
  const auto between = [&](Id id) -> const Descriptor& { return keep(tensor(dnn, id, c.y, compute, false)); };
  const Descriptor &sum = bias || relu ? between(id_sum) : y, &before = bias && relu ? between(id_before) : y;
  const Names& n = names[static_cast<int>(c.pass)];
  Descriptor& op = keep(Descriptor(dnn, n.type));
  op.link(n.conv, conv);
  op.link(n.x, x);
  op.link(n.w, w);
  op.link(n.y, sum);
  const double one = 1, zero = 0;
  const float one32 = 1, zero32 = 0;
  const cudnnBackendAttributeType_t number = wide ? CUDNN_TYPE_DOUBLE : CUDNN_TYPE_FLOAT;
  op.set(n.alpha, number, 1, wide ? static_cast<const void*>(&one) : &one32);
  op.set(n.beta, number, 1, wide ? static_cast<const void*>(&zero) : &zero32);
  std::vector<cudnnBackendDescriptor_t> ops{op.raw()};
  if (!op.try_finalize()) return;
  if (bias) {
    Shape channels = Dims::filled(c.y.shape.rank(), 1);
    channels[1] = c.y.shape[1];
    const Descriptor& b = keep(tensor(dnn, id_bias, contiguous_meta(dtype_, channels), type));
    Descriptor& added = pointwise(compute, sum, &b, before);
    if (!added.try_finalize()) return;
    ops.push_back(added.raw());
  }
  if (relu) {
    Descriptor& cut = pointwise(compute, bias ? before : sum, nullptr, y);
    if (!cut.try_finalize()) return;
    ops.push_back(cut.raw());
  }
  auto graph = std::make_unique<Descriptor>(dnn, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph->set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(ops.size()),
             ops.data());
  graph->set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &dnn.handle);
  if (graph->try_finalize()) graph_ = std::move(graph);
}

std::optional<Execution> ConvGraph::finish(const Descriptor& config) const {
  const DnnFunctions& f = dnn_.f;
  Descriptor plan(dnn_, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &dnn_.handle);
  plan.link(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
  if (!plan.try_finalize()) return {};
  int64_t bytes = 0, count = 0;
  must(dnn_.device, "a cuDNN plan's workspace", [&] {
    return f.cudnnBackendGetAttribute(plan.raw(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count,
                                      &bytes);
  });
  return Execution{std::move(plan), static_cast<size_t>(bytes), fused_,
                   fmt::format("{} {}", fused_ ? "fused" : "plain", engine_text(dnn_, config.raw()))};
}

std::vector<Execution> ConvGraph::plans(size_t most, size_t most_workspace) const {
  std::vector<Execution> out;
  if (!graph_) return out;
  const DnnFunctions& f = dnn_.f;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    Descriptor heuristics(dnn_, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristics.link(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, *graph_);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (!heuristics.try_finalize()) continue;
    int64_t count = 0;
    if (f.cudnnBackendGetAttribute(heuristics.raw(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0,
                                   &count, nullptr) != CUDNN_STATUS_SUCCESS ||
        count == 0)
      continue;
    std::vector<Descriptor> configs;
    std::vector<cudnnBackendDescriptor_t> raw;
    for (int64_t i = 0; i < count; ++i)
      raw.push_back(configs.emplace_back(dnn_, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).raw());
    if (f.cudnnBackendGetAttribute(heuristics.raw(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                   count, &count, raw.data()) != CUDNN_STATUS_SUCCESS)
      continue;
    for (int64_t i = 0; i < count && out.size() < most; ++i) {
      if (!allowed(dnn_, raw[static_cast<size_t>(i)], dtype_ == DType::f32 && !tf32_)) continue;
      std::optional<Execution> e = finish(configs[static_cast<size_t>(i)]);
      if (!e || (!out.empty() && e->workspace > std::max(most_workspace, out[0].workspace))) continue;
      const auto same = [&](const Execution& o) { return o.config == e->config; };
      if (std::none_of(out.begin(), out.end(), same)) out.push_back(std::move(*e));
    }
  }
  return out;
}

std::optional<Execution> ConvGraph::plan_of(const std::string& config) const {
  const std::vector<int64_t> numbers = numbers_of(config);
  if (!graph_ || numbers.empty() || config.starts_with("fused") != fused_) return {};
  Descriptor engine(dnn_, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  engine.link(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, *graph_);
  engine.set(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &numbers[0]);
  if (!engine.try_finalize()) return {};
  std::vector<Descriptor> knobs;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (size_t i = 1; i < numbers.size(); i += 2) {
    Descriptor& k = knobs.emplace_back(dnn_, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    const auto type = static_cast<cudnnBackendKnobType_t>(numbers[i]);
    k.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
    k.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &numbers[i + 1]);
    if (!k.try_finalize()) return {};
    raw.push_back(k.raw());
  }
  Descriptor chosen(dnn_, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  chosen.link(CUDNN_ATTR_ENGINECFG_ENGINE, engine);
  if (!raw.empty())
    chosen.set(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(raw.size()),
               raw.data());
  if (!chosen.try_finalize()) return {};
  return finish(chosen);
}

}  // namespace flame::cuda
