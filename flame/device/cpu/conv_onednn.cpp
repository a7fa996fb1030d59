// Convolutions by oneDNN. Activations stay channels-last; the weights' layout is the library's choice, and the reorder
// from or to ours is part of the plan. On AVX-512 channels-last was as fast as oneDNN's own blocked activations.
#include "flame/device/cpu/conv.h"

#ifdef FLAME_WITH_ONEDNN
#include "flame/device/cpu/onednn.h"

namespace flame {
namespace {

using dnnl::memory;
using onednn::Call;

constexpr auto algorithm = dnnl::algorithm::convolution_direct;

size_t round_up(size_t n) { return (n + 63) / 64 * 64; }

struct Descs {
  memory::desc x, w, y, bias, own_w;  // w: layout left open; own_w: as FLAME keeps it
  memory::dims stride, dilation, padding;
};

memory::desc activation(const Meta& m) {
  const Strides s = channels_last_strides(m.shape);
  return memory::desc({m.shape[0], m.shape[1], m.shape[2], m.shape[3]}, onednn::data_type(m.dtype),
                      {s[0], s[1], s[2], s[3]});
}

Descs descs(const ConvDesc& d) {
  const ConvSizes s(d);
  Descs o;
  const auto type = onednn::data_type(d.x.dtype);
  o.x = activation(d.x);
  o.y = activation(d.y);
  memory::dims w{s.out, s.in, s.kernel[0], s.kernel[1]};
  if (s.groups > 1) w.insert(w.begin(), s.groups);
  o.w = memory::desc(w, type, memory::format_tag::any);
  o.own_w = memory::desc(w, type, s.groups > 1 ? memory::format_tag::goihw : memory::format_tag::oihw);
  if (d.bias) o.bias = memory::desc({s.groups * s.out}, type, memory::format_tag::x);
  for (int i = 0; i < 2; ++i) {
    o.stride.push_back(d.stride[i]);
    o.dilation.push_back(d.dilation[i] - 1);
    o.padding.push_back(d.padding[i]);
  }
  return o;
}

// A library layout of the weights, kept behind the scratchpad in the workspace, and the reorder that fills or empties it.
struct Weights {
  bool own = true;  // the library takes ours
  size_t at = 0, bytes = 0;
  std::shared_ptr<Call> reorder;

  Weights(const memory::desc& chosen, const memory::desc& ours, bool to_library, size_t scratch) {
    bytes = round_up(scratch);
    if (chosen == ours) return;
    own = false;
    const memory::desc &from = to_library ? ours : chosen, &to = to_library ? chosen : ours;
    const dnnl::reorder::primitive_desc pd(onednn::engine(), from, onednn::engine(), to, onednn::user_scratchpad());
    reorder = std::make_shared<Call>(
        dnnl::reorder(pd), std::vector<Call::Argument>{
                               {DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}, {DNNL_ARG_SCRATCHPAD, pd.scratchpad_desc()}});
    at = round_up(std::max(scratch, pd.scratchpad_desc().get_size()));
    bytes = at + round_up(chosen.get_size());
  }
};

// `args` without the scratchpad; the weights are argument `w`. Runs reorder and primitive around each other.
Ref<Plan> plan(const char* name, const dnnl::primitive& p, std::vector<Call::Argument> args, size_t w,
               const memory::desc& own_w, const memory::desc& scratchpad, bool weights_are_read) {
  const Weights weights(args[w].desc, own_w, weights_are_read, scratchpad.get_size());
  const size_t count = args.size();
  args.push_back({DNNL_ARG_SCRATCHPAD, scratchpad});
  const auto call = std::make_shared<Call>(p, std::move(args));
  return make_ref<Plan>(
      name,
      [=](const Run& r) {
        void* place = weights.own ? r.buffers[w] : static_cast<char*>(r.workspace) + weights.at;
        if (!weights.own && weights_are_read) weights.reorder->run({r.buffers[w], place, r.workspace});
        void* b[4] = {r.buffers[0], r.buffers[1], r.buffers[2], count == 4 ? r.buffers[3] : r.workspace};
        b[w] = place;
        if (count == 4) call->run({b[0], b[1], b[2], b[3], r.workspace});
        else call->run({b[0], b[1], b[2], r.workspace});
        if (!weights.own && !weights_are_read) weights.reorder->run({place, r.buffers[w], r.workspace});
      },
      weights.bytes);
}

}  // namespace

Ref<Plan> conv_onednn(const ConvDesc& d) {
  using Pass = ConvDesc::Pass;
  if (onednn::data_type(d.x.dtype) == memory::data_type::undef) return nullptr;
  const LibraryThreads threads(num_threads());
  const dnnl::engine& e = onednn::engine();
  const dnnl::primitive_attr attr = onednn::user_scratchpad();
  const Descs o = descs(d);
  const dnnl::convolution_forward::primitive_desc forward(
      e, d.pass == Pass::forward ? dnnl::prop_kind::forward_inference : dnnl::prop_kind::forward_training, algorithm,
      o.x, o.w, o.bias, o.y, o.stride, o.dilation, o.padding, o.padding, attr, true);
  if (!forward) return nullptr;
  if (d.pass == Pass::forward) {
    if (onednn::is_reference(forward)) return nullptr;
    std::vector<Call::Argument> args{{DNNL_ARG_SRC, o.x}, {DNNL_ARG_WEIGHTS, forward.weights_desc()}};
    if (d.bias) args.push_back({DNNL_ARG_BIAS, o.bias});
    args.push_back({DNNL_ARG_DST, o.y});
    return plan("conv2d", dnnl::convolution_forward(forward), std::move(args), 1, o.own_w, forward.scratchpad_desc(),
                true);
  }
  if (d.pass == Pass::backward_data) {
    const dnnl::convolution_backward_data::primitive_desc pd(e, algorithm, o.x, o.w, o.y, o.stride, o.dilation,
                                                             o.padding, o.padding, forward, attr, true);
    if (!pd || onednn::is_reference(pd)) return nullptr;
    return plan("conv2d_backward_data", dnnl::convolution_backward_data(pd),
                {{DNNL_ARG_DIFF_DST, o.y}, {DNNL_ARG_WEIGHTS, pd.weights_desc()}, {DNNL_ARG_DIFF_SRC, o.x}}, 1, o.own_w,
                pd.scratchpad_desc(), true);
  }
  const dnnl::convolution_backward_weights::primitive_desc pd(e, algorithm, o.x, o.w, o.y, o.stride, o.dilation,
                                                              o.padding, o.padding, forward, attr, true);
  if (!pd || onednn::is_reference(pd)) return nullptr;
  return plan("conv2d_backward_weight", dnnl::convolution_backward_weights(pd),
              {{DNNL_ARG_SRC, o.x}, {DNNL_ARG_DIFF_DST, o.y}, {DNNL_ARG_DIFF_WEIGHTS, pd.diff_weights_desc()}}, 2,
              o.own_w, pd.scratchpad_desc(), false);
}

}  // namespace flame
#endif
