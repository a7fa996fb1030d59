// Shape arithmetic: strides, broadcasting and layout tests.
#include "flame/core/shape.h"

#include <algorithm>

#include "flame/core/format.h"

namespace flame {

namespace {
[[noreturn]] void too_many(size_t rank) {
  fail<ShapeError>(Loc::current(), "shape: rank {} is above the limit of {}", rank, max_rank);
}
// Axes from the slowest to the fastest in memory; ties keep their logical order, size-1 axes come first.
Dims memory_order(const Shape& s, const Strides& st) {
  Dims order;
  int ones = 0;
  for (int i = 0; i < s.rank(); ++i) {
    int at = ones;
    if (s[i] == 1) {
      ++ones;
    } else {
      at = order.rank();
      while (at > ones && std::abs(st[static_cast<int>(order[at - 1])]) < std::abs(st[i])) --at;
    }
    order.insert(at, i);
  }
  return order;
}
}  // namespace

Dims::Dims(std::span<const int64_t> v) : rank_(static_cast<int>(v.size())) {
  if (v.size() > max_rank) too_many(v.size());
  std::copy(v.begin(), v.end(), v_.begin());
}
Dims Dims::filled(int rank, int64_t value) {
  Dims d;
  for (int i = 0; i < rank; ++i) d.push_back(value);
  return d;
}
void Dims::push_back(int64_t v) { insert(rank_, v); }
void Dims::insert(int at, int64_t v) {
  if (rank_ == max_rank) too_many(static_cast<size_t>(rank_) + 1);
  std::copy_backward(v_.begin() + at, v_.begin() + rank_, v_.begin() + rank_ + 1);
  v_[static_cast<size_t>(at)] = v;
  ++rank_;
}
void Dims::erase(int at) {
  std::copy(v_.begin() + at + 1, v_.begin() + rank_, v_.begin() + at);
  --rank_;
}

int64_t checked_numel(const Shape& s) {
  int64_t n = 1;
  bool fits = true;
  for (int64_t d : s) {
    if (d == 0) return 0;
    fits = fits && !__builtin_mul_overflow(n, d, &n);
  }
  constexpr int64_t most = int64_t{1} << 60;  // of the widest dtype, the bytes still count in 63 bits
  if (!fits || n >= most) fail<ShapeError>(Loc::current(), "shape: {} has more than 2^60 elements", s);
  return n;
}

std::string to_string(const Dims& d) { return fmt::format("[{}]", fmt::join(d.begin(), d.end(), ", ")); }

Strides contiguous_strides(const Shape& s) {
  Strides st = s;
  int64_t step = 1;
  for (int i = s.rank() - 1; i >= 0; --i) {
    st[i] = step;
    step *= std::max<int64_t>(s[i], 1);
  }
  return st;
}

Strides channels_last_strides(const Shape& s) {
  Strides st = s;
  int64_t step = 1;
  const auto put = [&](int axis) {
    st[axis] = step;
    step *= std::max<int64_t>(s[axis], 1);
  };
  put(1);
  for (int i = s.rank() - 1; i >= 2; --i) put(i);
  put(0);
  return st;
}

namespace {
// Equal up to the strides of axes that cannot be walked.
bool same_walk(const Shape& s, const Strides& a, const Strides& b) {
  for (int i = 0; i < s.rank(); ++i) {
    if (s[i] == 0) return true;
    if (s[i] != 1 && a[i] != b[i]) return false;
  }
  return true;
}
}  // namespace

bool is_contiguous(const Shape& s, const Strides& st) {
  if (numel(s) == 0) return true;
  int64_t step = 1;
  for (int i = s.rank() - 1; i >= 0; --i) {
    if (s[i] != 1 && st[i] != step) return false;
    step *= s[i];
  }
  return true;
}
bool is_channels_last(const Shape& s, const Strides& st) {
  return s.rank() >= 3 && s.rank() <= 5 && (numel(s) == 0 || same_walk(s, st, channels_last_strides(s)));
}
bool is_dense(const Shape& s, const Strides& st) {
  return numel(s) == 0 || same_walk(s, st, dense_strides_like(s, st));
}

Strides dense_strides_like(const Shape& s, const Strides& st) {
  if (is_contiguous(s, st)) return contiguous_strides(s);
  const Dims order = memory_order(s, st);
  Strides out = s;
  int64_t step = 1;
  for (int i = s.rank() - 1; i >= 0; --i) {
    const int axis = static_cast<int>(order[i]);
    out[axis] = step;
    step *= std::max<int64_t>(s[axis], 1);
  }
  return out;
}

bool broadcast_shapes(const Shape& a, const Shape& b, Shape& out) {
  const Shape& longer = a.rank() >= b.rank() ? a : b;
  const Shape& shorter = a.rank() >= b.rank() ? b : a;
  out = longer;
  const int shift = longer.rank() - shorter.rank();
  for (int i = 0; i < shorter.rank(); ++i) {
    const int64_t x = longer[i + shift], y = shorter[i];
    if (x != y && x != 1 && y != 1) return false;
    out[i + shift] = x == 1 ? y : x;
  }
  return true;
}

Strides broadcast_strides(const Shape& from, const Strides& st, const Shape& to) {
  Strides out = Dims::filled(to.rank(), 0);
  const int shift = to.rank() - from.rank();
  for (int i = 0; i < from.rank(); ++i) out[i + shift] = from[i] == 1 ? 0 : st[i];
  return out;
}

Error::Error(const std::string& message, Loc where)
    : std::runtime_error(fmt::format("{} (at {}:{})", message, where.file_name(), where.line())), where_(where) {}

}  // namespace flame
