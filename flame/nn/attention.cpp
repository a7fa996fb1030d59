// Multi-head attention: one product makes queries, keys and values of a self-attention, and heads are views of it.
#include "flame/nn/attention.h"

#include <cmath>
#include <limits>

#include "flame/nn/options_internal.h"
#include "flame/ops/attention.h"
#include "flame/ops/cat.h"
#include "flame/ops/create.h"
#include "flame/ops/dropout.h"
#include "flame/ops/linear.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pad.h"
#include "flame/ops/parts_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/softmax.h"

namespace flame::nn {
namespace {

MultiheadAttentionOptions checked(MultiheadAttentionOptions o, Loc loc) {
  if (o.key_width == 0) o.key_width = o.width;
  if (o.value_width == 0) o.value_width = o.width;
  if (o.width < 1 || o.heads < 1 || o.width % o.heads != 0)
    fail<ValueError>(loc, "MultiheadAttention: expected heads that divide the width, got width {} and {} heads",
                     o.width, o.heads);
  if (o.key_width < 1 || o.value_width < 1)
    fail<ValueError>(loc, "MultiheadAttention: expected key and value widths of 1 or more, got {} and {}", o.key_width,
                     o.value_width);
  check_probability("MultiheadAttention", o.dropout, loc);
  check_float("MultiheadAttention", o.dtype, loc);
  return o;
}
bool one_weight(const MultiheadAttentionOptions& o) { return o.key_width == o.width && o.value_width == o.width; }
// Xavier uniform.
Tensor drawn(bool wanted, int64_t out, int64_t in, DType t, Loc loc) {
  if (!wanted) return {};
  const double bound = std::sqrt(6.0 / static_cast<double>(in + out));
  return flame::uniform({out, in}, -bound, bound, {.dtype = t}, loc);
}

// Xavier normal, of a [1, 1, width] as PyTorch sees it: `width` inputs and as many outputs.
Tensor drawn_row(const MultiheadAttentionOptions& o, Loc loc) {
  if (!o.add_bias_kv) return {};
  const double deviation = 1 / std::sqrt(static_cast<double>(o.width));
  return flame::normal({1, 1, o.width}, 0, deviation, {.dtype = o.dtype}, loc);
}

// [..., heads * d] of [N, L, ...] to [N, heads, L, d].
Tensor split_heads(const Tensor& x, int64_t heads, Loc loc) {
  const Shape& s = x.shape();
  return x.reshape({s[0], s[1], heads, s[2] / heads}, loc).transpose(1, 2, loc);
}
// True is left out -> what is added to the scores; numbers stay.
Tensor added(const Tensor& mask, DType t, Loc loc) {
  if (mask.dtype() != DType::boolean) return mask.to(t, loc);
  return where(mask, full({}, -std::numeric_limits<double>::infinity(), t, mask.device(), loc), 0.0, loc);
}
// [rows, keys]: true where the key is none after the query.
Tensor no_later(int64_t rows, int64_t keys, Device& d, Loc loc) {
  const Tensor row = arange(0, rows, 1, DType::i64, d, loc).reshape({rows, 1}, loc);
  return ge(row, arange(0, keys, 1, DType::i64, d, loc), loc);
}
// A mask as scaled_dot_product_attention takes it, or none, together with a causal one.
Tensor without_later(const Tensor& mask, int64_t rows, int64_t keys, const Tensor& q, Loc loc) {
  const Tensor seen = no_later(rows, keys, q.device(), loc);
  if (!mask.defined()) return seen;
  if (mask.dtype() == DType::boolean) return logical_and(mask, seen, loc);
  return where(seen, mask, -std::numeric_limits<double>::infinity(), loc);
}

}  // namespace

MultiheadAttention::MultiheadAttention(Module* parent, std::string name, const Options& given, Loc loc)
    : Module(parent, std::move(name), loc),
      options(checked(given, loc)),
      in_proj_weight(*this, "in_proj_weight",
                     drawn(one_weight(options), 3 * options.width, options.width, options.dtype, loc), loc),
      q_proj_weight(*this, "q_proj_weight",
                    drawn(!one_weight(options), options.width, options.width, options.dtype, loc), loc),
      k_proj_weight(*this, "k_proj_weight",
                    drawn(!one_weight(options), options.width, options.key_width, options.dtype, loc), loc),
      v_proj_weight(*this, "v_proj_weight",
                    drawn(!one_weight(options), options.width, options.value_width, options.dtype, loc), loc),
      in_proj_bias(*this, "in_proj_bias",
                   options.bias ? zeros({3 * options.width}, options.dtype, default_device(), loc) : Tensor{}, loc),
      out_proj(*this, "out_proj",
               {.in = options.width, .out = options.width, .bias = options.bias, .dtype = options.dtype}, loc),
      bias_k(*this, "bias_k", drawn_row(options, loc), loc),
      bias_v(*this, "bias_v", drawn_row(options, loc), loc) {
  if (options.bias) out_proj.bias.assign(zeros({options.width}, options.dtype, default_device(), loc), loc);
}

// Each [N, rows, width], from inputs [N, rows, ...].
std::vector<Tensor> MultiheadAttention::project(const Tensor& query, const Tensor& key, const Tensor& value,
                                                Loc loc) const {
  const Tensor bias = tensor_or_none(in_proj_bias);
  const bool self = query.value_ref() == key.value_ref() && key.value_ref() == value.value_ref();
  if (in_proj_weight.defined() && self)
    return parts(linear(query, in_proj_weight.tensor(), bias, {}, loc), 3, -1, false, loc);
  const std::vector<Tensor> weights =
      in_proj_weight.defined()
          ? parts(in_proj_weight.tensor(), 3, 0, false, loc)
          : std::vector<Tensor>{q_proj_weight.tensor(), k_proj_weight.tensor(), v_proj_weight.tensor()};
  const std::vector<Tensor> biases = bias.defined() ? parts(bias, 3, 0, false, loc) : std::vector<Tensor>(3);
  return {linear(query, weights[0], biases[0], {}, loc), linear(key, weights[1], biases[1], {}, loc),
          linear(value, weights[2], biases[2], {}, loc)};
}

// x [N, heads, S, d] with the keys or values that the options add.
Tensor MultiheadAttention::extended(const Tensor& x, const Param& last, Loc loc) const {
  const Shape& s = x.shape();
  const Shape row{s[0], s[1], 1, s[3]};
  std::vector<Tensor> all{x};
  if (last.defined()) all.push_back(last.tensor().reshape({1, s[1], 1, s[3]}, loc).expand(row, loc));
  if (options.add_zero_attn) all.push_back(zeros(row, x.dtype(), x.device(), loc));
  return all.size() == 1 ? x : cat(all, 2, loc);
}

// The masks together as scaled_dot_product_attention takes them, or undefined.
Tensor MultiheadAttention::merged_mask(const AttentionCall& call, int64_t batch, int64_t rows, int64_t keys, DType t,
                                       Loc loc) const {
  Tensor mask = call.mask, padding = call.key_padding_mask;
  if (mask.defined()) {
    const bool per_head = mask.rank() == 3;
    if (mask.shape() != (per_head ? Shape{batch * options.heads, rows, keys} : Shape{rows, keys}))
      fail<ShapeError>(loc, "MultiheadAttention: expected a mask of shape [{1}, {2}] or [{0}, {1}, {2}], got {3}",
                       batch * options.heads, rows, keys, mask.shape());
    if (per_head) mask = mask.reshape({batch, options.heads, rows, keys}, loc);
  }
  if (padding.defined()) {
    if (padding.rank() == 1 && batch == 1) padding = padding.unsqueeze(0, loc);
    if (padding.shape() != Shape{batch, keys})
      fail<ShapeError>(loc, "MultiheadAttention: expected a key_padding_mask of shape [{}, {}], got {}", batch, keys,
                       padding.shape());
    padding = padding.reshape({batch, 1, 1, keys}, loc);
  }
  if (!padding.defined() && !mask.defined()) return {};
  if (!padding.defined() || !mask.defined()) {
    const Tensor& one = mask.defined() ? mask : padding;
    return one.dtype() == DType::boolean ? logical_not(one, loc) : one;
  }
  if (mask.dtype() == DType::boolean && padding.dtype() == DType::boolean)
    return logical_not(logical_or(mask, padding, loc), loc);
  return add(added(mask, t, loc), added(padding, t, loc), loc);
}

AttentionResult MultiheadAttention::forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                            const AttentionCall& call, Loc loc) {
  const int rank = query.rank();
  if ((rank != 2 && rank != 3) || key.rank() != rank || value.rank() != rank)
    fail<ShapeError>(loc, "MultiheadAttention: expected query, key and value all of rank 3, or 2, got {}, {} and {}",
                     query.shape(), key.shape(), value.shape());
  if (rank == 2) {  // one sample
    const int axis = options.batch_first ? 0 : 1;
    const Tensor q = query.unsqueeze(axis, loc);
    const bool same = query.value_ref() == key.value_ref() && key.value_ref() == value.value_ref();
    AttentionResult r =
        forward(q, same ? q : key.unsqueeze(axis, loc), same ? q : value.unsqueeze(axis, loc), call, loc);
    return {r.out.squeeze(axis, loc), r.weights.defined() ? r.weights.squeeze(0, loc) : Tensor()};
  }
  std::vector<Tensor> projected = project(query, key, value, loc);
  for (Tensor& x : projected) {
    if (!options.batch_first) x = x.transpose(0, 1, loc);
    x = split_heads(x, options.heads, loc);
  }
  const Tensor& q = projected[0];
  Tensor k = projected[1], v = projected[2];
  const int64_t batch = q.shape()[0], rows = q.shape()[2], keys = k.shape()[2];
  if (k.shape()[0] != batch || v.shape() != k.shape())
    fail<ShapeError>(loc,
                     "MultiheadAttention: expected keys and values of one length for each of {} samples, got {} and {}",
                     batch, key.shape(), value.shape());
  Tensor mask = merged_mask(call, batch, rows, keys, q.dtype(), loc);
  const int64_t more = (options.add_bias_kv ? 1 : 0) + (options.add_zero_attn ? 1 : 0);
  bool causal = call.causal;
  if (more > 0) {
    k = extended(k, bias_k, loc);
    v = extended(v, bias_v, loc);
    if (causal) mask = without_later(mask, rows, keys, q, loc);
    causal = false;
    if (mask.defined()) mask = pad(mask, {0, more}, {.value = mask.dtype() == DType::boolean ? 1.0 : 0.0}, loc);
  }
  const double dropped = is_training() ? options.dropout : 0;
  AttentionResult r;
  if (call.need_weights) {
    const double scale = 1 / std::sqrt(static_cast<double>(q.shape()[3]));
    Tensor s = mul(matmul(q, k.t(loc), loc), scale, loc);
    constexpr double none = -std::numeric_limits<double>::infinity();
    if (causal) s = where(no_later(rows, keys, q.device(), loc), s, none, loc);
    if (mask.defined()) s = mask.dtype() == DType::boolean ? where(mask, s, none, loc) : add(s, mask, loc);
    const Tensor p = dropout(softmax(s, -1, loc), dropped, true, nullptr, loc);
    r.out = matmul(p, v, loc);
    r.weights = call.average_weights ? mean(p, 1, false, loc) : p;
  } else {
    r.out = scaled_dot_product_attention(q, k, v, {.mask = mask, .causal = causal, .dropout = dropped}, loc);
  }
  r.out = r.out.transpose(1, 2, loc);  // [N, L, heads, d]
  if (!options.batch_first) r.out = r.out.transpose(0, 1, loc);
  const Shape& s = r.out.shape();
  r.out = out_proj(r.out.reshape({s[0], s[1], options.width}, loc), loc);
  return r;
}

std::string MultiheadAttention::kind() const {
  return fmt::format("MultiheadAttention({}, {} heads)", options.width, options.heads);
}

}  // namespace flame::nn
