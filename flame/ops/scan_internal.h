// Internal: walks bundles of lines along one axis of several tensors, for kernels that carry a value from element to
// element. Neighbouring lines go side by side: they are independent, so that their latencies overlap.
#pragma once
#include <algorithm>
#include <array>
#include <span>

#include "flame/device/cpu/strided_copy.h"
#include "flame/device/device.h"

namespace flame {

// Lines of up to three tensors as scan.cu reads them.
struct DeviceLines {
  int64_t lines = 0, n = 0, rank = 0;
  int64_t shape[max_rank]{}, strides[3][max_rank]{}, start[3]{}, along[3]{};
};

template <size_t N>
class Lines {
 public:
  static constexpr int64_t max_width = 128;
  using At = std::array<int64_t, N>;  // one place, or one step, in elements of each tensor

  // Tensors of one shape. `reverse`: from the last element to the first. `few`: lines side by side where neighbours in
  // memory lie along them; fewer where many tensors would share the cache.
  Lines(std::span<const Meta> in, std::span<const Meta> out, int axis, bool reverse, int64_t few = 4) {
    const Shape& s = in[0].shape;
    n = s[axis];
    const auto meta = [&](size_t k) -> const Meta& { return k < in.size() ? in[k] : out[k - in.size()]; };
    for (int i = 0; i < s.rank(); ++i) {
      if (i == axis || s[i] == 1) continue;
      others_.push_back(s[i]);
      for (size_t k = 0; k < N; ++k) strides_[k].push_back(meta(k).strides[i]);
    }
    bool below = false;  // an axis after the scanned one: its elements are neighbours in memory
    for (int i = axis + 1; i < s.rank(); ++i) below |= s[i] != 1;
    if (others_.empty()) {
      others_.push_back(1);
      for (Strides& st : strides_) st.push_back(0);
    }
    width_ = below ? max_width : few;
    for (size_t k = 0; k < N; ++k) {
      along[k] = meta(k).strides[axis];
      across[k] = strides_[k].back();
      if (reverse) {
        start_[k] = (n - 1) * along[k];
        along[k] = -along[k];
      }
    }
  }

  int64_t count() const { return numel(others_); }
  DeviceLines on_device() const {
    DeviceLines d;
    d.lines = count();
    d.n = n;
    d.rank = others_.rank();
    for (int i = 0; i < others_.rank(); ++i) d.shape[i] = others_[i];
    for (size_t k = 0; k < N; ++k) {
      d.start[k] = start_[k];
      d.along[k] = along[k];
      for (int i = 0; i < others_.rank(); ++i) d.strides[k][i] = strides_[k][i];
    }
    return d;
  }
  // Calls fn(at, width) for bundles that cover every line once, on several threads.
  template <class F>
  void each(F&& fn) const {
    const int64_t row = others_.back();
    if (n == 0 || numel(others_) == 0) return;
    const int64_t pieces = (row + width_ - 1) / width_;
    const int64_t grain = std::max<int64_t>(1, elements_per_piece / (n * std::min(row, width_)));
    parallel_for(numel(others_) / row * pieces, grain, [&](int64_t begin, int64_t end) {
      RowWalk<N> walk(others_, strides_, begin / pieces);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t piece = i % pieces;
        At at;
        for (size_t k = 0; k < N; ++k) at[k] = walk.at[k] + start_[k] + piece * width_ * across[k];
        fn(at, std::min(width_, row - piece * width_));
        if (piece == pieces - 1) walk.next();
      }
    });
  }

  // The same, one line after the other.
  template <class F>
  void each_line(F&& fn) const {
    RowWalk<N> walk(others_, strides_, 0);
    for (int64_t i = 0, lines = count(); i < lines; ++i) {
      const int64_t column = i % others_.back();
      At at;
      for (size_t k = 0; k < N; ++k) at[k] = walk.at[k] + start_[k] + column * across[k];
      fn(at);
      if (column == others_.back() - 1) walk.next();
    }
  }

  int64_t n;
  At along, across;

 private:
  Shape others_;  // the other axes, without those of size 1
  std::array<Strides, N> strides_;
  At start_{};
  int64_t width_;
};

// step(state, places, t) for the t-th element of `width` lines from `at` on, all lines one step after the other.
template <size_t N, class State, class Step>
void walk_many(const Lines<N>& l, std::array<int64_t, N> at, int64_t width, const State& start, const Step& step) {
  State states[Lines<N>::max_width];
  std::fill_n(states, width, start);
  for (int64_t t = 0; t < l.n; ++t) {
    std::array<int64_t, N> i = at;
    for (int64_t c = 0; c < width; ++c) {
      step(states[c], i, t);
      for (size_t k = 0; k < N; ++k) i[k] += l.across[k];
    }
    for (size_t k = 0; k < N; ++k) at[k] += l.along[k];
  }
}
// The same for a number of lines known to the compiler, whose states stay in registers.
template <size_t N, class State, class Step, int64_t... c>
void walk_few(const Lines<N>& l, std::array<int64_t, N> at, const State& start, const Step& step,
              std::integer_sequence<int64_t, c...>) {
  std::array<State, sizeof...(c)> states;
  states.fill(start);
  const auto place = [&](int64_t line) {
    std::array<int64_t, N> i;
    for (size_t k = 0; k < N; ++k) i[k] = at[k] + line * l.across[k];
    return i;
  };
  for (int64_t t = 0; t < l.n; ++t) {
    (step(states[c], place(c), t), ...);
    for (size_t k = 0; k < N; ++k) at[k] += l.along[k];
  }
}
template <size_t N, class State, class Step>
void walk_lines(const Lines<N>& l, const std::array<int64_t, N>& at, int64_t width, const State& start,
                const Step& step) {
  if (width == 4) walk_few(l, at, start, step, std::make_integer_sequence<int64_t, 4>());
  else if (width == 1) walk_few(l, at, start, step, std::make_integer_sequence<int64_t, 1>());
  else walk_many(l, at, width, start, step);
}

}  // namespace flame
