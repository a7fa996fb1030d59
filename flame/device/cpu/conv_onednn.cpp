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
  memory::dims stride, dilation, before, after;
};

memory::desc strided(const Shape& shape, const Strides& strides, DType t) {
  return memory::desc(memory::dims(shape.begin(), shape.end()), onednn::data_type(t),
                      memory::dims(strides.begin(), strides.end()));
}
memory::desc activation(const Meta& m) { return strided(m.shape, channels_last_strides(m.shape), m.dtype); }

Descs descs(const ConvDesc& d) {
  Descs o;
  o.x = activation(d.x);
  o.y = activation(d.y);
  Shape w = d.w.shape;
  if (d.groups > 1) {
    w[0] /= d.groups;
    w.insert(0, d.groups);
  }
  o.own_w = strided(w, contiguous_strides(w), d.x.dtype);
  o.w = memory::desc(memory::dims(w.begin(), w.end()), onednn::data_type(d.x.dtype), memory::format_tag::any);
  if (d.bias) o.bias = memory::desc({d.w.shape[0]}, onednn::data_type(d.x.dtype), memory::format_tag::x);
  for (int i = 0; i < d.stride.rank(); ++i) {
    o.stride.push_back(d.stride[i]);
    o.dilation.push_back(d.dilation[i] - 1);
    o.before.push_back(d.padding[i]);
    o.after.push_back(d.padding_after[i]);
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

// True if some position of the window is over padding alone, at every output. oneDNN 3.2's bfloat16 weight gradients
// then hold what was in the scratchpad.
bool has_idle_position(const ConvDesc& d) {
  for (int i = 0; i < d.stride.rank(); ++i)
    for (int64_t k = 0; k < d.w.shape[i + 2]; ++k) {
      bool used = false;
      for (int64_t o = 0; o < d.y.shape[i + 2] && !used; ++o) {
        const int64_t at = o * d.stride[i] + k * d.dilation[i] - d.padding[i];
        used = at >= 0 && at < d.x.shape[i + 2];
      }
      if (!used) return true;
    }
  return false;
}

}  // namespace

Ref<Plan> conv_onednn(const ConvDesc& d) {
  using Pass = ConvDesc::Pass;
  if (onednn::data_type(d.x.dtype) == memory::data_type::undef) return nullptr;
  if (d.pass == Pass::backward_weight && d.x.dtype == DType::bf16 && has_idle_position(d)) return nullptr;
  const LibraryThreads threads(num_threads());
  const dnnl::engine& e = onednn::engine();
  const dnnl::primitive_attr attr = onednn::user_scratchpad();
  const Descs o = descs(d);
  const dnnl::convolution_forward::primitive_desc forward(
      e, d.pass == Pass::forward ? dnnl::prop_kind::forward_inference : dnnl::prop_kind::forward_training, algorithm,
      o.x, o.w, o.bias, o.y, o.stride, o.dilation, o.before, o.after, attr, true);
  if (!forward) return nullptr;
  if (d.pass == Pass::forward) {
    if (onednn::is_reference(forward)) return nullptr;
    std::vector<Call::Argument> args{{DNNL_ARG_SRC, o.x}, {DNNL_ARG_WEIGHTS, forward.weights_desc()}};
    if (d.bias) args.push_back({DNNL_ARG_BIAS, o.bias});
    args.push_back({DNNL_ARG_DST, o.y});
    return plan(conv_name(d), dnnl::convolution_forward(forward), std::move(args), 1, o.own_w,
                forward.scratchpad_desc(), true);
  }
  if (d.pass == Pass::backward_data) {
    const dnnl::convolution_backward_data::primitive_desc pd(e, algorithm, o.x, o.w, o.y, o.stride, o.dilation,
                                                             o.before, o.after, forward, attr, true);
    if (!pd || onednn::is_reference(pd)) return nullptr;
    return plan(conv_name(d), dnnl::convolution_backward_data(pd),
                {{DNNL_ARG_DIFF_DST, o.y}, {DNNL_ARG_WEIGHTS, pd.weights_desc()}, {DNNL_ARG_DIFF_SRC, o.x}}, 1, o.own_w,
                pd.scratchpad_desc(), true);
  }
  const dnnl::convolution_backward_weights::primitive_desc pd(e, algorithm, o.x, o.w, o.y, o.stride, o.dilation,
                                                              o.before, o.after, forward, attr, true);
  if (!pd || onednn::is_reference(pd)) return nullptr;
  return plan(conv_name(d), dnnl::convolution_backward_weights(pd),
              {{DNNL_ARG_SRC, o.x}, {DNNL_ARG_DIFF_DST, o.y}, {DNNL_ARG_DIFF_WEIGHTS, pd.diff_weights_desc()}}, 2,
              o.own_w, pd.scratchpad_desc(), false);
}

}  // namespace flame
#endif
