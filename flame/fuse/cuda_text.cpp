// Writes CUDA text for islands. Elements are recomputed in each pass over a row rather than kept: they come from the
// caches, and any length of row takes the same few registers. Sums are added up in the CPU's order.
#include "flame/fuse/cuda_text.h"

#include "flame/fuse/cuda_elements.h"

namespace flame {
namespace {
using namespace cuda_text;

class Writer : Elements {
 public:
  Writer(const Program& p, int width) : Elements(p, width) {}

  CudaKernelText run() {
    wide_index_ = needs_wide_index();
    for (size_t i = 0; i < p_.leaves.size(); ++i)
      field(fmt::format("const {}* p{}", in_memory(p_.leaves[i].dtype), i), {CudaField::Kind::leaf, int(i)});
    for (size_t i = 0; i < p_.outputs.size(); ++i)
      field(fmt::format("{}* q{}", in_memory(p_.outputs[i].dtype), i), {CudaField::Kind::output, int(i)});
    for (size_t i = 0; i < p_.nodes.size(); ++i) scalar_fields(p_.nodes[i]);
    find_levels();
    std::string kernels;
    if (p_.mode == Mode::column) kernels = column_kernels();
    else if (p_.mode == Mode::wide) kernels = wide_kernels();
    else if (p_.has_reduce) kernels = row_kernel();
    else kernels = width_ > 1 ? vector_kernel() : element_kernel();
    CudaKernelText out;
    out.text = "#include \"flame/fuse/device.cuh\"\n#include \"flame/fuse/device_math.cuh\"\n";
    if (special_) out.text += "#include \"flame/fuse/scalar_special.h\"\n";
    out.text += "namespace flame {\nusing namespace kernels;\nusing I = ";
    out.text += wide_index_ ? "int64_t;\nusing U = int64_t;\n" : "int32_t;\nusing U = uint32_t;\n";
    out.text += "struct A {\n" + members_ + "};\n" + functions_ + kernels + "}  // namespace flame\n";
    out.fields = std::move(fields_);
    return out;
  }

 private:
  // ---- pointwise groups
  std::string element_kernel() {
    const std::string n = number("n", product(p_.dims, 0, rank_));
    std::string body = coordinates("at", 0, rank_, "  ");
    for (size_t k = 0; k < p_.leaves.size(); ++k) body += load(int(k), leaf_offset(int(k), 0, rank_), "  ");
    for (int i = 0; i < nodes(); ++i) body += compute(i, "  ");
    for (int i = 0; i < nodes(); ++i)
      if (const int o = node(i).output; o >= 0)
        body += fmt::format("  a.q{}[{}] = {};\n", o, output_offset(o, 0, rank_),
                            stored(p_.outputs[static_cast<size_t>(o)].dtype, fmt::format("v{}", i)));
    return head("island") +
           fmt::format("  const I at = static_cast<I>(global_thread());\n  if (at >= {}) return;\n", n) + body + "}\n";
  }
  std::string vector_kernel() {
    const std::string n = number("n", product(p_.dims, 0, rank_));
    std::string packs, in_pack, alone, both, stores;
    for (size_t k = 0; k < p_.leaves.size(); ++k) {
      const LeafDesc& l = p_.leaves[k];
      if (constant(l.strides)) {
        both += load(int(k), "0", "  ");
        continue;
      }
      packs += fmt::format("    const auto x{0} = *reinterpret_cast<const Pack<{1}, {2}>*>(a.p{0} + at);\n", k,
                           in_memory(l.dtype), width_);
      in_pack += fmt::format("      const {} l{} = widen(x{}.v[j]);\n", computed(l.dtype), k, k);
      alone += load(int(k), "at", "      ");
    }
    std::string nodes_text;
    for (int i = 0; i < nodes(); ++i) nodes_text += compute(i, "      ");
    std::string out_pack, out_alone;
    for (int i = 0; i < nodes(); ++i)
      if (const int o = node(i).output; o >= 0) {
        const DType t = p_.outputs[static_cast<size_t>(o)].dtype;
        const std::string v = stored(t, fmt::format("v{}", i));
        packs += fmt::format("    Pack<{}, {}> y{};\n", in_memory(t), width_, o);
        out_pack += fmt::format("      y{}.v[j] = {};\n", o, v);
        out_alone += fmt::format("      a.q{}[at] = {};\n", o, v);
        stores += fmt::format("    *reinterpret_cast<Pack<{0}, {1}>*>(a.q{2} + at) = y{2};\n", in_memory(t), width_, o);
      }
    return head("island") +
           fmt::format(
               "  int64_t at = global_thread() * {0};\n  const int64_t n = a.n;\n  if (at >= n) return;\n{1}"
               "  if (at + {0} <= n) {{\n{2}#pragma unroll\n    for (int j = 0; j < {0}; ++j) {{\n{3}{4}{5}    }}\n{6}"
               "  }} else {{\n    for (; at < n; ++at) {{\n{7}{4}{8}    }}\n  }}\n}}\n",
               width_, both, packs, in_pack, nodes_text, out_pack, stores, alone, out_alone);
  }
  static std::string head(const std::string& name) {
    return fmt::format("extern \"C\" __global__ void __launch_bounds__({}) {}(const __grid_constant__ A a) {{\n",
                       cuda_threads, name);
  }

  // ---- reductions
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
      if (node(i).kind == Kind::reduce && level_[static_cast<size_t>(i)] == pass + 1) out.push_back(i);
    return out;
  }
  // The nodes whose elements a pass makes: inputs of its reductions, and outputs.
  std::vector<int> made_in(int pass) const {
    std::vector<int> out;
    for (int i : reductions(pass))
      if (node(i).in[0].kind == Src::Kind::node) out.push_back(node(i).in[0].index);
    for (int i = 0; i < nodes(); ++i)
      if (!node(i).row && node(i).output >= 0 && level_[static_cast<size_t>(i)] == pass) out.push_back(i);
    return out;
  }
  Needs needs_of(int pass) const {
    Needs n = needs(made_in(pass), false);
    for (int i = 0; i < nodes(); ++i)
      if (node(i).row) n.nodes[static_cast<size_t>(i)] = false;
    for (int i : reductions(pass))
      if (node(i).in[0].kind == Src::Kind::leaf) n.leaves[static_cast<size_t>(node(i).in[0].index)] = true;
    return n;
  }
  // What the loop over a row does with one element at dims [from, to): loads, computes, joins, stores.
  std::string element_of(int pass, const std::string& indent, int from, int to, const char* guard) {
    const Needs n = needs_of(pass);
    std::string out;
    for (size_t k = 0; k < p_.leaves.size(); ++k)
      if (n.leaves[k] && !p_.leaves[k].row)
        out += load(int(k), fmt::format("b{} + {}", k, leaf_offset(int(k), from, to)), indent);
    out += elements(n, indent);
    for (int i : reductions(pass))
      out += fmt::format("{}z{} = {};\n", indent, i, join(node(i), fmt::format("z{}", i), source(node(i), 0)));
    for (int i = 0; i < nodes(); ++i)
      if (const int o = node(i).output; o >= 0 && !node(i).row && level_[static_cast<size_t>(i)] == pass)
        out += fmt::format("{}{}a.q{}[e{} + {}] = {};\n", indent, guard, o, o, output_offset(o, from, to),
                           stored(p_.outputs[static_cast<size_t>(o)].dtype, fmt::format("v{}", i)));
    return out;
  }
  std::string accumulators(int pass, const std::string& indent) const {
    std::string out;
    for (int i : reductions(pass))
      out += fmt::format("{}{} z{} = {};\n", indent, computed(node(i).compute), i, identity(node(i)));
    return out;
  }
  // b<k> and e<o>: where the row starts in every tensor that is walked along it.
  std::string bases(int from, int to, const std::string& indent) {
    std::string out;
    for (size_t k = 0; k < p_.leaves.size(); ++k)
      if (!p_.leaves[k].row) out += fmt::format("{}const I b{} = {};\n", indent, k, leaf_offset(int(k), from, to));
    for (size_t o = 0; o < p_.outputs.size(); ++o)
      if (!p_.outputs[o].row) out += fmt::format("{}const I e{} = {};\n", indent, o, output_offset(int(o), from, to));
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

  std::string row_kernel() {
    const int warps = cuda_row_warps(space_), rows_a_block = cuda_threads / 32 / warps, end = p_.kept + p_.reduced;
    const std::string rows = number("rows", space_.rows), cols = number("cols", space_.cols);
    std::string out = head("island");
    out += fmt::format(
        "  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % {0};\n"
        "  const I own = static_cast<I>(blockIdx.x) * {1} + warp / {0}, rows = {2}, cols = {3};\n"
        "  const bool live = own < rows;\n  const I row = live ? own : rows - 1;\n"
        "  const I from = part * 1024 + lane, to = cols < (part + 1) * 1024 ? cols : (part + 1) * 1024;\n",
        warps, rows_a_block, rows, cols);
    out += coordinates("row", 0, p_.kept, "  ") + bases(0, p_.kept, "  ");
    for (size_t k = 0; k < p_.leaves.size(); ++k)
      if (p_.leaves[k].row) out += load(int(k), leaf_offset(int(k), 0, p_.kept), "  ");
    for (int pass = 0; pass < passes_; ++pass) {
      out += accumulators(pass, "  ");
      out += "#pragma unroll 4\n  for (I col = from; col < to; col += 32) {\n" +
             coordinates("col", p_.kept, end, "    ") + element_of(pass, "    ", p_.kept, end, "if (live) ") + "  }\n";
      for (int i : reductions(pass)) out += across_warps(i, warps);
      for (int i = 0; i < nodes(); ++i)
        if (node(i).row && level_[static_cast<size_t>(i)] == pass + 1) {
          if (node(i).kind == Kind::reduce) out += reduced(i, fmt::format("z{}", i), "  ");
          else out += compute(i, "  ");
          if (const int o = node(i).output; o >= 0)
            out +=
                fmt::format("  if (live && lane == 0 && part == 0) a.q{}[{}] = {};\n", o, output_offset(o, 0, p_.kept),
                            stored(p_.outputs[static_cast<size_t>(o)].dtype, fmt::format("v{}", i)));
        }
    }
    return out + "}\n";
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

  // ---- wide and column modes: partials, then their joining
  std::string partial(int k, int i, const std::string& at) {
    return fmt::format("reinterpret_cast<{}*>(a.w + {})[0]", computed(node(i).compute),
                       fmt::format("({} * static_cast<int64_t>(a.region) + {}) * 8", k, at));
  }
  void workspace() { field("char* w", {CudaField::Kind::workspace}); }
  std::string store_reduced(int i, int from, int to, int after, const std::string& indent) {
    const int o = node(i).output;
    if (o < 0) return {};
    std::string at = output_offset(o, from, to);
    if (after < rank_) at += " + " + output_offset(o, after, rank_);
    return reduced(i, fmt::format("z{}", i), indent) +
           fmt::format("{}a.q{}[{}] = {};\n", indent, o, at,
                       stored(p_.outputs[static_cast<size_t>(o)].dtype, fmt::format("v{}", i)));
  }

  std::string wide_kernels() {
    workspace();
    const int end = p_.kept + p_.reduced;
    const std::string cols = number("cols", space_.cols), partials = number("partials", space_.partials);
    number("region", space_.rows * space_.partials);
    std::string out = head("island");
    out += fmt::format(
        "  const int lane = threadIdx.x % 32;\n  const I own = static_cast<I>(blockIdx.x) * {} + threadIdx.x / 32;\n"
        "  if (own >= static_cast<I>(a.region)) return;\n  const I row = own / {}, part = own % {}, cols = {};\n"
        "  const I from = part * {}, to = cols < from + {} ? cols : from + {};\n",
        cuda_threads / 32, partials, partials, cols, cuda_wide_chunk, cuda_wide_chunk, cuda_wide_chunk);
    out += coordinates("row", 0, p_.kept, "  ") + bases(0, p_.kept, "  ") + accumulators(0, "  ");
    out += "#pragma unroll 4\n  for (I col = from + lane; col < to; col += 32) {\n" +
           coordinates("col", p_.kept, end, "    ") + element_of(0, "    ", p_.kept, end, "") + "  }\n";
    const std::vector<int> all = reductions(0);
    for (size_t k = 0; k < all.size(); ++k)
      out += tree(all[k], "  ") + fmt::format("  if (lane == 0) {} = z{};\n", partial(int(k), all[k], "own"), all[k]);
    out += "}\n";
    for (size_t k = 0; k < all.size(); ++k) out = pairwise(all[k]) + out;
    out += head("finish") +
           "  extern __shared__ double shared[];\n  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;\n"
           "  const I row = blockIdx.x, partials = " +
           partials + ", blocks = (partials + 1023) / 1024;\n" + coordinates("row", 0, p_.kept, "  ");
    for (size_t k = 0; k < all.size(); ++k) {
      const int i = all[k];
      const std::string t = computed(node(i).compute);
      out += fmt::format(
          "  if (blockIdx.y == {0}) {{\n    {1}* m = reinterpret_cast<{1}*>(shared);\n"
          "    for (I block = warp; block < blocks; block += {2}) {{\n      {1} z{3} = {4};\n"
          "      const I to = partials < (block + 1) * 1024 ? partials : (block + 1) * 1024;\n"
          "      for (I at = block * 1024 + lane; at < to; at += 32) z{3} = {5};\n",
          k, t, cuda_threads / 32, i, identity(node(i)),
          join(node(i), fmt::format("z{}", i), partial(int(k), i, "row * static_cast<int64_t>(partials) + at")));
      out += tree(i, "      ") +
             fmt::format(
                 "      if (lane == 0) m[block] = z{0};\n    }}\n    __syncthreads();\n    if (threadIdx.x == 0) {{\n"
                 "      const {1} z{0} = pairwise{0}(m, blocks);\n",
                 i, t) +
             store_reduced(i, 0, p_.kept, rank_, "      ") + "    }\n  }\n";
    }
    return out + "}\n";
  }
  // Blocks joined as the CPU does: the first half of them, then the rest.
  std::string pairwise(int i) const {
    return fmt::format(
        "{0} pairwise{1}(const {0}* m, I n) {{\n  if (n <= 1) return m[0];\n"
        "  const {0} x = pairwise{1}(m, n / 2), y = pairwise{1}(m + n / 2, n - n / 2);\n  return {2};\n}}\n",
        computed(node(i).compute), i, join(node(i), "x", "y"));
  }

  std::string column_kernels() {
    const int end = p_.kept + p_.reduced;
    const bool single = space_.partials == 1;
    const std::vector<int> all = reductions(0);
    if (!single) workspace();
    const std::string reduced_n = number("reduced", space_.reduced), inner = number("inner", space_.inner);
    const std::string partials = number("partials", space_.partials),
                      kept = number("kept", space_.outer * space_.inner);
    number("region", space_.outer * space_.inner * space_.partials);
    const auto place = [&](const char* index) {
      return fmt::format("  const I in = {0} % {1}, outer = {0} / {1};\n", index, inner) +
             coordinates("outer", 0, p_.kept, "  ") + coordinates("in", end, rank_, "  ");
    };
    std::string out = head("island");
    out += fmt::format(
        "  const I own = static_cast<I>(global_thread());\n  if (own >= static_cast<I>(a.region)) return;\n"
        "  const I part = own / {0}, column = own % {0};\n",
        kept);
    out += place("column");
    for (size_t k = 0; k < p_.leaves.size(); ++k)
      out += fmt::format("  const I b{} = {} + {};\n", k, leaf_offset(int(k), 0, p_.kept),
                         leaf_offset(int(k), end, rank_));
    for (size_t o = 0; o < p_.outputs.size(); ++o)
      if (!p_.outputs[o].row)
        out += fmt::format("  const I e{} = {} + {};\n", o, output_offset(int(o), 0, p_.kept),
                           output_offset(int(o), end, rank_));
    out += accumulators(0, "  ");
    out += fmt::format("  const I from = part * {0}, to = {1} < from + {0} ? {1} : from + {0};\n#pragma unroll 8\n",
                       cuda_column_chunk, reduced_n) +
           "  for (I step = from; step < to; ++step) {\n" + coordinates("step", p_.kept, end, "    ") +
           element_of(0, "    ", p_.kept, end, "") + "  }\n";
    for (size_t k = 0; k < all.size(); ++k)
      out += single ? store_reduced(all[k], 0, p_.kept, end, "  ")
                    : fmt::format("  {} = z{};\n", partial(int(k), all[k], "own"), all[k]);
    out += "}\n";
    if (single) return out;
    out += head("finish") + "  const I column = static_cast<I>(global_thread());\n  if (column >= " + kept +
           ") return;\n" + place("column");
    for (size_t k = 0; k < all.size(); ++k) {
      const int i = all[k];
      out += fmt::format(
          "  if (blockIdx.y == {0}) {{\n    {1} z{2} = {3};\n#pragma unroll 8\n    for (I k = 1; k < {4}; ++k) z{2} = "
          "{5};\n",
          k, computed(node(i).compute), i, partial(int(k), i, "column"), partials,
          join(node(i), fmt::format("z{}", i), partial(int(k), i, "k * static_cast<int64_t>(" + kept + ") + column")));
      out += store_reduced(i, 0, p_.kept, end, "    ") + "  }\n";
    }
    return out + "}\n";
  }
};

}  // namespace

CudaSpace cuda_space(const Program& p) {
  CudaSpace s;
  const int rank = p.dims.rank();
  s.rows = product(p.dims, 0, p.kept);
  s.cols = product(p.dims, p.kept, rank);
  if (p.mode == Mode::wide) s.partials = (s.cols + cuda_wide_chunk - 1) / cuda_wide_chunk;
  if (p.mode == Mode::column) {
    s.outer = s.rows;
    s.reduced = product(p.dims, p.kept, p.kept + p.reduced);
    s.inner = product(p.dims, p.kept + p.reduced, rank);
    s.partials = (s.reduced + cuda_column_chunk - 1) / cuda_column_chunk;
  }
  return s;
}

int cuda_row_warps(const CudaSpace& s) { return s.cols <= 1024 ? 1 : s.cols <= 2048 ? 2 : 4; }

int cuda_vector_width(const Program& p) {
  if (p.has_reduce) return 1;
  size_t largest = 1;
  for (const NodeDesc& n : p.nodes)
    if (n.kind == NodeDesc::Kind::iota && !constant(n.iota_strides)) return 1;
  for (const LeafDesc& l : p.leaves) {
    if (constant(l.strides)) continue;
    if (!flat(p.dims, l.strides)) return 1;
    largest = std::max(largest, size_of(l.dtype));
  }
  for (const OutputDesc& o : p.outputs) {
    if (!flat(p.dims, o.strides)) return 1;
    largest = std::max(largest, size_of(o.dtype));
  }
  return static_cast<int>(std::clamp<size_t>(16 / largest, 2, 8));
}

CudaKernelText cuda_island_text(const Program& p, int width) { return Writer(p, width).run(); }

}  // namespace flame
