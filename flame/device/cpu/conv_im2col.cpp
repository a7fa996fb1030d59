// The own convolution: windows are laid out as rows of a matrix, part by part, and multiplied by FLAME's own product.
// Parts depend on the sizes alone and are added in order, so the bits do not depend on the threads.
#include <algorithm>
#include <cstring>
#include <vector>

#include "flame/device/cpu/conv.h"
#include "flame/device/cpu/gemm.h"
#include "flame/device/cpu/parallel.h"

namespace flame {
namespace {

constexpr int64_t part_elements = int64_t{1} << 20;  // of the window matrix held at once
constexpr int64_t grain_elements = 16 * 1024;        // worth a thread

int64_t round_up(int64_t n) { return (n + 63) / 64 * 64; }

template <class T>
class Im2col {
 public:
  explicit Im2col(const ConvDesc& d)
      : d_(d),
        s_(d),
        kernel_(s_.kernel[0] * s_.kernel[1] * s_.kernel[2]),
        window_(s_.in * kernel_),
        line_windows_(s_.y[2] * window_),
        image_lines_(s_.y[0] * s_.y[1]) {
    // A part is some lines of output; for the data gradient whole images, since windows of several lines overlap.
    const int64_t unit = d.pass == ConvDesc::Pass::backward_data ? image_lines_ : 1;
    lines_ = s_.images * image_lines_;
    part_ = std::max<int64_t>(1, part_elements / std::max<int64_t>(1, line_windows_ * unit)) * unit;
    part_ = std::min(part_, std::max<int64_t>(lines_, unit));
    whole_ = product(part_);
    if (lines_ % part_ != 0) last_ = product(lines_ % part_);
    columns_bytes_ = round_up(part_ * line_windows_ * size);
    gemm_bytes_ = round_up(static_cast<int64_t>(std::max(whole_->workspace, last_ ? last_->workspace : 0)));
  }
  // Windows, then the product's own, then a weight gradient of one part.
  size_t workspace() const {
    const int64_t sum = d_.pass == ConvDesc::Pass::backward_weight ? s_.out * window_ * size : 0;
    return static_cast<size_t>(columns_bytes_ + gemm_bytes_ + sum);
  }

  void run(const Run& r) const {
    T* columns = static_cast<T*>(r.workspace);
    for (int64_t g = 0; g < s_.groups; ++g) {
      if (d_.pass == ConvDesc::Pass::forward) forward(r, g, columns);
      else if (d_.pass == ConvDesc::Pass::backward_data) backward_data(r, g, columns);
      else backward_weight(r, g, columns);
    }
  }

 private:
  static constexpr int64_t size = static_cast<int64_t>(sizeof(T));

  // The matrix product of one part, by pass. W[out, window] is the group's weights, in the order channel, row, column.
  Ref<Plan> product(int64_t lines) const {
    const int64_t rows = lines * s_.y[2], channels = s_.groups * s_.out;
    const DType t = dtype_of<T>();
    const Meta columns = contiguous_meta(t, {rows, window_}), weights = contiguous_meta(t, {s_.out, window_});
    const Meta y{t, {rows, s_.out}, {channels, 1}};
    const auto transposed = [&](const Meta& m) {
      return Meta{t, {m.shape[1], m.shape[0]}, {m.strides[1], m.strides[0]}};
    };
    GemmDesc g;
    if (d_.pass == ConvDesc::Pass::forward) g = {columns, transposed(weights), y, d_.bias};
    else if (d_.pass == ConvDesc::Pass::backward_data) g = {y, weights, columns};
    else g = {transposed(y), columns, weights};
    return gemm_blocked(gemm_problem(g));
  }

  template <class F>
  void for_parts(F&& fn) const {
    for (int64_t line = 0; line < lines_; line += part_) {
      const int64_t lines = std::min(part_, lines_ - line);
      fn(line, lines, lines == part_ ? whole_ : last_);
    }
  }
  void multiply(const Ref<Plan>& p, const Run& r, std::initializer_list<const void*> buffers) const {
    void* b[4];
    size_t i = 0;
    for (const void* x : buffers) b[i++] = const_cast<void*>(x);
    p->body({b, nullptr, static_cast<char*>(r.workspace) + columns_bytes_});
  }

  void forward(const Run& r, int64_t g, T* columns) const {
    const T* w = static_cast<const T*>(r.buffers[1]) + g * s_.out * window_;
    T* y = static_cast<T*>(r.buffers[d_.bias ? 3 : 2]) + g * s_.out;
    for_parts([&](int64_t line, int64_t lines, const Ref<Plan>& p) {
      gather(static_cast<const T*>(r.buffers[0]), g, line, lines, columns);
      T* out = y + line * s_.y[2] * s_.groups * s_.out;
      if (d_.bias) multiply(p, r, {columns, w, static_cast<const T*>(r.buffers[2]) + g * s_.out, out});
      else multiply(p, r, {columns, w, out});
    });
  }

  void backward_data(const Run& r, int64_t g, T* columns) const {
    const T* w = static_cast<const T*>(r.buffers[1]) + g * s_.out * window_;
    const T* dy = static_cast<const T*>(r.buffers[0]) + g * s_.out;
    for_parts([&](int64_t line, int64_t lines, const Ref<Plan>& p) {
      multiply(p, r, {dy + line * s_.y[2] * s_.groups * s_.out, w, columns});
      scatter(columns, g, line / image_lines_, lines / image_lines_, static_cast<T*>(r.buffers[2]));
    });
  }

  void backward_weight(const Run& r, int64_t g, T* columns) const {
    T* dw = static_cast<T*>(r.buffers[2]) + g * s_.out * window_;
    T* partial = reinterpret_cast<T*>(static_cast<char*>(r.workspace) + columns_bytes_ + gemm_bytes_);
    const T* dy = static_cast<const T*>(r.buffers[1]) + g * s_.out;
    const int64_t count = s_.out * window_;
    if (lines_ == 0) std::fill_n(dw, count, T{});
    for_parts([&](int64_t line, int64_t lines, const Ref<Plan>& p) {
      gather(static_cast<const T*>(r.buffers[0]), g, line, lines, columns);
      multiply(p, r, {dy + line * s_.y[2] * s_.groups * s_.out, columns, line == 0 ? dw : partial});
      if (line > 0)
        parallel_for(count, grain_elements, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) dw[i] += partial[i];
        });
    });
  }

  // The input under window position k of output o along an axis; -1 outside.
  int64_t place(int axis, int64_t o, int64_t k) const {
    const int64_t i = o * s_.stride[axis] + k * s_.dilation[axis] - s_.padding[axis];
    return i >= 0 && i < s_.x[axis] ? i : -1;
  }
  // The output whose window position k is over input i along an axis; -1 if none is.
  int64_t window_over(int axis, int64_t i, int64_t k) const {
    const int64_t at = i + s_.padding[axis] - k * s_.dilation[axis];
    return at >= 0 && at % s_.stride[axis] == 0 && at / s_.stride[axis] < s_.y[axis] ? at / s_.stride[axis] : -1;
  }

  // columns[(line, o), (c, q, r, s)] = the input there, 0 outside. A line is a row of outputs along the last axis.
  void gather(const T* x, int64_t g, int64_t first, int64_t lines, T* columns) const {
    const int64_t channels = s_.groups * s_.in;
    parallel_for(lines, std::max<int64_t>(1, grain_elements / std::max<int64_t>(1, line_windows_)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t line = begin; line < end; ++line) {
                     const int64_t n = (first + line) / image_lines_, od = (first + line) / s_.y[1] % s_.y[0],
                                   oh = (first + line) % s_.y[1];
                     T* out = columns + line * line_windows_;
                     for (int64_t ow = 0; ow < s_.y[2]; ++ow, out += window_) {
                       T* to = out;
                       for (int64_t q = 0; q < s_.kernel[0]; ++q)
                         for (int64_t r = 0; r < s_.kernel[1]; ++r)
                           for (int64_t s = 0; s < s_.kernel[2]; ++s, ++to) {
                             const int64_t d = place(0, od, q), h = place(1, oh, r), w = place(2, ow, s);
                             const bool inside = d >= 0 && h >= 0 && w >= 0;
                             const T* in =
                                 inside ? x + (((n * s_.x[0] + d) * s_.x[1] + h) * s_.x[2] + w) * channels + g * s_.in
                                        : nullptr;
                             for (int64_t c = 0; c < s_.in; ++c) to[c * kernel_] = inside ? in[c] : T{};
                           }
                     }
                   }
                 });
  }

  // The opposite: every input adds up the windows that saw it, so no two threads write one place.
  void scatter(const T* columns, int64_t g, int64_t first, int64_t images, T* dx) const {
    const int64_t channels = s_.groups * s_.in, planes = s_.x[0] * s_.x[1];
    parallel_for(images * planes, std::max<int64_t>(1, grain_elements / std::max<int64_t>(1, s_.x[2] * window_)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t line = begin; line < end; ++line) {
                     const int64_t n = line / planes, d = line / s_.x[1] % s_.x[0], h = line % s_.x[1];
                     for (int64_t w = 0; w < s_.x[2]; ++w) {
                       T* out = dx + ((first * planes + line) * s_.x[2] + w) * channels + g * s_.in;
                       std::fill_n(out, s_.in, T{});
                       add_windows(columns + n * image_lines_ * line_windows_, d, h, w, out);
                     }
                   }
                 });
  }
  void add_windows(const T* columns, int64_t d, int64_t h, int64_t w, T* out) const {
    for (int64_t q = 0; q < s_.kernel[0]; ++q) {
      const int64_t od = window_over(0, d, q);
      if (od < 0) continue;
      for (int64_t r = 0; r < s_.kernel[1]; ++r) {
        const int64_t oh = window_over(1, h, r);
        if (oh < 0) continue;
        for (int64_t s = 0; s < s_.kernel[2]; ++s) {
          const int64_t ow = window_over(2, w, s);
          if (ow < 0) continue;
          const T* in =
              columns + ((od * s_.y[1] + oh) * s_.y[2] + ow) * window_ + (q * s_.kernel[1] + r) * s_.kernel[2] + s;
          for (int64_t c = 0; c < s_.in; ++c) out[c] += in[c * kernel_];
        }
      }
    }
  }

  ConvDesc d_;
  ConvSizes s_;
  int64_t kernel_, window_, line_windows_;  // positions and elements of a window; elements of a line of windows
  int64_t image_lines_;
  int64_t lines_, part_, columns_bytes_, gemm_bytes_;
  Ref<Plan> whole_, last_;  // products of a full part and of what is left over
};

template <class T>
Ref<Plan> plan_of(const ConvDesc& d) {
  const auto conv = std::make_shared<Im2col<T>>(d);
  return make_ref<Plan>(
      conv_name(d), [conv](const Run& r) { conv->run(r); }, conv->workspace());
}

}  // namespace

Ref<Plan> conv_im2col(const ConvDesc& d) { return d.x.dtype == DType::f64 ? plan_of<double>(d) : plan_of<float>(d); }

}  // namespace flame
