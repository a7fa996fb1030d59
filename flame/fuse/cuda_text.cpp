// Writes CUDA text for islands: pointwise groups, sums of long rows and of columns. Sums are added up in the CPU's order.
#include "flame/fuse/cuda_text.h"

#include "flame/fuse/cuda_columns.h"

namespace flame {
namespace {
using namespace cuda_text;

// Whether each pack of a row's elements meets neighbours in this leaf, or one element.
bool along_rows(const Dims& dims, const LeafDesc& l, int64_t width) {
  const int last = dims.rank() - 1;
  if (last < 1 || dims[last] % width != 0 || l.strides[last] < 0 || l.strides[last] > 1) return false;
  if (l.strides[last] == 0) return true;
  return std::all_of(l.strides.begin(), l.strides.end() - 1, [&](int64_t s) { return s % width == 0; });
}
bool crosses(const LeafDesc& l, int axis) { return l.strides[axis] == 1 && std::abs(l.strides.back()) > 1; }

class Writer : Columns {
 public:
  Writer(const Program& p, int width) : Columns(p, width) {}

  CudaKernelText run() {
    wide_index_ = needs_wide_index();
    for (size_t i = 0; i < p_.leaves.size(); ++i)
      field(fmt::format("const {}* p{}", in_memory(p_.leaves[i].dtype), i), {CudaField::Kind::leaf, int(i)});
    for (size_t i = 0; i < p_.outputs.size(); ++i)
      field(fmt::format("{}* q{}", in_memory(p_.outputs[i].dtype), i), {CudaField::Kind::output, int(i)});
    for (int i = 0; i < nodes(); ++i) scalar_fields(i);
    find_levels();
    std::string kernels;
    if (p_.mode == Mode::column) kernels = column_kernels();
    else if (p_.mode == Mode::wide) kernels = wide_kernels();
    else if (p_.summed > 0) kernels = summed_row_kernels();
    else if (p_.has_reduce) kernels = row_kernel();
    else if (const int axis = cuda_tile_axis(p_); axis >= 0) kernels = tile_kernel(axis);
    else kernels = width_ > 1 ? vector_kernel() : element_kernel();
    CudaKernelText out;
    out.text = "#include \"flame/fuse/device.cuh\"\n#include \"flame/fuse/device_math.cuh\"\n";
    if (special_) out.text += "#include \"flame/fuse/scalar_special.h\"\n";
    if (std::ranges::count(p_.nodes, Kind::dropout, &NodeDesc::kind) > 0)
      out.text += "#include \"flame/fuse/draw.cuh\"\n";
    if (shared_ > 0) out.text += "#include \"flame/fuse/tensor_cores.cuh\"\n";
    out.text += "namespace flame {\nusing namespace kernels;\nusing I = ";
    out.text += wide_index_ ? "int64_t;\nusing U = int64_t;\n" : "int32_t;\nusing U = uint32_t;\n";
    out.text += "struct A {\n" + members_ + "};\n" + functions_ + kernels + "}  // namespace flame\n";
    out.fields = std::move(fields_);
    out.shared = shared_;
    for (size_t k = 0; k < p_.leaves.size(); ++k)
      if (copied(k)) out.copied.push_back(int(k));
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
        body += fmt::format("  a.q{}[{}] = {};\n", o, output_offset(o, 0, rank_), written(i));
    return head("island") +
           fmt::format("  const I at = static_cast<I>(global_thread());\n  if (at >= {}) return;\n", n) + body + "}\n";
  }
  std::string vector_kernel() {
    const std::string n = number("n", product(p_.dims, 0, rank_));
    std::string packs, in_pack, alone, both, places, stores;
    for (size_t k = 0; k < p_.leaves.size(); ++k) {
      const LeafDesc& l = p_.leaves[k];
      if (constant(l.strides)) {
        both += load(int(k), "0", "  ");
        continue;
      }
      const bool rows = !flat(p_.dims, l.strides);
      const std::string where = rows ? leaf_offset(int(k), 0, rank_) : "at";
      if (rows) places = coordinates("static_cast<I>(at)", 0, rank_, "  ");
      if (rows && l.strides[rank_ - 1] == 0) {
        packs += load(int(k), where, "    ");
        continue;
      }
      packs += fmt::format("    const auto x{0} = *reinterpret_cast<const Pack<{1}, {2}>*>(a.p{0} + ({3}));\n", k,
                           in_memory(l.dtype), width_, where);
      in_pack += fmt::format("      const {} l{} = widen(x{}.v[j]);\n", computed(l.dtype), k, k);
      alone += load(int(k), "at", "      ");
    }
    std::string in_alone, nodes_text;
    for (int i = 0; i < nodes(); ++i) {
      keeps_[static_cast<size_t>(i)] = fmt::format("kept(a.r{}, at)", i);
      in_alone += compute(i, "      ");
      if (node(i).kind == Kind::dropout) {
        packs += fmt::format("    const auto w{0} = words_of<{1}>(a.r{0}, at);\n", i, width_);
        keeps_[static_cast<size_t>(i)] = fmt::format("keeps(a.r{0}, w{0}.v[j])", i);
      }
      nodes_text += compute(i, "      ");
    }
    std::string out_pack, out_alone;
    for (int i = 0; i < nodes(); ++i)
      if (const int o = node(i).output; o >= 0) {
        const DType t = p_.outputs[static_cast<size_t>(o)].dtype;
        const std::string v = written(i);
        packs += fmt::format("    Pack<{}, {}> y{};\n", in_memory(t), width_, o);
        out_pack += fmt::format("      y{}.v[j] = {};\n", o, v);
        out_alone += fmt::format("      a.q{}[at] = {};\n", o, v);
        stores += fmt::format("    *reinterpret_cast<Pack<{0}, {1}>*>(a.q{2} + at) = y{2};\n", in_memory(t), width_, o);
      }
    const std::string rest =  // where rows are whole packs, nothing is left
        places.empty()
            ? fmt::format("else {{\n    for (; at < n; ++at) {{\n{}{}{}    }}\n  }}\n", alone, in_alone, out_alone)
            : "\n";
    return head("island") +
           fmt::format(
               "  int64_t at = global_thread() * {0};\n  const int64_t n = a.n;\n  if (at >= n) return;\n{1}{7}"
               "  if (at + {0} <= n) {{\n{2}#pragma unroll\n    for (int j = 0; j < {0}; ++j) {{\n{3}{4}{5}    }}\n{6}"
               "  }} {8}}}\n",
               width_, both, packs, in_pack, nodes_text, out_pack, stores, places, rest);
  }
  // Some leaves run along `axis` where the outputs run along the last: their elements go by tiles of 32 by 32 through
  // shared memory, so that both sides are whole lines.
  std::string tile_kernel(int axis) {
    const int last = rank_ - 1;
    const std::string across = dim(last), down = dim(axis);
    std::string other, at, shared, loads, direct, nodes_text, stores;
    for (int i = last - 1; i >= 0; --i) {
      if (i == axis) continue;
      other += fmt::format("  const I c{0} = tile % {1};\n  tile /= {1};\n", i, dim(i));
    }
    for (size_t k = 0; k < p_.leaves.size(); ++k) {
      const LeafDesc& l = p_.leaves[k];
      const std::string offset = leaf_offset(int(k), 0, rank_);
      if (!crosses(l, axis)) {
        direct += load(int(k), offset, "      ");
        continue;
      }
      shared += fmt::format("  __shared__ {} s{}[32][33];\n", in_memory(l.dtype), k);
      loads += fmt::format("      s{0}[line + k][lane] = a.p{0}[{1}];\n", k, offset);
      direct += fmt::format("      const {} l{} = widen(s{}[lane][line + k]);\n", computed(l.dtype), k, k);
    }
    for (int i = 0; i < nodes(); ++i) nodes_text += compute(i, "      ");
    for (int i = 0; i < nodes(); ++i)
      if (const int o = node(i).output; o >= 0)
        stores += fmt::format("      a.q{}[{}] = {};\n", o, output_offset(o, 0, rank_), written(i));
    const auto walk = [&](int fast, const std::string& of_fast, const char* first_fast, int slow,
                          const std::string& of_slow, const char* first_slow, const std::string& body) {
      return fmt::format(
          "#pragma unroll\n  for (int k = 0; k < 32; k += 8) {{\n    const I c{0} = {2} + lane, c{1} = {3} + line + "
          "k;\n    if (c{0} < {4} && c{1} < {5}) {{\n{6}    }}\n  }}\n",
          fast, slow, first_fast, first_slow, of_fast, of_slow, body);
    };
    return head("island") + shared +
           fmt::format(
               "  const int lane = threadIdx.x % 32, line = threadIdx.x / 32;\n  I tile = static_cast<I>(blockIdx.x);\n"
               "  const I right = ({0} + 31) / 32, below = ({1} + 31) / 32;\n"
               "  const I left = tile % right * 32;\n  tile /= right;\n"
               "  const I top = tile % below * 32;\n  tile /= below;\n",
               across, down) +
           other + walk(axis, down, "top", last, across, "left", loads) + "  __syncthreads();\n" +
           walk(last, across, "left", axis, down, "top", direct + nodes_text + stores) + "}\n";
  }

  // ---- wide mode
  // A block a row: its warps take the chunks in turn and leave what each comes to in shared memory.
  std::string block_row_kernel() {
    const int end = p_.kept + p_.reduced;
    const std::string cols = number("cols", space_.cols), partials = number("partials", space_.partials);
    plan_registers(space_.cols, 1);
    const std::vector<int> all = reductions(0);
    std::string out = head("island");
    for (int i : all)
      out += fmt::format("  __shared__ {} m{}[{}];\n", computed(node(i).compute), i, cuda_most_shared_partials);
    out += fmt::format(
               "  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;\n  const I row = blockIdx.x, cols = {}, "
               "count = {};\n",
               cols, partials) +
           coordinates("row", 0, p_.kept, "  ");
    out += fmt::format(
        "  for (I part = warp; part < count; part += {0}) {{\n"
        "  const I from = part * {1} + lane, to = cols < (part + 1) * {1} ? cols : (part + 1) * {1};\n",
        cuda_threads / 32, cuda_wide_chunk);
    out += bases(0, p_.kept, "  ") + fill_registers(p_.kept, end) + drawn_in_rows(steps_, "  ") +
           accumulators(0, "  ") +
           loop(coordinates("col", p_.kept, end, "    ") +
                element_of(0, "    ", p_.kept, end, steps_ ? "if (inside) " : ""));
    for (int i : all) out += tree(i, "  ") + fmt::format("  if (lane == 0) m{0}[part] = z{0};\n", i);
    out += "  }\n  __syncthreads();\n";
    for (size_t k = 0; k < all.size(); ++k)
      out += fmt::format("  if (warp == {}) {{\n", k % (cuda_threads / 32)) +
             join_block(all[k], fmt::format("m{}[at]", all[k]), "    ") + "    if (lane == 0) {\n" +
             store_reduced(all[k], 0, p_.kept, rank_, "      ") + "    }\n  }\n";
    return out + "}\n";
  }
  std::string wide_kernels() {
    if (cuda_block_rows(p_, space_)) return block_row_kernel();
    workspace();
    const int end = p_.kept + p_.reduced;
    const std::string cols = number("cols", space_.cols), partials = number("partials", space_.partials),
                      rows = number("rows", space_.rows);
    number("region", space_.rows * cuda_wide_partials(space_));
    plan_registers(space_.cols, 1);
    std::string out = head("island");
    out += fmt::format(
        "  const int lane = threadIdx.x % 32;\n  const I own = static_cast<I>(blockIdx.x) * {0} + threadIdx.x / 32;\n"
        "  if (own >= {1} * {2}) return;\n  const I row = own / {2}, part = own % {2}, cols = {3};\n"
        "  const I from = part * {4} + lane, to = cols < (part + 1) * {4} ? cols : (part + 1) * {4};\n",
        cuda_threads / 32, rows, partials, cols, cuda_wide_chunk);
    out += coordinates("row", 0, p_.kept, "  ") + bases(0, p_.kept, "  ") + fill_registers(p_.kept, end) +
           drawn_in_rows(steps_, "  ") + accumulators(0, "  ");
    out += loop(coordinates("col", p_.kept, end, "    ") +
                element_of(0, "    ", p_.kept, end, steps_ ? "if (inside) " : ""));
    const std::vector<int> all = reductions(0);
    for (size_t k = 0; k < all.size(); ++k)
      out += tree(all[k], "  ") + fmt::format("  if (lane == 0) {} = z{};\n", partial(int(k), all[k], "own"), all[k]);
    return out + "}\n" + (space_.partials > cuda_wide_chunk ? long_finish(all) : short_finish(all));
  }
  // `count` partials, of which `element` is that at `at`, joined by the warp of which this is a lane: z<i>, right in lane 0.
  std::string join_block(int i, const std::string& element, const std::string& indent) {
    return fmt::format("{0}{1} z{2} = {3};\n{0}for (I at = lane; at < count; at += 32) z{2} = {4};\n", indent,
                       computed(node(i).compute), i, identity(node(i)), join(node(i), fmt::format("z{}", i), element)) +
           tree(i, indent);
  }
  // A warp a row of at most 1,024 partials.
  std::string short_finish(const std::vector<int>& all) {
    std::string out = head("finish") +
                      fmt::format(
                          "  const int lane = threadIdx.x % 32;\n"
                          "  const I row = static_cast<I>(blockIdx.x) * {} + threadIdx.x / 32, count = {};\n"
                          "  if (row >= {}) return;\n",
                          cuda_threads / 32, number("partials", 0), number("rows", 0)) +
                      coordinates("row", 0, p_.kept, "  ");
    for (size_t k = 0; k < all.size(); ++k)
      out += fmt::format("  if (blockIdx.y == {}) {{\n", k) +
             join_block(all[k], partial(int(k), all[k], "row * static_cast<int64_t>(count) + at"), "    ") +
             "    if (lane == 0) {\n" + store_reduced(all[k], 0, p_.kept, rank_, "      ") + "    }\n  }\n";
    return out + "}\n";
  }
  // Blocks of 1,024 partials become one number each, behind the partials; then a block a row joins these as the CPU does.
  std::string long_finish(const std::vector<int>& all) {
    const std::string partials = number("partials", 0), rows = number("rows", 0);
    std::string out =
        head("join") + fmt::format(
                           "  const int lane = threadIdx.x % 32;\n  const I partials = {0}, blocks = (partials "
                           "+ 1023) / 1024;\n  const I own = static_cast<I>(blockIdx.x) * {1} + threadIdx.x / "
                           "32;\n  if (own >= {2} * blocks) return;\n  const I row = own / blocks, block = own "
                           "% blocks;\n  const I count = partials - block * 1024 < 1024 ? partials - block * "
                           "1024 : 1024;\n",
                           partials, cuda_threads / 32, rows);
    const std::string behind = rows + " * static_cast<int64_t>(partials)";
    for (size_t k = 0; k < all.size(); ++k)
      out += fmt::format("  if (blockIdx.y == {}) {{\n", k) +
             join_block(all[k], partial(int(k), all[k], "row * static_cast<int64_t>(partials) + block * 1024 + at"),
                        "    ") +
             fmt::format("    if (lane == 0) {} = z{};\n  }}\n", partial(int(k), all[k], behind + " + own"), all[k]);
    out += "}\n";
    for (const int i : all) out += pairwise(i);
    out += head("finish") + "  const I row = blockIdx.x, partials = " + partials +
           ", blocks = (partials + 1023) / 1024;\n" + coordinates("row", 0, p_.kept, "  ");
    for (size_t k = 0; k < all.size(); ++k) {
      const int i = all[k];
      out +=
          fmt::format(
              "  if (blockIdx.y == {0}) {{\n    const {1} z{2} = joined{2}(&{3}, blocks);\n    if (threadIdx.x == "
              "0) {{\n",
              k, computed(node(i).compute), i, partial(int(k), i, behind + " + row * static_cast<int64_t>(blocks)")) +
          store_reduced(i, 0, p_.kept, rank_, "      ") + "    }\n  }\n";
    }
    return out + "}\n";
  }
  // Blocks joined as the CPU does: the first half of them, then the rest. Each thread takes a part of the tree eight
  // levels down, and neighbours are joined on the way up.
  std::string pairwise(int i) const {
    return fmt::format(
        "{0} pairwise{1}(const {0}* m, I n) {{\n  if (n <= 1) return m[0];\n"
        "  const {0} x = pairwise{1}(m, n / 2), y = pairwise{1}(m + n / 2, n - n / 2);\n  return {2};\n}}\n"
        "{0} joined{1}(const {0}* m, I n) {{\n  __shared__ {0} part[256];\n  __shared__ bool filled[256];\n"
        "  const int own = threadIdx.x;\n"
        "  for (int bit = 128; bit > 0; bit /= 2) {{\n    const I half = n / 2;\n"
        "    if (own & bit) {{\n      m += half;\n      n -= half;\n    }} else {{\n      n = half;\n    }}\n  }}\n"
        "  filled[own] = n > 0;\n  if (n > 0) part[own] = pairwise{1}(m, n);\n"
        "  for (int by = 1; by < 256; by *= 2) {{\n    __syncthreads();\n"
        "    if (own % (2 * by) != 0 || !filled[own + by]) continue;\n    const {0} x = part[own], y = part[own + "
        "by];\n"
        "    part[own] = filled[own] ? static_cast<{0}>({2}) : y;\n    filled[own] = true;\n  }}\n"
        "  __syncthreads();\n  return part[0];\n}}\n",
        computed(node(i).compute), i, join(node(i), "x", "y"));
  }
};

}  // namespace

CudaSpace cuda_columns(const Program& p, int summed) {
  CudaSpace s;
  s.outer = product(p.dims, 0, p.kept - summed);
  s.reduced = product(p.dims, p.kept - summed, p.kept);
  s.inner = product(p.dims, p.kept, p.dims.rank());
  s.partials = (s.reduced + column_part - 1) / column_part;
  return s;
}
CudaSpace cuda_space(const Program& p) {
  const auto threads = [](int64_t n, int64_t each) {
    return std::min<int64_t>(column_chunks, std::bit_ceil(static_cast<uint64_t>((n + each - 1) / each)));
  };
  CudaSpace s;
  const int rank = p.dims.rank();
  if (p.summed > 0) s = cuda_columns(p, p.summed);
  s.rows = product(p.dims, 0, p.kept);
  s.cols = product(p.dims, p.kept, rank);
  if (p.mode == Mode::wide) s.partials = (s.cols + cuda_wide_chunk - 1) / cuda_wide_chunk;
  if (p.mode == Mode::column) {
    s.outer = s.rows;
    s.reduced = product(p.dims, p.kept, p.kept + p.reduced);
    s.inner = product(p.dims, p.kept + p.reduced, rank);
    s.partials = (s.reduced + column_part - 1) / column_part;
    s.deep = threads(s.reduced, column_chunk);
  }
  s.most_partials = s.partials;
  for (const NodeDesc& n : p.nodes)
    if (n.summed > 0) s.most_partials = std::max(s.most_partials, cuda_columns(p, n.summed).partials);
  s.finish_deep = threads(s.most_partials, column_group);
  return s;
}

bool cuda_block_rows(const Program& p, const CudaSpace& s) {
  constexpr int64_t least = 1024, most = 8;  // rows that fill a GPU; reductions that shared memory has room for
  const auto reductions = std::ranges::count(p.nodes, NodeDesc::Kind::reduce, &NodeDesc::kind);
  return p.mode == Mode::wide && s.rows >= least && s.partials <= cuda_most_shared_partials && reductions <= most;
}
int64_t cuda_wide_partials(const CudaSpace& s) {
  return s.partials + (s.partials > cuda_wide_chunk ? (s.partials + cuda_wide_chunk - 1) / cuda_wide_chunk : 0);
}
int cuda_row_warps(const CudaSpace& s) { return s.cols <= 1024 ? 1 : s.cols <= 2048 ? 2 : 4; }

int cuda_vector_width(const Program& p) {
  if (p.has_reduce) return 1;
  size_t largest = 1;
  for (const NodeDesc& n : p.nodes)
    if (n.kind == NodeDesc::Kind::dropout ? !flat(p.dims, n.index_strides)
                                          : n.kind == NodeDesc::Kind::iota && !constant(n.index_strides))
      return 1;
  for (const LeafDesc& l : p.leaves) {
    if (!constant(l.strides)) largest = std::max(largest, size_of(l.dtype));
  }
  for (const OutputDesc& o : p.outputs) {
    if (!flat(p.dims, o.strides)) return 1;
    largest = std::max(largest, size_of(o.dtype));
  }
  const auto width = static_cast<int>(std::clamp<size_t>(16 / largest, 2, 8));
  for (const LeafDesc& l : p.leaves)
    if (!constant(l.strides) && !flat(p.dims, l.strides) && !along_rows(p.dims, l, width)) return 1;
  return width;
}

int cuda_tile_axis(const Program& p) {
  constexpr int64_t least = 16;  // elements along both axes
  const int last = p.dims.rank() - 1;
  if (p.has_reduce || last < 1 || p.dims[last] < least) return -1;
  for (const OutputDesc& o : p.outputs)
    if (o.strides[last] != 1) return -1;
  for (const LeafDesc& l : p.leaves)
    for (int axis = 0; axis < last; ++axis)
      if (p.dims[axis] >= least && crosses(l, axis)) return axis;
  return -1;
}
int64_t cuda_tiles(const Program& p, int axis) {
  const int last = p.dims.rank() - 1;
  return product(p.dims, 0, last) / p.dims[axis] * ((p.dims[axis] + 31) / 32) * ((p.dims[last] + 31) / 32);
}

CudaKernelText cuda_island_text(const Program& p, int width) { return Writer(p, width).run(); }

}  // namespace flame
