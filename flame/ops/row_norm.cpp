// Normalisation of dense rows: one launch forward; one backward, with the weights' gradients summed by fixed pieces.
#include "flame/ops/row_norm_internal.h"

#include <algorithm>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/device/cpu/parallel.h"
#include "flame/fuse/island.h"
#include "flame/ops/normalize_internal.h"

namespace flame {
namespace {

constexpr int64_t grain = 16384;     // elements worth a thread
constexpr int64_t most_pieces = 32;  // of rows whose weights' gradients are summed together
constexpr int64_t least_rows = 16;   // of a piece

// Adds the layout of one of weight and bias to `n`; false where it has none, or another than the other's.
bool add_layout(RowNorm& n, const Tensor& x, int first, const Tensor& weight) {
  if (!weight.defined()) return true;
  const bool wide =
      x.device().kind() == Device::Kind::cuda && weight.dtype() == DType::f32;  // float32 weights of 16 bits
  if (weight.dtype() != x.dtype() && !(wide && size_of(x.dtype()) == 2)) return false;
  Shape s = weight.shape();
  while (s.rank() < x.rank()) s.insert(0, 1);
  RowNorm own{n.rows, n.length, 1, 1, 1};
  int i = first - 1;
  for (; i >= 0 && s[i] == x.shape()[i]; --i) own.period *= s[i];
  for (; i >= 0; --i)
    if (s[i] != 1) return false;
  for (i = first; i < x.rank() && s[i] == x.shape()[i]; ++i) own.per_row *= s[i];
  for (; i < x.rank(); ++i) {
    if (s[i] != 1) return false;
    own.segment *= x.shape()[i];
  }
  if (n.per_row != 0 && (n.period != own.period || n.per_row != own.per_row)) return false;
  n = own;
  return true;
}

// Rows of [N, C, ...] over all axes but 1: pieces of every sample.
std::optional<RowNorm> channels_of(const Tensor& x, const Dims& axes, const Tensor& weight, const Tensor& bias) {
  if (axes.rank() != x.rank() - 1 || x.rank() < 2 || axes[0] != 0) return {};
  for (int i = 1; i < axes.rank(); ++i)
    if (axes[i] != i + 1) return {};
  const int64_t samples = x.shape()[0], channels = x.shape()[1], piece = x.numel() / (samples * channels);
  RowNorm n{.rows = channels, .length = samples * piece, .row_stride = piece, .piece = piece};
  n.piece_stride = channels * piece;
  n.segment = n.length;
  for (const Tensor* v : {&weight, &bias}) {
    if (!v->defined()) continue;
    if (v->dtype() != x.dtype() && !(v->dtype() == DType::f32 && size_of(x.dtype()) == 2)) return {};
    if (v->numel() != channels || v->rank() != x.rank() || v->shape()[1] != channels) return {};
    n.period = channels;
    n.per_row = 1;
  }
  return n;
}

Shape kept(const Shape& s, const Dims& axes) {
  Shape out = s;
  for (int64_t a : axes) out[static_cast<int>(a)] = 1;
  return out;
}

// (x, weight?, bias?) -> (y, mean, var).
class RowNormOp final : public Op {
 public:
  RowNormOp(const RowNorm& n, const Dims& axes, bool weight, bool bias, double eps)
      : n_(n), axes_(axes), weight_(weight), bias_(bias), eps_(eps) {}
  const char* name() const override { return "row_norm"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    const Meta row = contiguous_meta(compute_dtype_of(in[0].dtype()), kept(in[0].shape(), axes_));
    return {contiguous_meta(in[0].dtype(), in[0].shape()), row, row};
  }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  void key(Key& k) const override {
    k << weight_ << bias_ << n_.period << n_.per_row << n_.segment << eps_ << axes_ << n_.rms;
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return make_ref<Plan>("row_norm", [n = n_, kernel = row_norm_kernel(in[0].dtype), size = size_of(in[0].dtype),
                                       weight = weight_, bias = bias_, eps = eps_](const Run& r) {
      const auto at = [&](size_t i, int64_t element) {
        return static_cast<char*>(r.buffers[i]) + element * static_cast<int64_t>(size);
      };
      const size_t out = size_t{1} + weight + bias;
      parallel_for(n.rows, std::max<int64_t>(1, grain / n.length), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const int64_t own = row % n.period * n.per_row;
          kernel.forward(n, at(0, row * n.length), weight ? at(1, own) : nullptr,
                         bias ? at(size_t{1} + weight, own) : nullptr, eps, at(out, row * n.length), at(out + 1, row),
                         at(out + 2, row));
        }
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    return device_row_norm(d, n_, in[0].dtype, in.back().dtype, weight_, bias_, eps_);
  }
  bool differentiable() const override { return false; }

 private:
  RowNorm n_;
  Dims axes_;
  bool weight_, bias_;
  double eps_;
};

// (x, mean, var, g, weight?, arrived?) -> (dx, dweight, dbias), the latter flat and of one element if there are no weights;
// dx is added to `arrived`.
class RowNormBackward final : public Op {
 public:
  RowNormBackward(const RowNorm& n, bool weight, bool arrived, double eps)
      : n_(n), weight_(weight), arrived_(arrived), eps_(eps) {}
  const char* name() const override { return "row_norm_backward"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    const Meta weights = contiguous_meta(weight_ ? in[4].dtype() : in[0].dtype(), {std::max<int64_t>(1, n_.weights())});
    return {contiguous_meta(in[0].dtype(), in[0].shape()), weights, weights};
  }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  void key(Key& k) const override {
    k << weight_ << arrived_ << n_.period << n_.per_row << n_.segment << eps_ << n_.length << n_.piece << n_.rms;
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return in[0].dtype == DType::f64 ? plan<double>() : plan<float>();
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return device_row_norm_backward(d, n_, in[0].dtype, out[1].dtype, in[3].dtype, weight_, arrived_, eps_);
  }
  bool differentiable() const override { return false; }

 private:
  template <class T>
  Ref<Plan> plan() const {
    const int64_t weights = n_.weights(), pieces = std::clamp<int64_t>(n_.rows / least_rows, 1, most_pieces);
    const auto body = [n = n_, kernel = row_norm_kernel(dtype_of<T>()), weight = weight_, arrived = arrived_,
                       eps = eps_, weights, pieces](const Run& r) {
      const auto in = [&](size_t i, int64_t element) { return static_cast<const T*>(r.buffers[i]) + element; };
      const size_t out = size_t{4} + weight + arrived;
      T* sums = static_cast<T*>(r.workspace);
      const int64_t work = std::max<int64_t>(1, n.rows * n.length / pieces);
      parallel_for(pieces, std::max<int64_t>(1, grain / work), [&](int64_t begin, int64_t end) {
        for (int64_t piece = begin; piece < end; ++piece) {
          T* own = sums + piece * 2 * weights;
          std::fill_n(own, 2 * weights, T{});
          for (int64_t row = n.rows * piece / pieces; row < n.rows * (piece + 1) / pieces; ++row) {
            const int64_t first = row % n.period * n.per_row;
            kernel.backward(n, in(0, row * n.length), in(3, row * n.length), weight ? in(4, first) : nullptr,
                            in(1, row), in(2, row), arrived ? in(out - 1, row * n.length) : nullptr, eps,
                            static_cast<T*>(r.buffers[out]) + row * n.length, weights ? own + first : nullptr,
                            weights ? own + weights + first : nullptr);
          }
        }
      });
      T* total[] = {static_cast<T*>(r.buffers[out + 1]), static_cast<T*>(r.buffers[out + 2])};
      for (int64_t k = 0; k < 2; ++k) {
        std::fill_n(total[k], std::max<int64_t>(1, weights), T{});
        for (int64_t piece = 0; piece < pieces; ++piece)
          for (int64_t i = 0; i < weights; ++i) total[k][i] += sums[(2 * piece + k) * weights + i];
      }
    };
    return make_ref<Plan>("row_norm_backward", body, static_cast<size_t>(pieces * 2 * weights) * sizeof(T));
  }

  RowNorm n_;
  bool weight_, arrived_;
  double eps_;
};

}  // namespace

std::optional<RowNorm> row_norm_of(const Tensor& x, const Dims& axes, const Tensor& weight, const Tensor& bias) {
  const bool cuda = x.device().kind() == Device::Kind::cuda;
  if ((size_of(x.dtype()) == 2 && !cuda) || x.numel() == 0 || !is_contiguous(x.shape(), x.strides())) return {};
  if (bias.defined() && bias.dtype() != (weight.defined() ? weight : x).dtype()) return {};
  const int first = x.rank() - axes.rank();
  for (int i = 0; i < axes.rank(); ++i)
    if (axes[i] != first + i) {
      const std::optional<RowNorm> n = cuda ? channels_of(x, axes, weight, bias) : std::nullopt;
      return n && on_device(*n, x.dtype()) ? n : std::nullopt;
    }
  RowNorm n{1, 1};
  for (int i = 0; i < x.rank(); ++i) (i < first ? n.rows : n.length) *= x.shape()[i];
  if (!add_layout(n, x, first, weight) || !add_layout(n, x, first, bias)) return {};
  if (cuda && !on_device(n, x.dtype())) return {};
  return n;
}

bool joins_island(const RowNorm& n, const Tensor& x) {
  constexpr int64_t in_registers = 4096;
  return x.device().kind() == Device::Kind::cuda && within_autocast() && x.dtype() == DType::f32 && n.piece == 0 &&
         (n.per_row == 0 || n.segment == 1) && n.length <= in_registers;
}
bool backward_joins_island(const RowNorm& n, const Tensor& x) {
  return joins_island(n, x) && n.period == 1 && sums_beside_rows(x.device(), n.rows, n.length);
}

RowNormResult row_norm(const RowNorm& n, const Tensor& x, const Dims& axes, const Tensor& weight, const Tensor& bias,
                       double eps, Loc loc) {
  std::vector<Tensor> in{x};
  for (const Tensor* p : {&weight, &bias})
    if (p->defined()) in.push_back(*p);
  std::vector<Tensor> out =
      dispatch_multi(make_ref<RowNormOp>(n, axes, weight.defined(), bias.defined(), eps), in, loc);
  return {out[0], out[1], out[2]};
}

RowNormGradients row_norm_backward(const RowNorm& n, const CustomContext& c, const Tensor& mean, const Tensor& var,
                                   const Tensor& weight, double eps, Loc loc) {
  // A gradient in 16 bits that only waits to be widened is read as it is.
  const Tensor& x = c.saved[0];
  Tensor given = c.grads[0];
  if (x.device().kind() == Device::Kind::cuda && takes_narrow_gradient(n))
    if (const Ref<Value> source = before_widening(given.value_ref())) given = Tensor(source);
  std::vector<Tensor> in{x, mean, var, given};
  if (weight.defined()) in.push_back(weight);
  for (const Tensor& t : in)  // first, as x's other gradient may be part of their island
    if (t.value().pending() && is_contiguous(t.shape(), t.strides())) {
      note_flush_reason("row_norm_backward");
      materialize(t.value());
    }
  const Tensor arrived = c.take_arrived(0, x.device(), x.dtype(), x.shape());
  if (arrived.defined()) in.push_back(arrived);
  std::vector<Tensor> out =
      dispatch_multi(make_ref<RowNormBackward>(n, weight.defined(), arrived.defined(), eps), in, loc);
  if (n.weights() == 0) return {out[0], {}, {}};
  return {out[0], out[1], out[2]};
}

}  // namespace flame
