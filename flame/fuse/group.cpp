// Which nodes of an island share a launch: same loop space, reductions over the same axes in the same order.
#include <algorithm>

#include "flame/fuse/island_internal.h"

namespace flame {

namespace {

Dims without_ones(const Dims& shape, const Dims& values) {
  Dims out;
  for (int i = 0; i < shape.rank(); ++i)
    if (shape[i] != 1) out.push_back(values[i]);
  return out;
}
Shape strip(const Shape& s) { return without_ones(s, s); }

// Axes of a shape without ones, slowest in memory first.
Dims memory_order(const Strides& st) {
  Dims order;
  for (int i = 0; i < st.rank(); ++i) {
    int at = order.rank();
    while (at > 0 && std::abs(st[static_cast<int>(order[at - 1])]) < std::abs(st[i])) --at;
    order.insert(at, i);
  }
  return order;
}

constexpr const char* pointwise_names[] = {
#define FLAME_POINTWISE(name, ...) #name,
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
    "copy", "iota", "dropout"};
static_assert(std::size(pointwise_names) == static_cast<size_t>(Code::count));
constexpr const char* reduce_names[] = {"sum", "prod", "max", "min", "any", "all"};

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
void set_reduction(Draft& d, const Strides& st, uint32_t mask) {
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

class Planner {
 public:
  Planner(const std::vector<Ref<Value>>& nodes, const std::vector<bool>& wanted, const std::vector<Value*>& leaves,
          Device& d)
      : nodes_(nodes), wanted_(wanted), leaves_(leaves), device_(d), group_(nodes.size()), row_(nodes.size()) {}

  IslandPlan plan() {
    for (size_t i = 0; i < nodes_.size(); ++i) place(static_cast<int>(i));
    drop_unread();
    mark_crossings();
    IslandPlan out;
    for (size_t g = 0; g < drafts_.size(); ++g)
      if (!drafts_[g].nodes.empty()) out.groups.push_back(build(static_cast<int>(g)));
    return out;
  }

 private:
  const std::vector<Ref<Value>>& nodes_;
  std::vector<bool> wanted_;
  const std::vector<Value*>& leaves_;
  Device& device_;
  std::vector<int> group_;
  std::vector<bool> row_, read_;
  std::vector<Draft> drafts_;

  const Value& value(int i) const { return *nodes_[static_cast<size_t>(i)]; }
  const Expr& expr(int i) const { return *value(i).expr.load(std::memory_order_relaxed); }
  bool row(int i) const { return row_[static_cast<size_t>(i)]; }
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
      if (row(j) ? d.mode != Mode::row || !spreads_right(d, i, j) : strip(value(j).shape) != d.space) return false;
    }
    return true;
  }
  bool joins_as_row(int g, int i) const {
    const Draft& d = drafts_[static_cast<size_t>(g)];
    if (!d.mask || d.mode != Mode::row || strip(value(i).shape) != row_shape(d)) return false;
    // What numbers alone make goes beside a reduction that someone waits for.
    const auto stays = [&](int n) { return row(n) && wanted_[static_cast<size_t>(n)]; };
    bool connected = std::ranges::any_of(d.nodes, stays);
    for (int k = 0; k < expr(i).inputs; ++k) connected = connected && !expr(i).in[k].value;
    for (int k = 0; k < expr(i).inputs; ++k) {
      const int j = node_of(i, k);
      if (j < 0 || group(j) != g || repeated(i, k)) continue;
      if (!row(j) || strip(value(j).shape) != strip(value(i).shape)) return false;
      connected = true;
    }
    return connected;
  }
  bool joins_as_reduction(int g, int i) const {
    const Draft& d = drafts_[static_cast<size_t>(g)];
    const Value& x = *expr(i).in[0].value;
    const int j = node_of(i, 0);
    if (strip(x.shape) != d.space || (j >= 0 && group(j) == g && row(j))) return false;
    if (!d.mask) return true;
    Draft mine;
    mine.space = d.space;
    set_reduction(mine, without_ones(x.shape, x.strides), stripped_mask(x.shape, expr(i).axis_mask));
    return mine.mask == d.mask && mine.order == d.order && mine.mode == d.mode;
  }

  void place(int i) {
    const Expr& e = expr(i);
    int first = 0;
    for (int k = 0; k < e.inputs; ++k)
      if (const int j = node_of(i, k); j >= 0 && !repeated(i, k)) first = std::max(first, group(j));
    const int count = static_cast<int>(drafts_.size());
    for (int g = first; g < count; ++g) {
      if (e.is_reduce ? joins_as_reduction(g, i) : joins_as_element(g, i)) return put(g, i, e.is_reduce);
      if (!e.is_reduce && joins_as_row(g, i)) return put(g, i, true);
    }
    drafts_.emplace_back().space = strip(e.is_reduce ? e.in[0].value->shape : value(i).shape);
    put(count, i, e.is_reduce);
  }
  void put(int g, int i, bool as_row) {
    Draft& d = drafts_[static_cast<size_t>(g)];
    if (expr(i).is_reduce && !d.mask) {
      const Value& x = *expr(i).in[0].value;
      set_reduction(d, without_ones(x.shape, x.strides), stripped_mask(x.shape, expr(i).axis_mask));
    }
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

  // Strides over the loop dims, from those over the axes without ones; row: 0 along the reduced ones.
  Strides loop_strides(const Draft& d, const Strides& own, bool as_row) const {
    Strides full;
    for (int axis = 0, at = 0; axis < d.space.rank(); ++axis)
      full.push_back(as_row && (d.mask >> axis & 1) ? 0 : own[at++]);
    Strides out;
    for (int64_t axis : d.order) out.push_back(full[static_cast<int>(axis)]);
    return out;
  }

  struct Build {
    const Draft& draft;
    Program p;
    IslandPlan::Group out;
    std::vector<int> place;  // of nodes in p, or -1
    struct Repeated {
      int place = -1, reader = -1;
    };
    std::vector<Repeated> repeated;  // where a node stands once more in p, and for which other one
  };
  IslandPlan::Group build(int g);
  NodeDesc described(int i, bool as_row) const;
  int repeat(Build& b, int j, int i) const;
  int leaf_of(Build& b, const Value& v, const Strides& own, bool as_row, int cross) const;
  static void collapse(Program& p);
  std::string label(const Draft& d) const;
};

// What profilers show: the first few of its ops, each once.
std::string Planner::label(const Draft& d) const {
  constexpr size_t most = 4;
  std::vector<const char*> names;
  for (int i : d.nodes) {
    const Expr& e = expr(i);
    const char* name =
        e.is_reduce ? reduce_names[static_cast<int>(e.reduce)] : pointwise_names[static_cast<int>(e.code)];
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  std::string out;
  for (size_t i = 0; i < std::min(names.size(), most); ++i) out += (i ? "+" : "") + std::string(names[i]);
  return names.size() > most ? out + "+..." : out;
}

bool is_op(const NodeDesc& n) {
  const bool moves = n.kind == NodeDesc::Kind::copy || n.kind == NodeDesc::Kind::iota;
  return !moves || n.compute != n.out;
}

NodeDesc Planner::described(int i, bool as_row) const {
  const Expr& e = expr(i);
  NodeDesc n;
  n.kind = e.is_reduce            ? NodeDesc::Kind::reduce
           : e.code == Code::iota ? NodeDesc::Kind::iota
           : e.code == Code::copy ? NodeDesc::Kind::copy
           : e.draw               ? NodeDesc::Kind::dropout
                                  : NodeDesc::Kind::pointwise;
  n.code = e.code;
  n.reduce = e.reduce;
  n.compute = e.compute;
  n.out = value(i).dtype;
  n.row = as_row;
  return n;
}

// Node j once more, for the elements of node i that it spreads over.
int Planner::repeat(Build& b, int j, int i) const {
  const Build::Repeated known = b.repeated[static_cast<size_t>(j)];
  if (known.place >= 0 && row(known.reader) == row(i) && value(known.reader).shape == value(i).shape)
    return known.place;  // it spreads alike
  const Expr& e = expr(j);
  NodeDesc n = described(j, row(i));
  for (int k = 0; k < e.inputs; ++k) {
    const Value* v = e.in[k].value.get();
    if (!v) {
      n.in[k] = {Src::Kind::scalar, b.p.scalars++};
      b.out.scalars.emplace_back(j, k);
    } else if (const int m = node_of(j, k); m >= 0) {
      n.in[k] = {Src::Kind::node, repeat(b, m, i)};
    } else {
      const Shape& shape = value(i).shape;
      const Strides own = without_ones(shape, broadcast_strides(v->shape, v->strides, shape));
      n.in[k] = {Src::Kind::leaf, leaf_of(b, *v, own, row(i), -1)};
    }
  }
  if (!read_[static_cast<size_t>(j)]) b.p.ops += is_op(n);
  b.p.nodes.push_back(n);
  b.repeated[static_cast<size_t>(j)] = {static_cast<int>(b.p.nodes.size()) - 1, i};
  return b.repeated[static_cast<size_t>(j)].place;
}

// The program's leaf for a materialised value, or (cross >= 0) a node of an earlier group; `own`: its strides over the axes.
int Planner::leaf_of(Build& b, const Value& v, const Strides& own, bool as_row, int cross) const {
  Program& p = b.p;
  IslandPlan::Group& out = b.out;
  LeafDesc leaf{v.dtype, loop_strides(b.draft, own, as_row), as_row};
  int source = ~cross;
  if (cross < 0) source = static_cast<int>(std::find(leaves_.begin(), leaves_.end(), &v) - leaves_.begin());
  for (size_t n = 0; n < p.leaves.size(); ++n)
    if (out.leaves[n] == source && p.leaves[n].strides == leaf.strides && p.leaves[n].row == as_row)
      return static_cast<int>(n);
  p.leaves.push_back(leaf);
  out.leaves.push_back(source);
  return static_cast<int>(p.leaves.size()) - 1;
}

IslandPlan::Group Planner::build(int g) {
  Draft& d = drafts_[static_cast<size_t>(g)];
  if (!d.mask) {  // loop in the memory order of the last node, which is most likely written
    const Value& v = value(d.nodes.back());
    d.order = memory_order(without_ones(v.shape, v.strides));
    d.kept = d.order.rank();
  }
  Build b{d, {}, {}, std::vector<int>(nodes_.size(), -1), std::vector<Build::Repeated>(nodes_.size())};
  Program& p = b.p;
  IslandPlan::Group& out = b.out;
  p.mode = d.mode;
  p.kept = d.kept;
  p.reduced = d.reduced;
  p.has_reduce = d.mask != 0;
  for (int64_t axis : d.order) p.dims.push_back(d.space[static_cast<int>(axis)]);
  for (int i : d.nodes) {
    const Expr& e = expr(i);
    const bool as_row = row(i);
    NodeDesc n = described(i, as_row);
    for (int k = 0; k < e.inputs; ++k) {
      const Value* v = e.in[k].value.get();
      const int j = v ? node_of(i, k) : -1;
      if (!v) {
        n.in[k] = {Src::Kind::scalar, p.scalars++};
        out.scalars.emplace_back(i, k);
      } else if (repeated(i, k)) {
        n.in[k] = {Src::Kind::node, repeat(b, j, i)};
      } else if (j >= 0 && group(j) == g) {
        n.in[k] = {Src::Kind::node, b.place[static_cast<size_t>(j)]};
      } else {
        const Shape& shape = e.is_reduce ? v->shape : value(i).shape;
        const Strides own = e.reshaped ? without_ones(v->shape, v->strides)  // ranks may differ
                                       : without_ones(shape, broadcast_strides(v->shape, v->strides, shape));
        n.in[k] = {Src::Kind::leaf, leaf_of(b, *v, own, as_row && !e.is_reduce, j)};
      }
    }
    if (e.code == Code::iota && !e.is_reduce) {
      Strides along = Dims::filled(value(i).shape.rank(), 0);
      along[e.axis] = 1;
      n.index_strides = loop_strides(d, without_ones(value(i).shape, along), as_row);
    }
    if (e.draw) {
      const Shape& shape = value(i).shape;
      n.index_strides = loop_strides(d, without_ones(shape, contiguous_strides(shape)), as_row);
      n.draw = p.scalars;
      p.scalars += draw_words;
      for (int k = 0; k < draw_words; ++k) out.scalars.emplace_back(i, draw_input + k);
    }
    if (wanted_[static_cast<size_t>(i)]) {
      n.output = static_cast<int>(p.outputs.size());
      p.outputs.push_back(
          {value(i).dtype, loop_strides(d, without_ones(value(i).shape, value(i).strides), as_row), as_row});
      out.outputs.push_back(i);
    }
    b.place[static_cast<size_t>(i)] = static_cast<int>(p.nodes.size());
    p.nodes.push_back(n);
    p.ops += is_op(n);
  }
  collapse(p);
  out.ops = p.ops;
  out.nodes = static_cast<int>(p.nodes.size());
  out.plan = device_.kind() == Device::Kind::cuda ? prepare_cuda_program(std::move(p), device_)
                                                  : prepare_cpu_program(std::move(p));
  out.plan->user = label(d);
  return out;
}

// Merges neighbouring loop dims of one kind that every tensor walks as one.
void Planner::collapse(Program& p) {
  const auto boundary = [&](int i) { return i == p.kept || i == p.kept + p.reduced; };
  for (int i = p.dims.rank() - 2; i >= 0; --i) {
    if (p.has_reduce && boundary(i + 1)) continue;
    const auto walks = [&](const Strides& st) { return st.empty() || st[i] == st[i + 1] * p.dims[i + 1]; };
    bool all = true;
    for (const LeafDesc& l : p.leaves) all = all && walks(l.strides);
    for (const OutputDesc& o : p.outputs) all = all && walks(o.strides);
    for (const NodeDesc& n : p.nodes) all = all && walks(n.index_strides);
    if (!all) continue;
    const auto merge = [&](Strides& st) {
      if (!st.empty()) st.erase(i);
    };
    for (LeafDesc& l : p.leaves) merge(l.strides);
    for (OutputDesc& o : p.outputs) merge(o.strides);
    for (NodeDesc& n : p.nodes) merge(n.index_strides);
    p.dims[i + 1] *= p.dims[i];
    p.dims.erase(i);
    if (i < p.kept) --p.kept;
    else if (i < p.kept + p.reduced) --p.reduced;
  }
  if (!p.has_reduce) p.kept = p.dims.rank();
}

}  // namespace

IslandPlan plan_island(const std::vector<Ref<Value>>& nodes, const std::vector<bool>& wanted,
                       const std::vector<Value*>& leaves, Device& d) {
  return Planner(nodes, wanted, leaves, d).plan();
}

}  // namespace flame
