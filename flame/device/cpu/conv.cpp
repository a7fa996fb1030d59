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
  if (d.x.shape.rank() != 4 || d.w.shape.rank() != 4 || d.y.shape.rank() != 4)
    fail<ShapeError>(Loc::current(), "conv2d: expected rank 4, got {}, {} and {}", d.x.shape, d.w.shape, d.y.shape);
  if (d.x.dtype != d.w.dtype || d.x.dtype != d.y.dtype || !is_float(d.x.dtype))
    fail<DTypeError>(Loc::current(), "conv2d: expected one floating dtype, got {}, {} and {}", d.x.dtype, d.w.dtype,
                     d.y.dtype);
  bool fits = d.groups > 0 && d.w.shape[0] == d.y.shape[1] && d.w.shape[0] % d.groups == 0 &&
              d.w.shape[1] * d.groups == d.x.shape[1] && d.x.shape[0] == d.y.shape[0];
  for (int i = 0; i < 2; ++i) {
    const int64_t window = d.dilation[i] * (d.w.shape[i + 2] - 1) + 1,
                  room = d.x.shape[i + 2] + 2 * d.padding[i] - window;
    fits = fits && d.stride[i] > 0 && room >= 0 && d.y.shape[i + 2] == room / d.stride[i] + 1;
  }
  if (!fits)
    fail<ShapeError>(Loc::current(), "conv2d: shapes {} and {} do not give {}", d.x.shape, d.w.shape, d.y.shape);
}

// out[i] = D(in[i]) for rank-4 arrays of any strides, in the memory order of `inner` axes last.
template <class S, class D>
void copy_strided(const Shape& shape, const Dims& order, const void* in, const Strides& from, void* out,
                  const Strides& to) {
  int64_t n[4], a[4], b[4];
  for (int i = 0; i < 4; ++i) {
    const int axis = static_cast<int>(order[i]);
    n[i] = shape[axis], a[i] = from[axis], b[i] = to[axis];
  }
  if (numel(shape) == 0) return;
  const S* x = static_cast<const S*>(in);
  D* y = static_cast<D*>(out);
  parallel_for(n[0] * n[1], std::max<int64_t>(1, copy_grain / (n[2] * n[3])), [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line)
      for (int64_t i = 0; i < n[2]; ++i) {
        const S* p = x + line / n[1] * a[0] + line % n[1] * a[1] + i * a[2];
        D* q = y + line / n[1] * b[0] + line % n[1] * b[1] + i * b[2];
        for (int64_t j = 0; j < n[3]; ++j) {
          if constexpr (std::is_same_v<S, D>) q[j * b[3]] = p[j * a[3]];
          else q[j * b[3]] = static_cast<D>(static_cast<float>(p[j * a[3]]));
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
        const auto order = [](const Piece& p) {
          return is_channels_last(p.used.shape, p.used.strides) ? Dims{0, 2, 3, 1} : Dims{0, 1, 2, 3};
        };
        for (size_t i = 0; i < pieces.size(); ++i) {
          const Piece& p = pieces[i];
          buffers[i] = p.copied ? static_cast<char*>(r.workspace) + p.at : r.buffers[i];
          if (p.copied && i + 1 < pieces.size())
            copier(p.own.dtype, p.used.dtype)(p.own.shape, order(p), r.buffers[i], p.own.strides, buffers[i],
                                              p.used.strides);
        }
        inner->body({buffers, nullptr, r.workspace});
        const Piece& p = pieces.back();
        if (p.copied)
          copier(p.used.dtype, p.own.dtype)(p.own.shape, order(p), buffers[pieces.size() - 1], p.used.strides,
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

Ref<Plan> cpu_conv2d(const ConvDesc& d) {
  using Pass = ConvDesc::Pass;
  check(d);
  if (numel(d.pass == Pass::forward ? d.y.shape : d.pass == Pass::backward_data ? d.x.shape : d.w.shape) == 0)
    return make_ref<Plan>("conv2d", [](const Run&) {});
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
  const Shape channels{1, 1, 1, d.w.shape[0]};
  const Piece bias = piece(contiguous_meta(d.x.dtype, channels), contiguous_meta(used.x.dtype, channels), true);
  return with_copies(inner, {x, w, bias, y});
}

}  // namespace flame
