// Convolutions of the CPU: checks, the choice of implementation, and the copies that make any layout and any floating
// dtype fit: channels-last, and float32 for the 16-bit floats that oneDNN refuses, rounded once at the end.
#include "flame/device/cpu/conv.h"

#include <memory>
#include <vector>

#include "flame/core/format.h"
#include "flame/device/cpu/parallel.h"
#include "flame/device/cpu/services.h"

namespace flame {
namespace {

constexpr int64_t copy_grain = 16 * 1024;  // elements worth a thread

void check(const ConvDesc& d) {
  const int axes = d.stride.rank(), rank = axes + 2;
  if (axes < 1 || axes > 3 || d.x.shape.rank() != rank || d.w.shape.rank() != rank || d.y.shape.rank() != rank)
    fail<ShapeError>(Loc::current(), "conv: expected rank {}, got {}, {} and {}", rank, d.x.shape, d.w.shape,
                     d.y.shape);
  if (d.x.dtype != d.w.dtype || d.x.dtype != d.y.dtype || !is_float(d.x.dtype))
    fail<DTypeError>(Loc::current(), "conv: expected one floating dtype, got {}, {} and {}", d.x.dtype, d.w.dtype,
                     d.y.dtype);
  bool fits = d.groups > 0 && d.w.shape[0] == d.y.shape[1] && d.w.shape[0] % d.groups == 0 &&
              d.w.shape[1] * d.groups == d.x.shape[1] && d.x.shape[0] == d.y.shape[0];
  for (int i = 0; i < axes; ++i) {
    const int64_t window = d.dilation[i] * (d.w.shape[i + 2] - 1) + 1,
                  room = d.x.shape[i + 2] + d.padding[i] + d.padding_after[i] - window;
    fits = fits && d.stride[i] > 0 && room >= 0 && d.y.shape[i + 2] == room / d.stride[i] + 1;
  }
  if (!fits) fail<ShapeError>(Loc::current(), "conv: shapes {} and {} do not give {}", d.x.shape, d.w.shape, d.y.shape);
}

// out[i] = D(in[i]) for arrays of up to five axes and any strides, walked in `order`, slowest first.
template <class S, class D>
void copy_strided(const Shape& shape, const Dims& order, const void* in, const Strides& from, void* out,
                  const Strides& to) {
  int64_t n[5] = {1, 1, 1, 1, 1}, a[5] = {}, b[5] = {};
  for (int i = 0; i < order.rank(); ++i) {
    const int axis = static_cast<int>(order[i]), at = 5 - order.rank() + i;
    n[at] = shape[axis], a[at] = from[axis], b[at] = to[axis];
  }
  if (numel(shape) == 0) return;
  const S* x = static_cast<const S*>(in);
  D* y = static_cast<D*>(out);
  parallel_for(n[0] * n[1] * n[2], std::max<int64_t>(1, copy_grain / (n[3] * n[4])), [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t i0 = line / (n[1] * n[2]), i1 = line / n[2] % n[1], i2 = line % n[2];
      for (int64_t i = 0; i < n[3]; ++i) {
        const S* p = x + i0 * a[0] + i1 * a[1] + i2 * a[2] + i * a[3];
        D* q = y + i0 * b[0] + i1 * b[1] + i2 * b[2] + i * b[3];
        for (int64_t j = 0; j < n[4]; ++j) {
          if constexpr (std::is_same_v<S, D>) q[j * b[4]] = p[j * a[4]];
          else q[j * b[4]] = static_cast<D>(static_cast<float>(p[j * a[4]]));
        }
      }
    }
  });
}

using Copy = void (*)(const Shape&, const Dims&, const void*, const Strides&, void*, const Strides&);
Copy copier(DType from, DType to) {
  if (from == DType::f64) return copy_strided<double, double>;
  if (from == to && size_of(from) == 4) return copy_strided<float, float>;
  if (from == to) return copy_strided<uint16_t, uint16_t>;
  if (from == DType::bf16) return copy_strided<bfloat16, float>;
  if (from == DType::f16) return copy_strided<float16, float>;
  return to == DType::bf16 ? copy_strided<float, bfloat16> : copy_strided<float, float16>;
}

// One tensor of a converted convolution: where its copy lies in the workspace, if it needs one.
struct Piece {
  Meta own, used;
  bool copied;
  size_t at = 0;
};

Meta in_layout(const Meta& m, DType t, bool weights) {
  return {t, m.shape, weights ? contiguous_strides(m.shape) : channels_last_strides(m.shape)};
}
bool has_layout(const Meta& m, bool weights) {
  return weights ? is_contiguous(m.shape, m.strides) : is_channels_last(m.shape, m.strides);
}

// The axes in the order of m's memory.
Dims walk(const Meta& m) {
  const int rank = m.shape.rank();
  Dims order;
  for (int i = 0; i < rank; ++i) order.push_back(i);
  if (!is_channels_last(m.shape, m.strides)) return order;
  order.erase(1);
  order.push_back(1);
  return order;
}

// Runs `inner`, a plan for pieces[...].used, with copies of what is kept otherwise. The last piece is written.
Ref<Plan> with_copies(const Ref<Plan>& inner, std::vector<Piece> pieces) {
  size_t workspace = (inner->workspace + 63) / 64 * 64;
  for (Piece& p : pieces) {
    p.at = workspace;
    if (p.copied) workspace += (static_cast<size_t>(numel(p.own.shape)) * size_of(p.used.dtype) + 63) / 64 * 64;
  }
  return make_ref<Plan>(
      inner->op,
      [inner, pieces](const Run& r) {
        void* buffers[4];
        for (size_t i = 0; i < pieces.size(); ++i) {
          const Piece& p = pieces[i];
          buffers[i] = p.copied ? static_cast<char*>(r.workspace) + p.at : r.buffers[i];
          if (p.copied && i + 1 < pieces.size())
            copier(p.own.dtype, p.used.dtype)(p.own.shape, walk(p.used), r.buffers[i], p.own.strides, buffers[i],
                                              p.used.strides);
        }
        inner->body({buffers, nullptr, r.workspace});
        const Piece& p = pieces.back();
        if (p.copied)
          copier(p.used.dtype, p.own.dtype)(p.own.shape, walk(p.used), buffers[pieces.size() - 1], p.used.strides,
                                            r.buffers[pieces.size() - 1], p.own.strides);
      },
      workspace);
}

Ref<Plan> by_library([[maybe_unused]] const ConvDesc& d) {
#ifdef FLAME_WITH_ONEDNN
  if (numel(d.x.shape) > 0 && numel(d.y.shape) > 0 && numel(d.w.shape) > 0) return conv_onednn(d);
#endif
  return nullptr;
}

}  // namespace

const char* conv_name(const ConvDesc& d) {
  constexpr const char* names[3][3] = {{"conv1d", "conv1d_backward_data", "conv1d_backward_weight"},
                                       {"conv2d", "conv2d_backward_data", "conv2d_backward_weight"},
                                       {"conv3d", "conv3d_backward_data", "conv3d_backward_weight"}};
  return names[d.stride.rank() - 1][static_cast<int>(d.pass)];
}

Ref<Plan> cpu_conv(const ConvDesc& d) {
  using Pass = ConvDesc::Pass;
  check(d);
  if (numel(d.pass == Pass::forward ? d.y.shape : d.pass == Pass::backward_data ? d.x.shape : d.w.shape) == 0)
    return make_ref<Plan>(conv_name(d), [](const Run&) {});
  ConvDesc used = d;
  const auto convert = [&](DType t) {
    used.x = in_layout(d.x, t, false);
    used.y = in_layout(d.y, t, false);
    used.w = in_layout(d.w, t, true);
  };
  convert(d.x.dtype);
  Ref<Plan> inner = by_library(used);
  if (!inner && size_of(d.x.dtype) == 2) {
    convert(DType::f32);
    inner = by_library(used);
  }
  if (!inner) inner = conv_im2col(used);
  const auto piece = [](const Meta& own, const Meta& now, bool weights) {
    return Piece{own, now, own.dtype != now.dtype || !has_layout(own, weights)};
  };
  const Piece x = piece(d.x, used.x, false), w = piece(d.w, used.w, true), y = piece(d.y, used.y, false);
  if (!x.copied && !w.copied && !y.copied) return inner;
  if (d.pass == Pass::backward_data) return with_copies(inner, {y, w, x});
  if (d.pass == Pass::backward_weight) return with_copies(inner, {x, y, w});
  if (!d.bias) return with_copies(inner, {x, w, y});
  const Shape channels{d.w.shape[0]};
  const Piece bias = piece(contiguous_meta(d.x.dtype, channels), contiguous_meta(used.x.dtype, channels), true);
  return with_copies(inner, {x, w, bias, y});
}

}  // namespace flame
