// Internal: the statements that load, compute and store elements of an island's group, as CUDA text: the ground of the
// kernels in cuda_text.cpp. A member of the kernels' argument struct is noted when it is first named.
#pragma once
#include <algorithm>
#include <array>
#include <limits>

#include "flame/core/format.h"
#include "flame/fuse/cuda_text.h"

namespace flame::cuda_text {

struct RowText {
  const char* name;
  int arity;
  bool select, vector;
  const char* scalar;
};
#define FLAME_LANES_scalar false
#define FLAME_LANES_vector true
#define FLAME_SELECT_any false
#define FLAME_SELECT_number false
#define FLAME_SELECT_floating false
#define FLAME_SELECT_integral false
#define FLAME_SELECT_select true
#define FLAME_POINTWISE(name, arity, in, out, lanes, scalar, ...) \
  {#name, arity, FLAME_SELECT_##in, FLAME_LANES_##lanes, #scalar},
inline constexpr RowText rows_of_table[] = {
#include "flame/fuse/pointwise.def"
};
#undef FLAME_POINTWISE

inline constexpr const char* memory_types[num_dtypes] = {"bool", "uint8_t", "int8_t", "int32_t", "int64_t",
                                                         "half", "bhalf",   "float",  "double"};
inline constexpr const char* computed_types[num_dtypes] = {"bool",  "uint8_t", "int8_t", "int32_t", "int64_t",
                                                           "float", "float",   "float",  "double"};
inline const char* in_memory(DType t) { return memory_types[static_cast<int>(t)]; }
inline const char* computed(DType t) { return computed_types[static_cast<int>(t)]; }

inline int64_t product(const Dims& d, int from, int to) {
  int64_t n = 1;
  for (int i = from; i < to; ++i) n *= d[i];
  return n;
}
inline bool constant(const Strides& st) {
  return std::all_of(st.begin(), st.end(), [](int64_t s) { return s == 0; });
}
inline bool flat(const Dims& dims, const Strides& st) {
  int64_t step = 1;
  for (int i = dims.rank() - 1; i >= 0; --i) {
    if (dims[i] != 1 && st[i] != step) return false;
    step *= dims[i];
  }
  return true;
}

class Elements {
 protected:
  Elements(const Program& p, int width)
      : p_(p), space_(cuda_space(p)), width_(width), rank_(p.dims.rank()), keeps_(p.nodes.size()) {}

  const Program& p_;
  const CudaSpace space_;
  const int width_, rank_;
  bool wide_index_ = false, special_ = false, shuffles_ = false;
  std::string members_, functions_;
  std::vector<CudaField> fields_;
  std::vector<std::string> known_;  // members and functions written
  std::vector<std::string> keeps_;  // of dropouts: what says whether an element is kept; empty: its own Philox block
  std::vector<int>
      level_;  // of elements: the pass that can compute it; of row values: the pass after which it is there
  int passes_ = 1;
  int shared_ = 0;  // dynamic bytes

  using Kind = NodeDesc::Kind;
  const NodeDesc& node(int i) const { return p_.nodes[static_cast<size_t>(i)]; }
  int nodes() const { return static_cast<int>(p_.nodes.size()); }

  bool once(std::string name) {
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) return false;
    known_.push_back(std::move(name));
    return true;
  }
  void field(const std::string& declaration, CudaField f) {
    members_ += "  " + declaration + ";\n";
    fields_.push_back(f);
  }
  // An argument of the kernel; the same name twice is one member.
  std::string number(const std::string& name, int64_t value) {
    if (once("n " + name)) field("int64_t " + name, {CudaField::Kind::number, 0, value});
    return "static_cast<I>(a." + name + ")";
  }
  std::string dim(int i) { return number(fmt::format("d{}", i), p_.dims[i]); }

  bool needs_wide_index() const {
    constexpr int64_t limit = std::numeric_limits<int32_t>::max() - (int64_t{1} << 16);
    int64_t most = product(p_.dims, 0, rank_);
    const auto span = [&](const Strides& st) {
      int64_t reach = 0;
      for (int i = 0; i < st.rank() && i < rank_; ++i) reach += std::abs(st[i]) * std::max<int64_t>(p_.dims[i] - 1, 0);
      most = std::max(most, reach);
    };
    for (const LeafDesc& l : p_.leaves) span(l.strides);
    for (const OutputDesc& o : p_.outputs) span(o.strides);
    for (const NodeDesc& n : p_.nodes) span(n.index_strides);
    return most > limit;
  }

  void scalar_fields(int i) {
    const NodeDesc& n = node(i);
    if (n.kind == Kind::dropout) field(fmt::format("Dropped r{}", i), {CudaField::Kind::draw, n.draw});
    for (const Src& s : n.in)
      if (s.kind == Src::Kind::scalar)
        field(fmt::format("{} s{}", is_float(n.compute) ? "double" : "int64_t", s.index),
              {CudaField::Kind::scalar, s.index});
  }

  void find_levels() {
    level_.assign(p_.nodes.size(), 0);
    passes_ = 0;
    int last = 0;
    for (int i = 0; i < nodes(); ++i) {
      int level = 0;
      for (const Src& s : node(i).in)
        if (s.kind == Src::Kind::node) level = std::max(level, level_[static_cast<size_t>(s.index)]);
      if (node(i).kind == Kind::reduce && node(i).summed == 0) passes_ = std::max(passes_, ++level);
      level_[static_cast<size_t>(i)] = level;
      if (node(i).summed > 0 || (!node(i).row && node(i).output >= 0)) last = std::max(last, level);
    }
    passes_ = std::max(passes_, last + 1);
  }

  // c<i> for dims [from, to), from a flat index.
  std::string coordinates(const std::string& index, int from, int to, const std::string& indent) {
    std::string out;
    if (to - from == 1) return fmt::format("{}const I c{} = {};\n", indent, from, index);
    if (to - from > 1) out += fmt::format("{}U i{} = {};\n", indent, from, index);
    for (int i = to - 1; i > from; --i)
      out += fmt::format("{0}const I c{1} = i{2} % static_cast<U>({3});\n{0}i{2} /= static_cast<U>({3});\n", indent, i,
                         from, dim(i));
    if (to - from > 1) out += fmt::format("{0}const I c{1} = i{1};\n", indent, from);
    return out;
  }
  // The sum of c<i> times stride over dims [from, to); strides that are 0 are left out, as is a reduction's 1 along the
  // fastest; the others are arguments.
  std::string offset(const std::string& name, const Strides& st, int from, int to) {
    std::string out;
    for (int i = from; i < to && i < st.rank(); ++i)
      if (st[i] != 0) {
        out += fmt::format("{}c{}", out.empty() ? "" : " + ", i);
        if (st[i] != 1 || i + 1 != rank_ || !p_.has_reduce) out += " * " + number(fmt::format("{}_{}", name, i), st[i]);
      }
    return out.empty() ? "0" : out;
  }
  std::string leaf_offset(int k, int from, int to) {
    return offset(fmt::format("t{}", k), p_.leaves[static_cast<size_t>(k)].strides, from, to);
  }
  std::string output_offset(int k, int from, int to) {
    return offset(fmt::format("u{}", k), p_.outputs[static_cast<size_t>(k)].strides, from, to);
  }

  std::string scalar(const Src& s, DType t) { return fmt::format("static_cast<{}>(a.s{})", computed(t), s.index); }
  std::string source(const NodeDesc& n, int k) {
    const Src& s = n.in[k];
    if (s.kind == Src::Kind::scalar) return scalar(s, n.code == Code::where && k == 0 ? DType::boolean : n.compute);
    return fmt::format("{}{}", s.kind == Src::Kind::leaf ? 'l' : 'v', s.index);
  }
  static std::string rounded(DType t, const std::string& x) {
    return t == DType::f16 ? "round_half(" + x + ")" : t == DType::bf16 ? "round_bhalf(" + x + ")" : x;
  }

  std::string call(const NodeDesc& n) {
    const RowText& row = rows_of_table[static_cast<size_t>(n.code)];
    std::string in[3];
    for (int k = 0; k < row.arity; ++k) in[k] = source(n, k);
    if (row.vector && is_float(n.compute)) {
      constexpr std::string_view in_float32[] = {"sigmoid", "softplus", "log_sigmoid", "silu", "gelu", "gelu_tanh"};
      const bool near = size_of(n.compute) == 2 && std::ranges::count(in_float32, row.name) > 0;
      std::string out = fmt::format("{}_{}({}", near ? "near" : "vec", row.name, in[0]);
      for (int k = 1; k < row.arity; ++k) out += ", " + in[k];
      return out + ")";
    }
    const std::string_view text = row.scalar;
    for (const char* name : {"erf_inverse", "digamma_of", "polygamma_of", "log_gamma"})
      special_ = special_ || text.find(name) != std::string_view::npos;
    if (once(std::string("f ") + row.name))
      functions_ += fmt::format("template <class A, class T>\nauto row_{}(A a, T b, T c) {{\n  return {};\n}}\n",
                                row.name, row.scalar);
    const std::string t = computed(n.compute);
    for (int k = row.arity; k < 3; ++k) in[k] = t + "()";
    return fmt::format("row_{}<{}, {}>({}, {}, {})", row.name, row.select ? "bool" : t, t, in[0], in[1], in[2]);
  }
  std::string iota(int i, const NodeDesc& n) {
    const std::string k = index_of(i, 0, rank_);
    const Src &s = n.in[0], &by = n.in[1];
    if (is_float(n.compute))
      return fmt::format("static_cast<{}>(a.s{} + static_cast<double>({}) * a.s{})", computed(n.out), s.index, k,
                         by.index);
    return fmt::format("static_cast<{}>(a.s{} + static_cast<int64_t>({}) * a.s{})", computed(n.out), s.index, k,
                       by.index);
  }
  // The number of node i's element in C order, from c<k> of dims [from, to).
  std::string index_of(int i, int from, int to) {
    return offset(fmt::format("k{}", i), node(i).index_strides, from, to);
  }
  std::string dropout(int i, const NodeDesc& n) {
    const std::string& known = keeps_[static_cast<size_t>(i)];
    const std::string kept =
        known.empty() ? fmt::format("kept(a.r{}, static_cast<I>({}))", i, index_of(i, 0, rank_)) : known;
    return fmt::format("{} ? {} * {} : {}(0)", kept, source(n, 0), source(n, 1), computed(n.out));
  }
  // The statement that computes node i from l<k> and v<j>.
  std::string compute(int i, const std::string& indent) {
    const NodeDesc& n = node(i);
    std::string x;
    if (n.kind == Kind::iota) x = iota(i, n);
    else if (n.kind == Kind::dropout) x = dropout(i, n);
    else if (n.kind == Kind::copy) x = fmt::format("convert<{}>({})", computed(n.out), source(n, 0));
    else x = fmt::format("static_cast<{}>({})", computed(n.out), call(n));
    if (in_bits(n))
      return fmt::format("{0}const {1} h{2} = convert<{1}>({3});\n{0}const {4} v{2} = widen(h{2});\n", indent,
                         in_memory(n.out), i, x, computed(n.out));
    if (n.kind != Kind::copy || n.compute != n.out) x = rounded(n.out, x);
    return fmt::format("{}const {} v{} = {};\n", indent, computed(n.out), i, x);
  }
  std::string load(int k, const std::string& at, const std::string& indent) {
    return fmt::format("{}const {} l{} = widen(a.p{}[{}]);\n", indent,
                       computed(p_.leaves[static_cast<size_t>(k)].dtype), k, k, at);
  }
  std::string stored(DType t, const std::string& x) { return fmt::format("convert<{}>({})", in_memory(t), x); }
  // Node i, computed by the statement above, as it is written: 16-bit values were rounded into memory's form already.
  std::string written(int i) {
    const NodeDesc& n = node(i);
    return in_bits(n) ? fmt::format("h{}", i)
                      : stored(p_.outputs[static_cast<size_t>(n.output)].dtype, fmt::format("v{}", i));
  }
  bool in_bits(const NodeDesc& n) const {
    return size_of(n.out) == 2 && n.output >= 0 && n.kind != Kind::reduce &&
           p_.outputs[static_cast<size_t>(n.output)].dtype == n.out;
  }

  // Element nodes and leaves that `wanted` needs, in order.
  struct Needs {
    std::vector<bool> nodes, leaves, kept;  // kept: nodes that an earlier pass left in registers
  };
  Needs needs(const std::vector<int>& wanted, bool rows) const {
    Needs out{std::vector<bool>(p_.nodes.size()), std::vector<bool>(p_.leaves.size()),
              std::vector<bool>(p_.nodes.size())};
    for (int i : wanted) out.nodes[static_cast<size_t>(i)] = true;
    for (int i = nodes() - 1; i >= 0; --i) {
      if (!out.nodes[static_cast<size_t>(i)]) continue;
      for (const Src& s : node(i).in) {
        if (s.kind == Src::Kind::leaf) out.leaves[static_cast<size_t>(s.index)] = true;
        if (s.kind == Src::Kind::node && node(s.index).row == rows) out.nodes[static_cast<size_t>(s.index)] = true;
      }
    }
    return out;
  }
};

}  // namespace flame::cuda_text
