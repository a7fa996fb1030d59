// Internal: which nodes of an island share a launch: same loop space, reductions over the same axes in the same order.
#pragma once
#include <algorithm>

#include "flame/fuse/island_internal.h"
#include "flame/fuse/program.h"

namespace flame {

inline Dims without_ones(const Dims& shape, const Dims& values) {
  Dims out;
  for (int i = 0; i < shape.rank(); ++i)
    if (shape[i] != 1) out.push_back(values[i]);
  return out;
}
inline Shape strip(const Shape& s) { return without_ones(s, s); }

// Axes of a shape without ones, slowest in memory first.
inline Dims memory_order(const Strides& st) {
  Dims order;
  for (int i = 0; i < st.rank(); ++i) {
    int at = order.rank();
    while (at > 0 && std::abs(st[static_cast<int>(order[at - 1])]) < std::abs(st[i])) --at;
    order.insert(at, i);
  }
  return order;
}

struct Draft {
  Shape space;        // without ones
  uint32_t mask = 0;  // reduced axes of the space
  Mode mode = Mode::row;
  Dims order;  // axes of the space in loop order; set by the first reduction
  int kept = 0, reduced = 0;
  std::vector<int> nodes;
};

// The loop order of a reduction of `x` over `mask`; a function of its shape and strides alone, so that the same sum
// is added up in the same order whatever else shares the launch.
inline void set_reduction(Draft& d, const Strides& st, uint32_t mask) {
  d.mask = mask;
  const Dims memory = memory_order(st);
  const auto is_reduced = [&](int64_t axis) { return (mask >> axis & 1) != 0; };
  int inner = memory.rank();  // start of the trailing run of kept axes
  int64_t inner_size = 1, reduced_size = 1;
  while (inner > 0 && !is_reduced(memory[inner - 1])) inner_size *= d.space[static_cast<int>(memory[--inner])];
  for (int64_t axis : memory)
    if (is_reduced(axis)) reduced_size *= d.space[static_cast<int>(axis)];
  const bool column = inner < memory.rank() && inner_size >= 8 && reduced_size > 0;
  if (!column) inner = memory.rank();
  d.order = {};
  for (int i = 0; i < inner; ++i)
    if (!is_reduced(memory[i])) d.order.push_back(memory[i]);
  d.kept = d.order.rank();
  for (int64_t axis : memory)
    if (is_reduced(axis)) d.order.push_back(axis);
  d.reduced = d.order.rank() - d.kept;
  for (int i = inner; i < memory.rank(); ++i) d.order.push_back(memory[i]);
  d.mode = column ? Mode::column : reduced_size <= widest_row ? Mode::row : Mode::wide;
}

class Drafts {
 protected:
  Drafts(const std::vector<Ref<Value>>& nodes, const std::vector<bool>& wanted, Device& d)
      : nodes_(nodes), wanted_(wanted), device_(d), group_(nodes.size()), row_(nodes.size()), column_(nodes.size()) {
    for (size_t i = 0; i < nodes_.size(); ++i) place(static_cast<int>(i));
    drop_unread();
    mark_crossings();
  }

  const std::vector<Ref<Value>>& nodes_;
  std::vector<bool> wanted_;
  Device& device_;
  std::vector<int> group_;
  std::vector<bool> row_, read_;
  std::vector<uint32_t> column_;  // of sums down the columns of a row group, and what follows them: the axes summed
  std::vector<Draft> drafts_;

  const Value& value(int i) const { return *nodes_[static_cast<size_t>(i)]; }
  const Expr& expr(int i) const { return *value(i).expr.load(std::memory_order_relaxed); }
  bool row(int i) const { return row_[static_cast<size_t>(i)]; }
  uint32_t column(int i) const { return column_[static_cast<size_t>(i)]; }
  int group(int i) const { return group_[static_cast<size_t>(i)]; }
  // The node behind input k of node i, or -1 for leaves and scalars.
  int node_of(int i, int k) const {
    const Value* v = expr(i).in[k].value.get();
    const Expr* e = v ? v->expr.load(std::memory_order_relaxed) : nullptr;
    return e ? e->index : -1;
  }

  // A cast, or a number's sum or product with it, or two of them, of one materialised tensor.
  bool cheap(int j, int levels) const {
    const Expr& e = expr(j);
    if (e.is_reduce || e.reshaped || levels == 0) return false;
    if (e.code != Code::copy && e.code != Code::add && e.code != Code::sub && e.code != Code::mul) return false;
    int tensors = 0;
    for (int k = 0; k < e.inputs; ++k) {
      tensors += static_cast<bool>(e.in[k].value);
      if (const int m = node_of(j, k); m >= 0 && !cheap(m, levels - 1)) return false;
    }
    return tensors == 1;
  }
  // Whether input k of node i is computed anew for each of i's elements: cheap, and smaller than i. Its own launch need not
  // come first then, and if nobody else reads it there is none.
  bool repeated(int i, int k) const {
    const int j = node_of(i, k);
    return j >= 0 && !expr(i).is_reduce && !expr(i).reshaped && strip(value(j).shape) != strip(value(i).shape) &&
           cheap(j, 2);
  }

  static uint32_t stripped_mask(const Shape& s, uint32_t mask) {
    uint32_t out = 0;
    int at = 0;
    for (int i = 0; i < s.rank(); ++i)
      if (s[i] != 1) out |= (mask >> i & 1) << at++;
    return out;
  }
  Shape row_shape(const Draft& d) const {
    Shape s;
    for (int i = 0; i < d.space.rank(); ++i)
      if (!(d.mask >> i & 1)) s.push_back(d.space[i]);
    return s;
  }

  // Whether row value `j`, read by the elementwise node `i`, spreads along exactly the reduced axes.
  bool spreads_right(const Draft& d, int i, int j) const {
    const Shape& big = value(i).shape;
    const Shape& small = value(j).shape;
    int axis = 0;
    for (int a = 0; a < big.rank(); ++a) {
      if (big[a] == 1) continue;
      const int b = a - (big.rank() - small.rank());
      const bool one = b < 0 || small[b] == 1;
      if (one != ((d.mask >> axis++ & 1) != 0)) return false;
    }
    return true;
  }

  bool joins_as_element(int g, int i) const {
    const Draft& d = drafts_[static_cast<size_t>(g)];
    if (strip(value(i).shape) != d.space) return false;
    for (int k = 0; k < expr(i).inputs; ++k) {
      const int j = node_of(i, k);
      if (j < 0 || group(j) != g || repeated(i, k)) continue;
      if (row(j) ? d.mode != Mode::row || column(j) || !spreads_right(d, i, j) : strip(value(j).shape) != d.space)
        return false;
    }
    return true;
  }
  bool joins_as_row(int g, int i) const {
    const Draft& d = drafts_[static_cast<size_t>(g)];
    if (!d.mask || d.mode != Mode::row || strip(value(i).shape) != row_shape(d)) return false;
    // What numbers alone make goes beside a reduction that someone waits for.
    const auto stays = [&](int n) { return row(n) && !column(n) && wanted_[static_cast<size_t>(n)]; };
    bool connected = std::ranges::any_of(d.nodes, stays);
    for (int k = 0; k < expr(i).inputs; ++k) connected = connected && !expr(i).in[k].value;
    for (int k = 0; k < expr(i).inputs; ++k) {
      const int j = node_of(i, k);
      if (j < 0 || group(j) != g || repeated(i, k)) continue;
      if (!row(j) || column(j) || strip(value(j).shape) != strip(value(i).shape)) return false;
      connected = true;
    }
    return connected;
  }
  // Whether elementwise node i is computed where a result is stored that is complete at the end of the launch: of long rows
  // or of columns, on a GPU. It reads one such and numbers.
  bool joins_as_follower(int g, int i) const {
    const Expr& e = expr(i);
    if (device_.kind() != Device::Kind::cuda || e.draw) return false;
    int read = -1;
    for (int k = 0; k < e.inputs; ++k) {
      if (!e.in[k].value) continue;
      const int j = node_of(i, k);
      if (read >= 0 || j < 0 || group(j) != g || !row(j) || !is_last(g, j)) return false;
      read = j;
    }
    return read >= 0 && strip(value(read).shape) == strip(value(i).shape);
  }
  bool is_last(int g, int j) const { return drafts_[static_cast<size_t>(g)].mode != Mode::row || column(j); }
  bool joins_as_reduction(int g, int i) const {
    const Draft& d = drafts_[static_cast<size_t>(g)];
    const Value& x = *expr(i).in[0].value;
    const int j = node_of(i, 0);
    if (strip(x.shape) != d.space || (j >= 0 && group(j) == g && row(j))) return false;
    if (!d.mask) return true;
    const Draft mine = alone(i);
    if (mine.order != d.order) return false;
    if (mine.mask == d.mask && mine.mode == d.mode) return true;
    if (d.mode == Mode::row && mine.mode == Mode::column)
      return nests(d, mine.mask) && reads(g, x) && sums_both(g, d, mine, i);
    return d.mode == Mode::column && mine.mode == Mode::row && reads(g, x) && sums_both(g, mine, d, -1);
  }
  // The draft that reduction i would have for itself.
  Draft alone(int i) const {
    const Value& x = *expr(i).in[0].value;
    Draft d;
    d.space = strip(x.shape);
    set_reduction(d, without_ones(x.shape, x.strides), stripped_mask(x.shape, expr(i).axis_mask));
    return d;
  }
  // Whether a node of group g makes x or reads it.
  bool reads(int g, const Value& x) const {
    return std::ranges::any_of(drafts_[static_cast<size_t>(g)].nodes, [&](int n) {
      const Expr& e = expr(n);
      for (int k = 0; k < e.inputs; ++k)
        if (e.in[k].value.get() == &x) return true;
      return &value(n) == &x;
    });
  }
  // Whether sums along these axes share the parts of the group's other sums down columns.
  bool nests(const Draft& d, uint32_t mask) const {
    const auto extent = [&](uint32_t axes) {
      int64_t n = 1;
      for (int k = 0; k < d.space.rank(); ++k) n *= axes >> k & 1 ? d.space[k] : 1;
      return n;
    };
    return std::ranges::all_of(d.nodes, [&](int n) {
      return !column(n) || column(n) == mask || std::min(extent(column(n)), extent(mask)) % column_part == 0;
    });
  }
  // Whether group g's sums down columns, and reduction i among them, run in a launch with its sums of rows, whichever came
  // first; the CPU has none such. In loop order the axes are [outer][summed by columns][reduced by rows], so both have the
  // order that they have alone. A block takes 256 of the summed rows, a warp 32 of them one after the other, and a lane has
  // the columns in registers: rows of up to 1,024 elements, and a few sums. It pays where blocks fill a GPU and most of their
  // rows are there. Casts and numbers that follow a sum down columns are stored with it; all else goes to a later group.
  bool sums_both(int g, const Draft& rows, const Draft& columns, int i) const {
    constexpr int64_t least_blocks = 96, most_registers = 96;
    if (device_.kind() != Device::Kind::cuda || columns.kept + columns.reduced != rows.kept) return false;
    const auto size = [&](int from, int to) {
      int64_t n = 1;
      for (int k = from; k < to; ++k) n *= rows.space[static_cast<int>(rows.order[k])];
      return n;
    };
    const int64_t summed = size(columns.kept, rows.kept), length = size(rows.kept, rows.space.rank());
    const int64_t parts = (summed + column_part - 1) / column_part;
    if (length > widest_summed_row || size(0, columns.kept) * parts < least_blocks) return false;
    if (4 * summed < 3 * parts * column_part) return false;
    int64_t values = 0;  // words in registers for each column of a lane
    const auto add = [&](int n) { values += size_of(expr(n).compute) == 8 ? 2 : 1; };
    const Draft& d = drafts_[static_cast<size_t>(g)];
    for (const int n : d.nodes)
      if (expr(n).is_reduce && (d.mode == Mode::column || column(n))) add(n);
    if (i >= 0) add(i);
    return values * ((length + 31) / 32) <= most_registers;
  }

  void place(int i) {
    const Expr& e = expr(i);
    int first = 0;
    for (int k = 0; k < e.inputs; ++k)
      if (const int j = node_of(i, k); j >= 0 && !repeated(i, k)) first = std::max(first, group(j));
    const int count = static_cast<int>(drafts_.size());
    for (int g = first; g < count; ++g) {
      if (e.is_reduce ? joins_as_reduction(g, i) : joins_as_element(g, i)) return put(g, i, e.is_reduce);
      if (!e.is_reduce && (joins_as_row(g, i) || joins_as_follower(g, i))) return put(g, i, true);
    }
    drafts_.emplace_back().space = strip(e.is_reduce ? e.in[0].value->shape : value(i).shape);
    put(count, i, e.is_reduce);
  }
  void put(int g, int i, bool as_row) {
    Draft& d = drafts_[static_cast<size_t>(g)];
    if (expr(i).is_reduce) {
      Draft mine = alone(i);
      if (d.mask && mine.mode == Mode::column && d.mode == Mode::row) {
        column_[static_cast<size_t>(i)] = mine.mask;
      } else if (!d.mask || mine.mode != d.mode) {
        for (const int n : d.nodes)  // what summed columns alone sums them behind rows now
          if (row(n)) column_[static_cast<size_t>(n)] = d.mask;
        mine.nodes = std::move(d.nodes);
        d = std::move(mine);
      }
    }
    for (int k = 0; as_row && !expr(i).is_reduce && k < expr(i).inputs; ++k)
      if (const int j = node_of(i, k); j >= 0 && group(j) == g && column(j))
        column_[static_cast<size_t>(i)] = column(j);
    d.nodes.push_back(i);
    group_[static_cast<size_t>(i)] = g;
    row_[static_cast<size_t>(i)] = as_row;
  }

  void drop_unread() {
    read_ = wanted_;
    for (int i = static_cast<int>(nodes_.size()); i-- > 0;)
      for (int k = 0; read_[static_cast<size_t>(i)] && k < expr(i).inputs; ++k)
        if (const int j = node_of(i, k); j >= 0 && !repeated(i, k)) read_[static_cast<size_t>(j)] = true;
    for (Draft& d : drafts_) std::erase_if(d.nodes, [&](int i) { return !read_[static_cast<size_t>(i)]; });
  }
  // Values read by a later group must be written by theirs.
  void mark_crossings() {
    for (const Draft& d : drafts_)
      for (const int i : d.nodes)
        for (int k = 0; k < expr(i).inputs; ++k)
          if (const int j = node_of(i, k); j >= 0 && group(j) != group(i) && !repeated(i, k))
            wanted_[static_cast<size_t>(j)] = true;
  }
};

}  // namespace flame
