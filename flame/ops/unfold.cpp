// unfold and fold: each is the gradient of the other. Sums are in float32 or float64, in the order of the windows.
#include "flame/ops/unfold.h"

#include <algorithm>

#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/device/cpu/parallel.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

// Pictures [N, C, H, W] and columns [N, C R S, L], both contiguous, with L = windows[0] * windows[1].
struct Windows {
  int64_t planes, size[2], kernel[2], windows[2], stride[2], padding[2], dilation[2];

  Windows(const Shape& picture, const Dims& windows_of, const UnfoldOptions& o) : planes(picture[0] * picture[1]) {
    for (int i = 0; i < 2; ++i) {
      size[i] = picture[i + 2], kernel[i] = o.kernel[i], windows[i] = windows_of[i];
      stride[i] = o.stride[i], padding[i] = o.padding[i], dilation[i] = o.dilation[i];
    }
  }
  int64_t count() const { return windows[0] * windows[1]; }
  // The place in the picture under position k of window o along an axis; outside [0, size) in the padding.
  int64_t place(int axis, int64_t o, int64_t k) const { return o * stride[axis] + k * dilation[axis] - padding[axis]; }
};

constexpr int64_t grain = 16 * 1024;  // elements worth a thread

template <class T>
void unfold_planes(const Windows& w, const T* x, T* columns) {
  const int64_t positions = w.kernel[0] * w.kernel[1], width = w.windows[1];
  parallel_for(w.planes * positions, std::max<int64_t>(1, grain / std::max<int64_t>(1, w.count())),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t r = i % positions / w.kernel[1], s = i % w.kernel[1];
                   const T* plane = x + i / positions * w.size[0] * w.size[1];
                   T* row = columns + i * w.count();
                   for (int64_t oh = 0; oh < w.windows[0]; ++oh, row += width) {
                     const int64_t h = w.place(0, oh, r);
                     if (h < 0 || h >= w.size[0]) {
                       std::fill_n(row, width, T{});
                       continue;
                     }
                     for (int64_t ow = 0; ow < width; ++ow) {
                       const int64_t at = w.place(1, ow, s);
                       row[ow] = at >= 0 && at < w.size[1] ? plane[h * w.size[1] + at] : T{};
                     }
                   }
                 }
               });
}

// A line of a picture at a time, so that no two threads add to one place.
template <class T>
void fold_lines(const Windows& w, const T* columns, T* x) {
  using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
  constexpr int64_t block = 256;  // sums held at once
  const int64_t positions = w.kernel[0] * w.kernel[1], work = w.kernel[0] * w.kernel[1] * w.windows[1];
  parallel_for(w.planes * w.size[0], std::max<int64_t>(1, grain / std::max<int64_t>(1, work)),
               [&](int64_t begin, int64_t end) {
                 A sum[block];
                 for (int64_t line = begin; line < end; ++line)
                   for (int64_t w0 = 0; w0 < w.size[1]; w0 += block) {
                     const int64_t h = line % w.size[0], count = std::min(block, w.size[1] - w0);
                     std::fill_n(sum, count, A{});
                     for (int64_t p = 0; p < positions; ++p) {
                       const int64_t r = p / w.kernel[1], s = p % w.kernel[1];
                       const int64_t at = h + w.padding[0] - r * w.dilation[0], oh = at / w.stride[0];
                       if (at < 0 || at % w.stride[0] != 0 || oh >= w.windows[0]) continue;
                       const T* row = columns + (line / w.size[0] * positions + p) * w.count() + oh * w.windows[1];
                       for (int64_t ow = 0; ow < w.windows[1]; ++ow) {
                         const int64_t to = w.place(1, ow, s) - w0;
                         if (to >= 0 && to < count) sum[to] += static_cast<A>(row[ow]);
                       }
                     }
                     for (int64_t i = 0; i < count; ++i) x[line * w.size[1] + w0 + i] = static_cast<T>(sum[i]);
                   }
               });
}

class Fold final : public Op {
 public:
  // x is a picture, or the columns if `folds`. Shapes are batched.
  Fold(bool folds, const UnfoldOptions& o, const Shape& picture, const Dims& windows)
      : folds_(folds), o_(o), picture_(picture), windows_(windows) {}
  const char* name() const override { return folds_ ? "fold" : "unfold"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    if (folds_) return {contiguous_meta(in[0].dtype(), picture_)};
    return {contiguous_meta(in[0].dtype(),
                            {picture_[0], picture_[1] * o_.kernel[0] * o_.kernel[1], windows_[0] * windows_[1]})};
  }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  void key(Key& k) const override {
    k << picture_ << windows_;
    for (const Pair& p : {o_.kernel, o_.dilation, o_.padding, o_.stride}) k << p.dims();
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    const Windows w(picture_, windows_, o_);
    return visit_dtype(in[0].dtype, [&](auto t) -> Ref<Plan> {
      using T = decltype(t);
      if constexpr (std::is_same_v<T, float16> || std::is_same_v<T, bfloat16> || std::is_floating_point_v<T>)
        return make_ref<Plan>(name(), [w, folds = folds_](const Run& r) {
          (folds ? fold_lines<T> : unfold_planes<T>)(w, static_cast<const T*>(r.buffers[0]),
                                                     static_cast<T*>(r.buffers[1]));
        });
      else fail<NotImplemented>(Loc::current(), "{}: no kernel for {} on cpu", name(), in[0].dtype);
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const int64_t n = numel(out[0].shape);
    if (n == 0) return make_ref<Plan>(name(), [](const Run&) {});
    return make_ref<Plan>(
        name(), [k = device_kernel(d, "ops/unfold.cu", name(), in[0].dtype), w = Windows(picture_, windows_, o_),
                 n](const Run& r) { (*k)({.blocks = blocks_for(n, 256)}, w, r.buffers[0], r.buffers[1]); });
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override {
    v.give(0, dispatch(make_ref<Fold>(!folds_, o_, picture_, windows_), {v.grad(0)}, v.call_site()));
  }

 private:
  bool folds_;
  UnfoldOptions o_;
  Shape picture_;
  Dims windows_;
};

// Checks the options and gives the number of windows along both axes of a picture.
Dims windows_of(const char* op, const Pair& size, const UnfoldOptions& o, Loc loc) {
  Dims n;
  for (int i = 0; i < 2; ++i) {
    if (o.kernel[i] < 1 || o.stride[i] < 1 || o.dilation[i] < 1 || o.padding[i] < 0)
      fail<ValueError>(loc,
                       "{}: expected kernel, stride and dilation of 1 or more and padding of 0 or more, got kernel {}, "
                       "stride {}, dilation {}, padding {}",
                       op, o.kernel.dims(), o.stride.dims(), o.dilation.dims(), o.padding.dims());
    const int64_t window = o.dilation[i] * (o.kernel[i] - 1) + 1, room = size[i] + 2 * o.padding[i] - window;
    if (size[i] < 1 || room < 0)
      fail<ShapeError>(loc, "{}: a window of {} does not fit into pictures of {} with padding {}", op, window,
                       size.dims(), o.padding.dims());
    n.push_back(room / o.stride[i] + 1);
  }
  return n;
}

void check_x(const char* op, const Tensor& x, int rank, const char* expected, Loc loc) {
  if (x.rank() != rank && x.rank() != rank - 1)
    fail<ShapeError>(loc, "{}: expected x {}, got {}", op, expected, x.shape());
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", op, x.dtype());
}

}  // namespace

Tensor unfold(const Tensor& x, const UnfoldOptions& o, Loc loc) {
  const OpScope scope("unfold");
  check_x("unfold", x, 4, "[N, C, H, W] or [C, H, W]", loc);
  const bool batched = x.rank() == 4;
  const Tensor in = batched ? x : x.unsqueeze(0, loc);
  const Dims windows = windows_of("unfold", {in.shape()[2], in.shape()[3]}, o, loc);
  const Tensor y = dispatch(make_ref<Fold>(false, o, in.shape(), windows), {in}, loc);
  return batched ? y : y.squeeze(0, loc);
}

Tensor fold(const Tensor& x, const Pair& output_size, const UnfoldOptions& o, Loc loc) {
  const OpScope scope("fold");
  check_x("fold", x, 3, "[N, C R S, L] or [C R S, L]", loc);
  const bool batched = x.rank() == 3;
  const Tensor in = batched ? x : x.unsqueeze(0, loc);
  const Dims windows = windows_of("fold", output_size, o, loc);
  const int64_t positions = o.kernel[0] * o.kernel[1];
  if (in.shape()[1] % positions != 0 || in.shape()[2] != windows[0] * windows[1])
    fail<ShapeError>(loc, "fold: expected rows in {}s and {} columns for pictures of {}, got x {}", positions,
                     windows[0] * windows[1], output_size.dims(), x.shape());
  const Shape picture{in.shape()[0], in.shape()[1] / positions, output_size[0], output_size[1]};
  const Tensor y = dispatch(make_ref<Fold>(true, o, picture, windows), {in}, loc);
  return batched ? y : y.squeeze(0, loc);
}

namespace {
using Inputs = std::vector<Tensor>;

const RegisterOp registered_unfold({
    .name = "unfold",
    .signature = "unfold(x, {.kernel, .dilation = 1, .padding = 0, .stride = 1})",
    .formula = "out[n, c R S + r S + s, i W' + j] = x[n, c, i stride + r dilation - padding, ...]",
    .samples =
        [](DType t) {
          const auto with = [](const UnfoldOptions& o) {
            return [o](const Inputs& in) { return Inputs{unfold(in[0], o)}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({2, 3, 4, 5}, t)}, with({.kernel = {2, 3}}), "plain"},
              {{channels_last({1, 2, 4, 4}, t)}, with({.kernel = 2, .stride = 2}), "channels-last"},
              {{strided({2, 5, 6}, t)},
               with({.kernel = 2, .dilation = {2, 3}, .padding = {1, 2}, .stride = {2, 1}}),
               "no batch, all options"},
              {{uniform({0, 2, 3, 3}, t)}, with({.kernel = 2}), "no pictures"},
          };
        },
});
const RegisterOp registered_fold({
    .name = "fold",
    .signature = "fold(x, output_size, {.kernel, .dilation = 1, .padding = 0, .stride = 1})",
    .formula = "out[n, c, i stride + r dilation - padding, ...] += x[n, c R S + r S + s, i W' + j]",
    .samples =
        [](DType t) {
          const auto with = [](const Pair& size, const UnfoldOptions& o) {
            return [size, o](const Inputs& in) { return Inputs{fold(in[0], size, o)}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({2, 12, 12}, t)}, with({4, 5}, {.kernel = {2, 2}}), "plain"},
              {{transposed({1, 8, 4}, t)}, with(4, {.kernel = 2, .stride = 2}), "transposed"},
              {{strided({8, 21}, t)},
               with({5, 6}, {.kernel = 2, .dilation = {2, 3}, .padding = {1, 2}, .stride = {2, 1}}),
               "no batch, all options"},
              {{uniform({0, 4, 4}, t)}, with(3, {.kernel = 2}), "no pictures"},
          };
        },
});
}  // namespace

}  // namespace flame
