// Shapes and strides: up to eight dimensions held inline, so that they copy without allocating.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace flame {

inline constexpr int max_rank = 8;

// A short list of 64-bit sizes or strides (in elements). Construction beyond max_rank throws ShapeError.
class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<int64_t> v) : Dims(std::span<const int64_t>(v.begin(), v.size())) {}
  explicit Dims(std::span<const int64_t> v);
  static Dims filled(int rank, int64_t value);

  int rank() const { return rank_; }
  bool empty() const { return rank_ == 0; }
  int64_t operator[](int i) const { return v_[static_cast<size_t>(i)]; }
  int64_t& operator[](int i) { return v_[static_cast<size_t>(i)]; }
  int64_t back() const { return v_[static_cast<size_t>(rank_ - 1)]; }
  const int64_t* begin() const { return v_.data(); }
  const int64_t* end() const { return v_.data() + rank_; }
  void push_back(int64_t v);
  void insert(int at, int64_t v);
  void erase(int at);
  bool operator==(const Dims& o) const {
    if (rank_ != o.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if ((*this)[i] != o[i]) return false;
    return true;
  }

 private:
  std::array<int64_t, max_rank> v_{};
  int rank_ = 0;
};
using Shape = Dims;
using Strides = Dims;

inline int64_t numel(const Shape& s) {
  int64_t n = 1;
  for (int64_t d : s) n *= d;
  return n;
}
int64_t checked_numel(const Shape& s);  // throws ShapeError where the product would not fit
std::string to_string(const Dims& d);   // "[2, 3]"

Strides contiguous_strides(const Shape& s);
Strides channels_last_strides(const Shape& s);  // [N, C, H, W] as N, H, W, C in memory; any rank from 2
bool is_contiguous(const Shape& s, const Strides& st);
bool is_channels_last(const Shape& s, const Strides& st);  // of rank 3 to 5
bool is_dense(const Shape& s, const Strides& st);  // every element of one block exactly once, in some axis order
Strides dense_strides_like(const Shape& s, const Strides& st);  // dense, in the axis order of `st`

// NumPy broadcasting; returns false if the shapes do not fit.
bool broadcast_shapes(const Shape& a, const Shape& b, Shape& out);
// Strides of a tensor of shape `from` read at shape `to` (0 along broadcast axes); shapes must fit.
Strides broadcast_strides(const Shape& from, const Strides& st, const Shape& to);

// Axes of a reduction: one, several, or none written, which means all. Negative axes count from the end.
class Axes {
 public:
  Axes() = default;
  Axes(int axis) : list_{axis} {}
  Axes(std::initializer_list<int64_t> axes) : list_(axes) {}
  Axes(const Dims& axes) : list_(axes) {}
  bool all() const { return list_.empty(); }
  const Dims& list() const { return list_; }

 private:
  Dims list_;
};

}  // namespace flame
