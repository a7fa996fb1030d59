// Resampling: rows are blended across the outer axes into one row, which is then resampled along itself. Plain loops
// over the innermost axis, which the compiler vectorises for each instruction set.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/device/cpu/resample_kernel.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "flame/device/cpu/parallel.h"
#include "flame/device/cpu/resample_kernel.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t piece = 16 * 1024;  // elements worth a thread

template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// One row of outputs: its plane, and its place along the first two axes.
struct Row {
  int64_t plane, depth, height;
};
HWY_INLINE Row row_of(const ResampleSizes& s, int64_t row) {
  const int64_t rows = s.axis[1].out, layers = s.axis[0].out;
  return {row / (rows * layers), row / rows % layers, row % rows};
}

// Moves elements of any kind of one size.
template <class E>
class Pick final : public ResampleKernel {
 public:
  explicit Pick(ResampleSizes s) : s_(std::move(s)) {}
  size_t workspace() const override { return 0; }
  void run(const void* x, void* y, void*) const override {
    const int64_t width = s_.axis[2].in * s_.inner, out_width = s_.axis[2].out * s_.inner;
    const int64_t rows = s_.planes * s_.axis[0].out * s_.axis[1].out;
    const int64_t* along = s_.axis[2].index.data();
    parallel_for(rows, std::max<int64_t>(1, piece / std::max<int64_t>(1, out_width)), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const Row r = row_of(s_, row);
        const int64_t d = s_.axis[0].index[static_cast<size_t>(r.depth)],
                      h = s_.axis[1].index[static_cast<size_t>(r.height)];
        const E* HWY_RESTRICT from =
            static_cast<const E*>(x) + ((r.plane * s_.axis[0].in + d) * s_.axis[1].in + h) * width;
        E* HWY_RESTRICT to = static_cast<E*>(y) + row * out_width;
        if (s_.inner == 1)
          for (int64_t o = 0; o < out_width; ++o) to[o] = from[along[o]];
        else
          for (int64_t o = 0; o < s_.axis[2].out; ++o)
            std::memcpy(to + o * s_.inner, from + along[o] * s_.inner, static_cast<size_t>(s_.inner) * sizeof(E));
      }
    });
  }

 private:
  ResampleSizes s_;
};

template <class T>
class Blend final : public ResampleKernel {
  using A = Wide<T>;

 public:
  explicit Blend(ResampleSizes s)
      : s_(std::move(s)),
        width_(s_.axis[2].in * s_.inner),
        rows_(s_.planes * s_.axis[0].out * s_.axis[1].out),
        row_bytes_((static_cast<size_t>(width_) * sizeof(A) + 63) / 64 * 64),
        // Pieces with a row of their own each; few where rows are long.
        pieces_(std::clamp<int64_t>((int64_t{4} << 20) / static_cast<int64_t>(row_bytes_ + 1), 8, 64)),
        along_(s_.axis[2].weight.begin(), s_.axis[2].weight.end()),
        taps_(taps()) {}
  size_t workspace() const override { return static_cast<size_t>(pieces_) * row_bytes_; }

  void run(const void* x, void* y, void* workspace) const override {
    const int64_t out_width = s_.axis[2].out * s_.inner, work = rows_ * std::max(width_, out_width);
    const int64_t pieces = std::clamp<int64_t>(work / piece, 1, std::min(pieces_, std::max<int64_t>(rows_, 1)));
    parallel_for(pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        A* blended = reinterpret_cast<A*>(static_cast<char*>(workspace) + static_cast<size_t>(p) * row_bytes_);
        for (int64_t row = p * rows_ / pieces; row < (p + 1) * rows_ / pieces; ++row) {
          blend(static_cast<const T*>(x), row_of(s_, row), blended);
          T* out = static_cast<T*>(y) + row * out_width;
          if (s_.inner > 1) channels(blended, out);
          else if (taps_ == 1) line<1>(blended, out);
          else if (taps_ == 2) line<2>(blended, out);
          else if (taps_ == 4) line<4>(blended, out);
          else line<0>(blended, out);
        }
      }
    });
  }

 private:
  // Weights of each output along the last axis, if all have as many; else 0.
  int64_t taps() const {
    const std::vector<int64_t>& first = s_.axis[2].first;
    for (size_t o = 1; o < first.size(); ++o)
      if (first[o] - first[o - 1] != first[1] - first[0]) return 0;
    return first.size() > 1 ? first[1] - first[0] : 0;
  }

  // out[w] = the sum of the rows under this one, weighted along the first two axes.
  void blend(const T* x, const Row& r, A* HWY_RESTRICT out) const {
    const ResampleAxis &deep = s_.axis[0], &down = s_.axis[1];
    const auto at = [](const std::vector<int64_t>& v, int64_t i) { return v[static_cast<size_t>(i)]; };
    bool first = true;
    for (int64_t i = at(deep.first, r.depth); i < at(deep.first, r.depth + 1); ++i)
      for (int64_t j = at(down.first, r.height); j < at(down.first, r.height + 1); ++j) {
        const A by = static_cast<A>(deep.weight[static_cast<size_t>(i)] * down.weight[static_cast<size_t>(j)]);
        const T* HWY_RESTRICT in = x + ((r.plane * deep.in + at(deep.index, i)) * down.in + at(down.index, j)) * width_;
        if (first)
          for (int64_t w = 0; w < width_; ++w) out[w] = by * static_cast<A>(in[w]);
        else
          for (int64_t w = 0; w < width_; ++w) out[w] += by * static_cast<A>(in[w]);
        first = false;
      }
    if (first) std::fill_n(out, width_, A{});
  }

  template <int taps>
  void line(const A* HWY_RESTRICT in, T* HWY_RESTRICT out) const {
    const int64_t *first = s_.axis[2].first.data(), *index = s_.axis[2].index.data();
    const A* weight = along_.data();
    for (int64_t o = 0; o < s_.axis[2].out; ++o) {
      A sum{};
      if constexpr (taps > 0) {
        for (int k = 0; k < taps; ++k) sum += weight[o * taps + k] * in[index[o * taps + k]];
      } else {
        for (int64_t k = first[o]; k < first[o + 1]; ++k) sum += weight[k] * in[index[k]];
      }
      out[o] = static_cast<T>(sum);
    }
  }

  void channels(const A* HWY_RESTRICT in, T* HWY_RESTRICT out) const {
    constexpr int64_t block = 128;  // accumulators held at once
    const int64_t *first = s_.axis[2].first.data(), *index = s_.axis[2].index.data();
    for (int64_t o = 0; o < s_.axis[2].out; ++o)
      for (int64_t c0 = 0; c0 < s_.inner; c0 += block) {
        const int64_t count = std::min(block, s_.inner - c0);
        A sum[block];
        std::fill_n(sum, count, A{});
        for (int64_t k = first[o]; k < first[o + 1]; ++k) {
          const A by = along_[static_cast<size_t>(k)];
          const A* HWY_RESTRICT from = in + index[k] * s_.inner + c0;
          for (int64_t c = 0; c < count; ++c) sum[c] += by * from[c];
        }
        for (int64_t c = 0; c < count; ++c) out[o * s_.inner + c0 + c] = static_cast<T>(sum[c]);
      }
  }

  ResampleSizes s_;
  int64_t width_, rows_;
  size_t row_bytes_;
  int64_t pieces_;
  std::vector<A> along_;
  int64_t taps_;
};

ResampleKernel* make(ResampleSizes s, DType t) {
  if (s.pick) {
    switch (size_of(t)) {
      case 1: return new Pick<uint8_t>(std::move(s));
      case 2: return new Pick<uint16_t>(std::move(s));
      case 4: return new Pick<uint32_t>(std::move(s));
      default: return new Pick<uint64_t>(std::move(s));
    }
  }
  if (t == DType::f64) return new Blend<double>(std::move(s));
  if (t == DType::f16) return new Blend<float16>(std::move(s));
  if (t == DType::bf16) return new Blend<bfloat16>(std::move(s));
  return new Blend<float>(std::move(s));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame {

HWY_EXPORT(make);
std::unique_ptr<ResampleKernel> resample_kernel(ResampleSizes sizes, DType t) {
  return std::unique_ptr<ResampleKernel>(HWY_DYNAMIC_DISPATCH(make)(std::move(sizes), t));
}

}  // namespace flame
#endif
