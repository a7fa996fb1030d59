// Internal: text for the rows of an island's group: what a row's reductions wait for, what is kept in registers between
// them, and the kernel of whole rows. Sums are added up in the CPU's order: 32 lanes, blocks of 1,024 elements.
#pragma once
#include <bit>

#include "flame/fuse/cuda_draws.h"

namespace flame::cuda_text {

class Rows : protected Draws {
 protected:
  Rows(const Program& p, int width) : Draws(p, width) {}

  static std::string head(const std::string& name) {
    return fmt::format("extern \"C\" __global__ void __launch_bounds__({}) {}(const __grid_constant__ A a) {{\n",
                       cuda_threads, name);
  }

  static std::string join(const NodeDesc& n, const std::string& a, const std::string& b) {
    const bool f = is_float(n.compute);
    switch (n.reduce) {
      case Reduce::sum: return fmt::format("plus({}, {})", a, b);
      case Reduce::prod: return fmt::format("times({}, {})", a, b);
      case Reduce::max: return fmt::format("{}({}, {})", f ? "vec_maximum" : "greater", a, b);
      case Reduce::min: return fmt::format("{}({}, {})", f ? "vec_minimum" : "lesser", a, b);
      case Reduce::any: return fmt::format("({} | {})", a, b);
      case Reduce::all: break;
    }
    return fmt::format("({} & {})", a, b);
  }
  static std::string identity(const NodeDesc& n) {
    const std::string t = computed(n.compute), limits = "std::numeric_limits<" + t + ">::";
    const bool f = is_float(n.compute);
    switch (n.reduce) {
      case Reduce::sum:
      case Reduce::any: return t + "(0)";
      case Reduce::prod:
      case Reduce::all: return t + "(1)";
      case Reduce::max: return f ? "-" + limits + "infinity()" : limits + "lowest()";
      case Reduce::min: break;
    }
    return limits + (f ? "infinity()" : "max()");
  }
  // The statement that makes row value v<i> of the sum in `x`.
  std::string reduced(int i, const std::string& x, const std::string& indent) const {
    const NodeDesc& n = node(i);
    return fmt::format("{}const {} v{} = {};\n", indent, computed(n.out), i,
                       rounded(n.out, fmt::format("static_cast<{}>({})", computed(n.out), x)));
  }
  std::vector<int> reductions(int pass) const {
    std::vector<int> out;
    for (int i = 0; i < nodes(); ++i)
      if (node(i).kind == Kind::reduce && node(i).summed == 0 && level_[static_cast<size_t>(i)] == pass + 1)
        out.push_back(i);
    return out;
  }
  // The sums down columns of what a pass makes; of all passes: -1.
  std::vector<int> column_sums(int pass) const {
    std::vector<int> out;
    for (int i = 0; i < nodes(); ++i)
      if (node(i).summed > 0 && node(i).kind == Kind::reduce && (pass < 0 || level_[static_cast<size_t>(i)] == pass))
        out.push_back(i);
    return out;
  }
  std::vector<int> sums_in(int pass) const {
    std::vector<int> out = reductions(pass);
    for (int i : column_sums(pass)) out.push_back(i);
    return out;
  }
  // The nodes whose elements a pass makes: inputs of its reductions, and outputs.
  std::vector<int> made_in(int pass) const {
    std::vector<int> out;
    for (int i : sums_in(pass))
      if (node(i).in[0].kind == Src::Kind::node) out.push_back(node(i).in[0].index);
    for (int i = 0; i < nodes(); ++i)
      if (!node(i).row && node(i).output >= 0 && level_[static_cast<size_t>(i)] == pass) out.push_back(i);
    return out;
  }
  Needs needs_of(int pass) const {
    Needs n = needs(made_in(pass), false);
    for (int i = nodes() - 1; i >= 0; --i) {
      const auto at = static_cast<size_t>(i);
      if (node(i).row || !n.nodes[at]) n.nodes[at] = false;
      else if (kept(i) && first_[at] < pass) n.kept[at] = true;
    }
    if (std::find(n.kept.begin(), n.kept.end(), true) != n.kept.end()) prune(n, pass);
    for (int i : sums_in(pass))
      if (node(i).in[0].kind == Src::Kind::leaf) n.leaves[static_cast<size_t>(node(i).in[0].index)] = true;
    for (size_t k = 0; k < p_.leaves.size(); ++k)
      if (p_.leaves[k].row) n.leaves[k] = false;
    return n;
  }
  // What the loop over a row does with one element at dims [from, to): loads, computes, joins, stores.
  std::string element_of(int pass, const std::string& indent, int from, int to, const char* guard) {
    const Needs n = needs_of(pass);
    std::string out;
    for (size_t k = 0; k < p_.leaves.size(); ++k) {
      if (!n.leaves[k]) continue;
      if (held(k)) out += fmt::format("{}const {} l{} = widen(x{}[j]);\n", indent, computed(p_.leaves[k].dtype), k, k);
      else out += read(k, from, to, indent);
    }
    for (int i = 0; i < nodes(); ++i) {
      const auto at = static_cast<size_t>(i);
      if (n.kept[at]) out += fmt::format("{}const {} v{} = k{}[j];\n", indent, computed(node(i).out), i, i);
      else if (n.nodes[at]) out += compute(i, indent);
      if (n.nodes[at] && kept(i) && first_[at] == pass) out += fmt::format("{}k{}[j] = v{};\n", indent, i, i);
    }
    for (int i : reductions(pass)) {
      const std::string z = fmt::format("z{}", i), next = join(node(i), z, source(node(i), 0));
      out += steps_ ? fmt::format("{0}{1} = inside ? static_cast<{3}>({2}) : {1};\n", indent, z, next,
                                  computed(node(i).compute))
                    : fmt::format("{}{} = {};\n", indent, z, next);
    }
    for (int i : column_sums(pass)) {
      const std::string s = fmt::format("s{}[j]", i);
      out += fmt::format("{0}{1} = inside ? static_cast<{3}>({2}) : {1};\n", indent, s,
                         join(node(i), s, source(node(i), 0)), computed(node(i).compute));
    }
    for (int i = 0; i < nodes(); ++i)
      if (const int o = node(i).output; o >= 0 && !node(i).row && level_[static_cast<size_t>(i)] == pass)
        out += fmt::format("{}{}e{}[{}] = {};\n", indent, guard, o,
                           along(p_.outputs[static_cast<size_t>(o)].strides, output_offset(o, from, to)), written(i));
    return out;
  }
  std::string accumulators(int pass, const std::string& indent) const {
    std::string out;
    for (int i : reductions(pass))
      out += fmt::format("{}{} z{} = {};\n", indent, computed(node(i).compute), i, identity(node(i)));
    return out;
  }
  // Whether a row's elements follow each other, so that a thread's are 32 apart from where it begins.
  bool straight(const Strides& st) const {
    return steps_ > 0 && p_.mode != Mode::column && p_.kept + 1 == rank_ && st[p_.kept] == 1;
  }
  // Where element `j` of a thread lies, from the row's pointer.
  std::string along(const Strides& st, const std::string& offset) const { return straight(st) ? "j * 32" : offset; }
  // `kind`: b of a leaf, e of an output.
  static std::string row_pointer(char kind, const char* type, int k, const std::string& offset,
                                 const std::string& indent) {
    return fmt::format("{0}{1}{2}* const {3}{4} = a.{5}{4} + ({6});\n", indent, kind == 'b' ? "const " : "", type, kind,
                       k, kind == 'b' ? 'p' : 'q', offset);
  }
  // b<k> and e<o>: where the row starts in every tensor that is walked along it.
  std::string bases(int from, int to, const std::string& indent) {
    std::string out;
    for (size_t k = 0; k < p_.leaves.size(); ++k)
      if (copied(k))
        out += fmt::format(
            "{0}const {1}* const b{2} = reinterpret_cast<const {1}*>(copies + step % 2 * {3} + {4}) + lane;\n", indent,
            in_memory(p_.leaves[k].dtype), k, copied_bytes_, copies_[k]);
      else if (!p_.leaves[k].row)
        out += row_pointer('b', in_memory(p_.leaves[k].dtype), int(k),
                           leaf_offset(int(k), from, to) + (straight(p_.leaves[k].strides) ? " + from" : ""), indent);
    for (size_t o = 0; o < p_.outputs.size(); ++o)
      if (!p_.outputs[o].row)
        out +=
            row_pointer('e', in_memory(p_.outputs[o].dtype), int(o),
                        output_offset(int(o), from, to) + (straight(p_.outputs[o].strides) ? " + from" : ""), indent);
    return out;
  }
  // The 32 running values of a warp become one, in the order of the CPU's tree.
  std::string tree(int i, const std::string& indent) {
    if (!shuffles_) {
      functions_ +=
          "template <class T>\nT down(T x, int by) {\n  if constexpr (sizeof(T) < 4) return static_cast<T>("
          "__shfl_down_sync(0xffffffffu, static_cast<int>(x), by));\n  else return __shfl_down_sync(0xffffffffu, x, "
          "by);\n}\n"
          "template <class T>\nT first(T x) {\n  if constexpr (sizeof(T) < 4) return static_cast<T>("
          "__shfl_sync(0xffffffffu, static_cast<int>(x), 0));\n  else return __shfl_sync(0xffffffffu, x, 0);\n}\n";
      shuffles_ = true;
    }
    const std::string z = fmt::format("z{}", i);
    return fmt::format("{0}#pragma unroll\n{0}for (int by = 16; by > 0; by /= 2) {1} = {2};\n", indent, z,
                       join(node(i), z, "down(" + z + ", by)"));
  }

  // ---- rows in registers: `steps` elements a thread, 32 apart, unrolled
  // Decides whether a row's elements are worked on unrolled, and what is held in registers between the passes.
  void plan_registers(int64_t columns, int parts) {
    const int64_t own = std::max<int64_t>((std::min<int64_t>(columns, 1024) + 31) / 32, 1);
    whole_ = columns > 0 && columns % (columns <= 1024 ? 32 : 1024 * parts) == 0;
    const auto steps = static_cast<int>(whole_ ? own : std::bit_ceil(static_cast<uint64_t>(own)));
    first_.assign(p_.nodes.size(), passes_);
    std::vector<int> last(p_.nodes.size(), -1), uses(p_.leaves.size());
    int cost = 0;
    for (int pass = 0; pass < passes_; ++pass) {
      const Needs n = needs_of(pass);
      for (size_t i = 0; i < p_.nodes.size(); ++i) {
        if (!n.nodes[i]) continue;
        cost += cost_of(p_.nodes[i]);
        first_[i] = std::min(first_[i], pass);
        last[i] = pass;
      }
    }
    if (cost * steps > most_unrolled && p_.summed == 0) return;
    steps_ = steps;
    plan_copies();
    int room = registers;
    const auto need_of = [&](DType t) { return steps * (size_of(t) == 8 ? 2 : 1); };
    for (int i : column_sums(-1)) room -= need_of(node(i).compute) / 2;
    const auto take = [&](DType t) {
      const int need = need_of(t);
      if (need > room) return false;
      room -= need;
      return true;
    };
    kept_.assign(p_.nodes.size(), false);
    for (size_t i = 0; i < p_.nodes.size(); ++i)
      kept_[i] = last[i] > first_[i] && cost_of(p_.nodes[i]) >= dear && take(p_.nodes[i].out);
    for (int pass = 0; pass < passes_; ++pass) {
      const Needs n = needs_of(pass);
      for (size_t k = 0; k < p_.leaves.size(); ++k) uses[k] += n.leaves[k];
    }
    held_.assign(p_.leaves.size(), false);
    for (size_t k = 0; k < p_.leaves.size(); ++k)
      held_[k] = (own_elements(p_.leaves[k]) ? uses[k] > 0 : uses[k] > 1) && !constant(p_.leaves[k].strides) &&
                 !copied(k) && take(p_.leaves[k].dtype);
  }
  // The arrays, and the loads of leaves into them.
  std::string fill_registers(int from, int to) {
    std::string out, loads;
    for (size_t i = 0; i < kept_.size(); ++i)
      if (kept_[i]) out += fmt::format("  {} k{}[{}];\n", computed(p_.nodes[i].out), i, steps_);
    for (size_t k = 0; k < held_.size(); ++k) {
      if (!held_[k]) continue;
      const char* t = in_memory(p_.leaves[k].dtype);
      out += fmt::format("  {} x{}[{}];\n", t, k, steps_);
      loads += fmt::format("    x{0}[j] = inside ? {3}(b{0} + ({1})) : {2}();\n", k,
                           along(p_.leaves[k].strides, leaf_offset(int(k), from, to)), t, reader());
    }
    if (loads.empty()) return out;
    return out + loop(coordinates("col", from, to, "    ") + loads);
  }
  // `body` for every element of the row that is this thread's: `col` its place, `j` its number.
  std::string loop(const std::string& body) const {
    if (!steps_) return "#pragma unroll 4\n  for (I col = from; col < to; col += 32) {\n" + body + "  }\n";
    return fmt::format(
               "#pragma unroll\n  for (int j = 0; j < {}; ++j) {{\n    const I col = from + j * 32;\n"
               "    {};\n",
               steps_, whole_ ? "constexpr bool inside = true" : "const bool inside = col < to") +
           body + "  }\n";
  }

  std::string row_kernel() {
    const int warps = cuda_row_warps(space_), rows_a_block = cuda_threads / 32 / warps;
    const std::string rows = number("rows", space_.rows), cols = number("cols", space_.cols);
    plan_registers(space_.cols, warps);
    std::string out = head("island");
    out += fmt::format(
        "  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % {0};\n"
        "  const I own = static_cast<I>(blockIdx.x) * {1} + warp / {0}, rows = {2}, cols = {3};\n"
        "  const bool live = own < rows;\n  const I row = live ? own : rows - 1;\n"
        "  const I from = part * 1024 + lane, to = cols < (part + 1) * 1024 ? cols : (part + 1) * 1024;\n",
        warps, rows_a_block, rows, cols);
    return out + row_body(warps) + "}\n";
  }
  // Asks for the next row where a warp takes one after the other: a line a lane.
  std::string ask_ahead() {
    std::string out;
    for (size_t k = 0; p_.summed == 1 && k < p_.leaves.size(); ++k) {
      const LeafDesc& l = p_.leaves[k];
      const int along = p_.kept - 1, line = 128 / static_cast<int>(size_of(l.dtype));
      if (l.row || !straight(l.strides) || l.strides[along] == 0 || copied(k)) continue;
      out += fmt::format(
          "#pragma unroll\n    for (int at = lane * {0}; at < {1}; at += {2})\n"
          "      if (at < cols) ask_for(b{3} - lane + {4} + at);\n",
          line, steps_ * 32, line * 32, k, number(fmt::format("t{}_{}", k, along), l.strides[along]));
    }
    if (!out.empty() && once("f ask_for"))
      functions_ += "inline void ask_for(const void* p) { asm volatile(\"prefetch.global.L2 [%0];\" ::\"l\"(p)); }\n";
    return out.empty() ? out : "  if (step + 1 < bottom) {\n" + out + "  }\n";
  }
  // Which leaves' rows are copied to shared memory while a warp works on the row before: by 16 bytes, so each begins at a
  // multiple of that and is as long as a warp's steps.
  void plan_copies() {
    copies_.assign(p_.leaves.size(), -1);
    for (size_t k = 0; p_.summed > 0 && width_ == cuda_copied && whole_ && k < p_.leaves.size(); ++k) {
      const LeafDesc& l = p_.leaves[k];
      const auto size = static_cast<int64_t>(size_of(l.dtype));
      if (l.row || !straight(l.strides) || l.strides[p_.kept - 1] == 0) continue;
      if (!std::all_of(l.strides.begin(), l.strides.begin() + p_.kept,
                       [&](int64_t s) { return s * size % cuda_copied == 0; }))
        continue;
      copies_[k] = copied_bytes_;
      copied_bytes_ += steps_ * 32 * static_cast<int>(size);
    }
  }
  bool copied(size_t k) const { return !copies_.empty() && copies_[k] >= 0; }
  // What `warps` warps do with row `row`.
  std::string row_body(int warps) {
    const int end = p_.kept + p_.reduced;
    std::string out = coordinates("row", 0, p_.kept, "  ") + bases(0, p_.kept, "  ") + ask_ahead() +
                      fill_registers(p_.kept, end) + drawn_in_rows(steps_, "  ");
    for (size_t k = 0; k < p_.leaves.size(); ++k)
      if (p_.leaves[k].row) out += load(int(k), leaf_offset(int(k), 0, p_.kept), "  ");
    for (int pass = 0; pass < passes_; ++pass) {
      out += accumulators(pass, "  ");
      out += loop(coordinates("col", p_.kept, end, "    ") +
                  element_of(pass, "    ", p_.kept, end, steps_ ? "if (live && inside) " : "if (live) "));
      for (int i : reductions(pass)) out += across_warps(i, warps);
      for (int i = 0; i < nodes(); ++i)
        if (node(i).row && node(i).summed == 0 &&
            std::max(level_[static_cast<size_t>(i)], 1) == pass + 1) {  // one that needs no sum comes first
          if (node(i).kind == Kind::reduce) out += reduced(i, fmt::format("z{}", i), "  ");
          else out += compute(i, "  ");
          if (const int o = node(i).output; o >= 0)
            out += fmt::format(
                "  if (live && lane == 0 && part == 0) a.q{}[{}] = {};\n", o, output_offset(o, 0, p_.kept),
                node(i).kind == Kind::reduce ? stored(p_.outputs[static_cast<size_t>(o)].dtype, fmt::format("v{}", i))
                                             : written(i));
        }
    }
    return out;
  }
  // z<i> of a row's warps joined, as the CPU joins blocks of 1,024; every thread gets the result.
  std::string across_warps(int i, int warps) {
    std::string out = tree(i, "  ");
    if (warps == 1) return out + fmt::format("  z{0} = first(z{0});\n", i);
    const NodeDesc& n = node(i);
    out += fmt::format(
        "  __shared__ {0} m{1}[{2}];\n  if (lane == 0) m{1}[warp] = z{1};\n  __syncthreads();\n  {{\n"
        "    const {0}* m = m{1} + warp / {3} * {3};\n",
        computed(n.compute), i, cuda_threads / 32, warps);
    if (warps == 2) out += fmt::format("    z{} = {};\n", i, join(n, "m[0]", "m[1]"));
    else
      out += fmt::format("    z{0} = cols <= 3072 ? {1} : {2};\n", i, join(n, "m[0]", join(n, "m[1]", "m[2]")),
                         join(n, join(n, "m[0]", "m[1]"), join(n, "m[2]", "m[3]")));
    return out + "  }\n";
  }

  int steps_ = 0;            // elements a thread, unrolled; 0: a loop
  bool whole_ = false;       // every thread has as many
  std::vector<int> copies_;  // of leaves: where the copy of a row begins in shared memory, or -1
  int copied_bytes_ = 0;     // of a row

 private:
  static constexpr int most_unrolled = 6000;  // roughly instructions
  static constexpr int registers = 112, dear = 8;
  std::vector<int> first_;         // the first pass that makes an element node
  std::vector<bool> kept_, held_;  // element nodes, and leaves, in registers from their first pass on

  // Long sums read an element once; rows may share some.
  const char* reader() const { return p_.mode == Mode::row ? "read" : "read_once"; }
  // Whether each row has elements of its own in a leaf.
  bool own_elements(const LeafDesc& l) const {
    bool rows = p_.kept == 0, along = false;
    for (int i = 0; i < rank_; ++i) (i < p_.kept ? rows : along) |= l.strides[i] != 0;
    return rows && along;
  }
  bool kept(int i) const { return !kept_.empty() && kept_[static_cast<size_t>(i)]; }
  bool held(size_t k) const { return !held_.empty() && held_[k]; }
  // Leaves and nodes that are still needed where kept nodes are at hand.
  void prune(Needs& n, int pass) const {
    std::vector<bool> wanted(p_.nodes.size());
    for (int i : made_in(pass)) wanted[static_cast<size_t>(i)] = true;
    n.leaves.assign(p_.leaves.size(), false);
    for (int i = nodes() - 1; i >= 0; --i) {
      const auto at = static_cast<size_t>(i);
      const bool own = wanted[at] && !node(i).row;
      n.nodes[at] = own && !n.kept[at];
      n.kept[at] = own && n.kept[at];
      if (!n.nodes[at]) continue;
      for (const Src& s : node(i).in) {
        if (s.kind == Src::Kind::leaf) n.leaves[static_cast<size_t>(s.index)] = true;
        if (s.kind == Src::Kind::node) wanted[static_cast<size_t>(s.index)] = true;
      }
    }
  }
  std::string read(size_t k, int from, int to, const std::string& indent) {
    const std::string place = along(p_.leaves[k].strides, leaf_offset(int(k), from, to)),
                      at = copied(k) ? fmt::format("b{}[{}]", k, place)
                                     : fmt::format("{}(b{} + ({}))", reader(), k, place);
    const char *t = in_memory(p_.leaves[k].dtype), *c = computed(p_.leaves[k].dtype);
    if (!steps_) return fmt::format("{}const {} l{} = widen({});\n", indent, c, k, at);
    return fmt::format("{}const {} l{} = widen(inside ? {} : {}());\n", indent, c, k, at, t);
  }
  // Roughly the instructions of one element.
  int cost_of(const NodeDesc& n) const {
    if (n.kind == Kind::dropout) return row_shares(n) ? dear - 1 : 60;
    if (n.kind != Kind::pointwise) return n.kind == Kind::reduce ? 1 : 3;
    const std::string_view name = rows_of_table[static_cast<size_t>(n.code)].name;
    const auto among = [&](std::initializer_list<std::string_view> all) {
      return std::find(all.begin(), all.end(), name) != all.end();
    };
    const int wide = n.compute == DType::f64 ? 4 : 1;
    if (among({"add",     "sub",   "mul",  "neg",   "abs",         "square",      "maximum",
               "minimum", "clamp", "relu", "where", "eq",          "ne",          "lt",
               "le",      "gt",    "ge",   "fma",   "logical_not", "logical_and", "logical_or"}))
      return 2 * wide;
    if (among({"div", "sqrt", "rsqrt", "reciprocal"})) return 10 * wide;
    return (among({"exp", "exp2", "expm1", "log", "log2", "log1p"}) ? 20 : 100) * wide;
  }
};

}  // namespace flame::cuda_text
