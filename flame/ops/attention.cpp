// Attention: shapes are brought to [batch, heads, rows, width] by views, one op computes, and its gradient is another.
#include "flame/ops/attention.h"

#include <cmath>
#include <limits>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/attention_internal.h"
#include "flame/ops/attention_packed_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/philox_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/matmul.h"
#include "flame/ops/samples_internal.h"
#include "flame/tensor/draw.h"

namespace flame {
namespace {

constexpr const char* op_name = "scaled_dot_product_attention";
DType wide_of(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

struct Settings {
  AttentionFlags flags;
  double scale;
  double p;  // of dropout
  std::optional<Draw> draw;
  double factor() const { return p == 1 ? 0 : 1 / (1 - p); }
  std::vector<Word> words() const {  // as attention_draw reads them
    std::vector<Word> w{word(scale)};
    if (!draw) return w;
    w.push_back(word(static_cast<int64_t>((1 - p) * 0x1p32)));
    w.push_back(word(factor()));
    for (const Word& of_call : draw->words()) w.push_back(of_call);
    return w;
  }
};

// The kept weights of a call, as bool of the scores' shape: for the composed gradient.
class KeptWeights final : public Op {
 public:
  KeptWeights(const Shape& shape, Device& d, const Settings& s) : shape_(shape), device_(d), settings_(s) {}
  const char* name() const override { return "attention_dropout"; }
  std::vector<Meta> infer(std::span<const Tensor>, Loc) const override {
    return {contiguous_meta(DType::boolean, shape_)};
  }
  Device* device() const override { return &device_; }
  std::vector<Word> scalars() const override { return settings_.words(); }
  Ref<Plan> prepare_cpu(std::span<const Meta>, std::span<const Meta> out) const override {
    return make_ref<Plan>(name(), [n = numel(out[0].shape)](const Run& r) {
      const AttentionDraw d = attention_draw(r.scalars);
      bool* keep = static_cast<bool*>(r.buffers[0]);
      for (int64_t i = 0; i < n; i += 4) {
        uint32_t words[4];
        philox_words(d.seed, static_cast<uint64_t>(i / 4), d.call, 1, words);
        for (int64_t k = 0; k < std::min<int64_t>(4, n - i); ++k) keep[i + k] = words[k] < d.threshold;
      }
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta>, std::span<const Meta> out) const override {
    const int64_t n = numel(out[0].shape);
    if (n == 0) return make_ref<Plan>(name(), [](const Run&) {});
    return make_ref<Plan>(name(),
                          [k = device_kernel(d, "ops/random.cu", "rand_bernoulli", DType::boolean), n](const Run& r) {
                            const AttentionDraw d = attention_draw(r.scalars);
                            DeviceDraw a(d.seed, d.call, n);
                            a.u[0] = d.threshold;
                            (*k)(a.grid(32, 1), a, r.buffers[0]);
                          });
  }
  bool differentiable() const override { return false; }

 private:
  Shape shape_;
  Device& device_;
  const Settings& settings_;
};

// Of `wide` products over q's width and `deep` over v's, for each query and each key that it may see.
int64_t products(std::span<const Meta> in, bool causal, int64_t wide, int64_t deep) {
  const Shape &q = in[0].shape, &v = in[2].shape;
  const int64_t rows = q[2], keys = v[2], some = std::min(rows, keys);
  const int64_t pairs = causal ? some * (some + 1) / 2 + (rows - some) * keys : rows * keys;
  return 2 * q[0] * q[1] * pairs * (wide * q[3] + deep * v[3]);
}

// (q, k, v, out, lse, gradient of out, mask?) -> (dq, dk, dv), or what they are parts of.
class AttentionBackward final : public Op {
 public:
  AttentionBackward(const Settings& s, std::span<const Tensor> in) : settings_(s), packed_(in.first(3)) {}
  const char* name() const override { return "attention_backward"; }
  std::vector<Meta> infer(std::span<const Tensor>, Loc) const override { return packed_.outputs(); }
  void key(Key& k) const override {
    k << settings_.flags.causal << settings_.flags.mask << settings_.flags.dropout << deterministic() << packed_.axis();
  }
  std::vector<Word> scalars() const override { return settings_.words(); }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return packed_.plan(attention_backward_cpu(in, packed_.parts(), settings_.flags), in.size());
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    return packed_.plan(attention_backward_cuda(d, in, packed_.parts(), settings_.flags), in.size());
  }
  int64_t flops(std::span<const Meta> in, std::span<const Meta>) const override {
    return products(in, settings_.flags.causal, 3, 2);
  }
  bool differentiable() const override { return false; }
  const PackedGradients& packed() const { return packed_; }

 private:
  const Settings& settings_;
  const PackedGradients packed_;
};

// (q, k, v, mask?) of one dtype -> (out, lse); see attention_cpu.
class Attention final : public Op {
 public:
  explicit Attention(const Settings& s) : settings_(s) {}
  const char* name() const override { return op_name; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    Shape out = in[0].shape(), rows = out;
    out[3] = in[2].shape()[3];
    rows.erase(3);
    return {{in[0].dtype(), out, dense_strides_like(out, in[0].strides())},
            contiguous_meta(wide_of(in[0].dtype()), rows)};
  }
  void key(Key& k) const override { k << settings_.flags.causal << settings_.flags.mask << settings_.flags.dropout; }
  std::vector<Word> scalars() const override { return settings_.words(); }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    return attention_cpu(in, out, settings_.flags);
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return attention_cuda(d, in, out, settings_.flags);
  }
  int64_t flops(std::span<const Meta> in, std::span<const Meta>) const override {
    return products(in, settings_.flags.causal, 1, 1);
  }
  bool saves_output(int) const override { return true; }
  void vjp(Vjp& v) const override {
    const bool mask_too = settings_.flags.mask && v.needs(3);
    if (v.create_graph() || mask_too) return composed(v);
    std::vector<Tensor> in{v.input(0), v.input(1), v.input(2), v.output(0), v.output(1), v.grad(0)};
    if (settings_.flags.mask) in.push_back(v.input(3));
    const auto op = make_ref<AttentionBackward>(settings_, in);
    const std::vector<Tensor> g = op->packed().parts(dispatch_multi(op, in, v.call_site()));
    for (int i = 0; i < 3; ++i)
      if (v.needs(i)) v.give(i, g[static_cast<size_t>(i)]);
  }

 private:
  void composed(Vjp& v) const;
  std::vector<Tensor> gradients(std::span<const Tensor> in, const Tensor& grad, const std::vector<bool>& needs,
                                Loc loc) const;
  Tensor weights(const Tensor& q, const Tensor& k, const Tensor& mask) const;
  Settings settings_;
};

// [B, K, S, E] -> [B, H, S, E], and the gradient's way back.
Tensor repeat_heads(const Tensor& x, int64_t heads) {
  Shape s = x.shape();
  if (s[1] == heads) return x;
  Shape five = s;
  five.insert(2, heads / s[1]);
  s[1] = heads;
  return x.unsqueeze(2).expand(five).reshape(s);
}
Tensor sum_heads(const Tensor& g, int64_t heads) {
  Shape s = g.shape();
  if (s[1] == heads) return g;
  s.insert(2, s[1] / heads);
  s[1] = heads;
  return sum(g.reshape(s), 2);
}

// softmax of the scores, rows without a key all 0.
Tensor Attention::weights(const Tensor& q, const Tensor& k, const Tensor& mask) const {
  constexpr double none = -std::numeric_limits<double>::infinity();
  Tensor s = matmul(q, k.t()) * settings_.scale;
  const int64_t rows = s.shape()[2], columns = s.shape()[3];
  if (settings_.flags.causal) {
    const auto count = [&](int64_t n, const Shape& shape) {
      return arange(0, n, 1, DType::i64, s.device()).reshape(shape);
    };
    s = where(ge(count(rows, {rows, 1}), count(columns, {1, columns})), s, none);
  }
  if (settings_.flags.mask) s = mask.dtype() == DType::boolean ? where(mask, s, none) : s + mask.to(s.dtype());
  if (columns == 0) return exp(s);
  const Tensor top = no_grad([&] {
    const Tensor m = amax(s.detach(), -1, true);
    return where(m == none, 0.0, m);
  });
  const Tensor e = exp(s - top), total = sum(e, -1, true);
  return e / where(total == 0, 1.0, total);
}

// Gradients of (q, k, v, mask?) in tensor ops, which can be differentiated again; undefined where not needed.
std::vector<Tensor> Attention::gradients(std::span<const Tensor> in, const Tensor& grad, const std::vector<bool>& needs,
                                         Loc loc) const {
  const DType t = in[0].dtype(), wide = wide_of(t);
  const int64_t heads = in[0].shape()[1], shared = in[1].shape()[1];
  const Tensor q = in[0].to(wide), k = repeat_heads(in[1].to(wide), heads), u = repeat_heads(in[2].to(wide), heads),
               g = grad.to(wide);
  const Tensor mask = settings_.flags.mask ? in[3] : Tensor();
  const Shape scores{q.shape()[0], heads, q.shape()[2], k.shape()[2]};
  const Tensor p = weights(q, k, mask);
  Tensor kept = p, dp = matmul(g, u.t());
  if (settings_.draw) {
    const Tensor keep = dispatch(make_ref<KeptWeights>(scores, q.device(), settings_), {}, loc);
    kept = where(keep, p * settings_.factor(), 0.0);
    dp = where(keep, dp * settings_.factor(), 0.0);
  }
  const Tensor ds = p * (dp - sum(dp * p, -1, true));
  std::vector<Tensor> out(in.size());
  if (needs[0]) out[0] = (matmul(ds, k) * settings_.scale).to(t);
  if (needs[1]) out[1] = sum_heads(matmul(ds.t(), q) * settings_.scale, shared).to(t);
  if (needs[2]) out[2] = sum_heads(matmul(kept.t(), g), shared).to(t);
  if (mask.defined() && needs[3]) out[3] = ds.to(mask.dtype());
  return out;
}
void Attention::composed(Vjp& v) const {
  std::vector<Tensor> in;
  std::vector<bool> needs;
  for (int i = 0; i < (settings_.flags.mask ? 4 : 3); ++i) {
    in.push_back(v.input(i));
    needs.push_back(v.needs(i));
  }
  const std::vector<Tensor> g = gradients(in, v.grad(0), needs, v.call_site());
  for (size_t i = 0; i < g.size(); ++i)
    if (g[i].defined()) v.give(static_cast<int>(i), g[i]);
}

// [..., H, L, E] -> [B, H, L, E], with the axes before broadcast to `batch`.
Tensor as_rank_4(const Tensor& x, const Shape& batch, Loc loc) {
  Tensor y = x;
  while (y.rank() < 3) y = y.unsqueeze(0, loc);
  Shape full = batch;
  for (int i = 3; i > 0; --i) full.push_back(y.shape()[y.rank() - i]);
  if (full != y.shape()) y = y.expand(full, loc);
  if (batch.rank() == 1) return y;
  const int n = full.rank();
  return y.reshape({numel(batch), full[n - 3], full[n - 2], full[n - 1]}, loc);
}

Shape batch_of(const Shape& s) {
  Shape b;
  for (int i = 0; i + 3 < s.rank(); ++i) b.push_back(s[i]);
  return b;
}
int64_t heads_of(const Shape& s) { return s.rank() > 2 ? s[s.rank() - 3] : 1; }

struct Checked {
  Shape batch, out;
};
Checked check(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o, Loc loc) {
  for (const Tensor* x : {&q, &k, &v}) {
    if (x->rank() < 2)
      fail<ShapeError>(loc, "{}: expected q, k and v of rank 2 or more, got shapes {}, {} and {}", op_name, q.shape(),
                       k.shape(), v.shape());
    if (!is_float(x->dtype()))
      fail<DTypeError>(loc, "{}: expected floating dtypes, got {}, {} and {}", op_name, q.dtype(), k.dtype(),
                       v.dtype());
  }
  const Shape &a = q.shape(), &b = k.shape(), &c = v.shape();
  if (a.back() != b.back())
    fail<ShapeError>(loc, "{}: expected q and k of one width, got shapes {} and {}", op_name, a, b);
  if (b[b.rank() - 2] != c[c.rank() - 2])
    fail<ShapeError>(loc, "{}: expected as many values as keys, got shapes {} and {}", op_name, b, c);
  const int64_t heads = heads_of(a), shared = heads_of(b);
  const bool grouped = o.grouped_query && shared > 0 && heads % shared == 0;
  if (shared != heads_of(c) || !(shared == heads || shared == 1 || grouped))
    fail<ShapeError>(loc, "{}: expected key and value heads that {} query heads {}, got {} and {}", op_name, heads,
                     o.grouped_query ? "are a multiple of" : "are as many as", shared, heads_of(c));
  Checked r;
  Shape both;
  if (!broadcast_shapes(batch_of(a), batch_of(b), both) || !broadcast_shapes(both, batch_of(c), r.batch))
    fail<ShapeError>(loc, "{}: the batch axes of shapes {}, {} and {} do not broadcast", op_name, a, b, c);
  if (!(o.dropout >= 0 && o.dropout <= 1))
    fail<ValueError>(loc, "{}: expected a dropout probability in [0, 1], got {}", op_name, o.dropout);
  r.out = r.batch;
  if (a.rank() > 2) r.out.push_back(heads);
  r.out.push_back(a[a.rank() - 2]);
  if (o.mask.defined()) {
    Shape scores = r.out, fitted;
    scores.push_back(b[b.rank() - 2]);
    if (o.mask.dtype() != DType::boolean && !is_float(o.mask.dtype()))
      fail<DTypeError>(loc, "{}: expected a mask of bool or a floating dtype, got {}", op_name, o.mask.dtype());
    if (!broadcast_shapes(o.mask.shape(), scores, fitted) || fitted != scores)
      fail<ShapeError>(loc, "{}: expected a mask that broadcasts to {}, got {}", op_name, scores, o.mask.shape());
  }
  r.out.push_back(c.back());
  return r;
}

// Broadcast to [B, H, L, S] without a copy, but for batches of several axes.
Tensor mask_of_rank_4(const Tensor& mask, const Shape& batch, const Shape& q, int64_t keys, Loc loc) {
  Tensor m = mask;
  while (m.rank() < std::max(3, batch.rank() + 3)) m = m.unsqueeze(0, loc);
  bool one = true;
  for (int i = 0; i + 3 < m.rank(); ++i) one &= m.shape()[i] == 1;
  const int n = m.rank();
  if (one) m = m.reshape({1, m.shape()[n - 3], m.shape()[n - 2], m.shape()[n - 1]}, loc);
  else m = as_rank_4(m, batch, loc);
  return m.expand({q[0], q[1], q[2], keys}, loc);
}

}  // namespace

Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o,
                                    Loc loc) {
  if (const AutocastCall cast{"scaled_dot_product_attention", {&q, &k, &v}})
    return scaled_dot_product_attention(cast(q, loc), cast(k, loc), cast(v, loc), o, loc);
  const OpScope scope(op_name);
  const Checked c = check(q, k, v, o, loc);
  const DType t = promote(promote(q.dtype(), k.dtype()), v.dtype());
  std::vector<Tensor> in;
  for (const Tensor* x : {&q, &k, &v}) in.push_back(as_rank_4(x->to(t, loc), c.batch, loc));
  const Shape& rows = in[0].shape();
  if (o.mask.defined()) in.push_back(mask_of_rank_4(o.mask, c.batch, rows, in[1].shape()[2], loc));
  Settings s{{o.causal, o.mask.defined(), o.dropout > 0},
             o.scale.value_or(1 / std::sqrt(static_cast<double>(rows[3]))),
             o.dropout,
             {}};
  if (o.dropout > 0) s.draw.emplace(o.generator ? *o.generator : default_generator());
  return dispatch_multi(make_ref<Attention>(s), in, loc)[0].reshape(c.out, loc);
}

namespace {
const RegisterOp registered({
    .name = op_name,
    .signature = "scaled_dot_product_attention(q, k, v, options)",
    .formula = "softmax(scale q k^T + mask) v",
    .samples =
        [](DType t) {
          const auto with = [](const AttentionOptions& o) {
            return [o](const std::vector<Tensor>& in) {
              Generator g(11);  // the same dropout at every call
              AttentionOptions now = o;
              now.generator = &g;
              if (in.size() > 3) now.mask = in[3];
              return std::vector<Tensor>{scaled_dot_product_attention(in[0], in[1], in[2], now)};
            };
          };
          using namespace samples;
          const auto qkv = [t](Shape q, Shape k, Shape v) {
            return std::vector<Tensor>{uniform(q, t, 1), uniform(k, t, 2), uniform(v, t, 3)};
          };
          const auto masked = [&](std::vector<Tensor> in, const Tensor& mask) {
            in.push_back(mask);
            return in;
          };
          const Tensor some = uniform({4, 5}, DType::f32, 9) > -0.5;
          const Tensor no_row = logical_and(some, (arange(0, 4, 1, DType::i64) != 2).reshape({4, 1}));
          return std::vector<SampleCase>{
              {qkv({2, 3, 4, 5}, {2, 3, 6, 5}, {2, 3, 6, 3}), with({}), "cross lengths"},
              {{transposed({2, 5, 3}, t, 1), strided({2, 5, 3}, t, 2), transposed({2, 5, 4}, t, 3)},
               with({.causal = true, .scale = 0.3}),
               "rank 3, causal, strided"},
              {qkv({4, 3}, {5, 3}, {5, 2}), with({.mask = some}), "rank 2, bool mask"},
              {qkv({1, 2, 4, 3}, {1, 2, 5, 3}, {1, 2, 5, 3}), with({.mask = no_row, .causal = true}),
               "a row without keys"},
              {masked(qkv({2, 2, 3, 2}, {2, 2, 4, 2}, {2, 2, 4, 2}), uniform({2, 1, 1, 4}, t, 4)), with({}),
               "additive mask with a gradient"},
              {qkv({1, 4, 3, 4}, {1, 2, 3, 4}, {1, 2, 3, 4}), with({.causal = true, .grouped_query = true}),
               "grouped queries"},
              {qkv({1, 2, 5, 4}, {1, 2, 7, 4}, {1, 2, 7, 4}), with({.dropout = 0.4}), "dropout"},
              {qkv({2, 1, 2, 3, 2}, {3, 1, 4, 2}, {1, 1, 1, 4, 2}), with({}), "batches and heads that broadcast"},
              {qkv({1, 1, 40, 2}, {1, 1, 35, 2}, {1, 1, 35, 2}), with({.causal = true}), "several tiles"},
              {qkv({2, 0, 3}, {2, 4, 3}, {2, 4, 3}), with({}), "no queries"},
              {qkv({2, 3, 3}, {2, 0, 3}, {2, 0, 3}), with({}), "no keys"},
          };
        },
});
}  // namespace

}  // namespace flame
