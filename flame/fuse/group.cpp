// The groups of an island as programs and plans.
#include <algorithm>
#include <bit>

#include "flame/fuse/drafts.h"

namespace flame {

namespace {

constexpr const char* pointwise_names[] = {
#define FLAME_POINTWISE(name, ...) #name,
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
    "copy", "iota", "dropout"};
static_assert(std::size(pointwise_names) == static_cast<size_t>(Code::count));
constexpr const char* reduce_names[] = {"sum", "prod", "max", "min", "any", "all"};

class Planner : Drafts {
 public:
  Planner(const std::vector<Ref<Value>>& nodes, const std::vector<bool>& wanted, const std::vector<Value*>& leaves,
          Device& d)
      : Drafts(nodes, wanted, d), leaves_(leaves) {}

  IslandPlan plan() {
    IslandPlan out;
    for (size_t g = 0; g < drafts_.size(); ++g)
      if (!drafts_[g].nodes.empty()) out.groups.push_back(build(static_cast<int>(g)));
    return out;
  }

 private:
  const std::vector<Value*>& leaves_;

  // Strides over the loop dims, from those over the axes without ones; 0 along those that the value lacks.
  static Strides loop_strides(const Draft& d, const Strides& own, uint32_t lacks) {
    Strides full;
    for (int axis = 0, at = 0; axis < d.space.rank(); ++axis) full.push_back(lacks >> axis & 1 ? 0 : own[at++]);
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
  n.summed = std::popcount(column(i));
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
  LeafDesc leaf{v.dtype, loop_strides(b.draft, own, as_row ? b.draft.mask : 0), as_row};
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
  for (int i : d.nodes)
    if (const int n = std::popcount(column(i)); n > 0) p.summed = p.summed > 0 ? std::min(p.summed, n) : n;
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
      n.index_strides = loop_strides(d, without_ones(value(i).shape, along), as_row ? d.mask : 0);
    }
    if (e.draw) {
      const Shape& shape = value(i).shape;
      n.index_strides = loop_strides(d, without_ones(shape, contiguous_strides(shape)), as_row ? d.mask : 0);
      n.draw = p.scalars;
      p.scalars += draw_words;
      for (int k = 0; k < draw_words; ++k) out.scalars.emplace_back(i, draw_input + k);
    }
    if (wanted_[static_cast<size_t>(i)]) {
      n.output = static_cast<int>(p.outputs.size());
      const Strides own = without_ones(value(i).shape, value(i).strides);
      p.outputs.push_back({value(i).dtype, loop_strides(d, own, column(i) ? column(i) : as_row ? d.mask : 0), as_row});
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
  const auto boundary = [&](int i) {
    return i == p.kept || i == p.kept + p.reduced ||
           std::ranges::any_of(p.nodes, [&](const NodeDesc& n) { return i == p.kept - n.summed; });
  };
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
    if (i < p.kept && i >= p.kept - p.summed) --p.summed;
    for (NodeDesc& n : p.nodes)
      if (i < p.kept && i >= p.kept - n.summed) --n.summed;
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
