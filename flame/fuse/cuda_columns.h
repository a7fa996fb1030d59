// Internal: text for the sums down columns of an island's group: of column mode, and of rows whose columns are summed as
// well. Each is added up in the order of program.h.
#pragma once
#include "flame/fuse/cuda_rows.h"

namespace flame::cuda_text {

class Columns : protected Rows {
 protected:
  Columns(const Program& p, int width) : Rows(p, width) {}

  // ---- partials, then their joining: wide mode's too
  std::string partial(int k, int i, const std::string& at) {
    return fmt::format("reinterpret_cast<{}*>(a.w + {} * static_cast<int64_t>(a.region) * 8)[{}]",
                       computed(node(i).compute), k, at);
  }
  void workspace() { field("char* w", {CudaField::Kind::workspace}); }
  // What stores reduction i, which is in z<i>, and what follows it.
  std::string store_reduced(int i, int from, int to, int after, const std::string& indent) {
    std::vector<bool> follows(p_.nodes.size());
    follows[static_cast<size_t>(i)] = true;
    std::string out = reduced(i, fmt::format("z{}", i), indent);
    for (int f = i; f < nodes(); ++f) {
      const NodeDesc& n = node(f);
      if (n.kind != Kind::reduce) {
        if (!std::ranges::any_of(
                n.in, [&](const Src& s) { return s.kind == Src::Kind::node && follows[static_cast<size_t>(s.index)]; }))
          continue;
        follows[static_cast<size_t>(f)] = true;
        out += compute(f, indent);
      } else if (f != i) {
        continue;
      }
      if (const int o = n.output; o >= 0) {
        std::string at = output_offset(o, from, to);
        if (after < rank_) at += " + " + output_offset(o, after, rank_);
        const std::string x =
            f == i ? stored(p_.outputs[static_cast<size_t>(o)].dtype, fmt::format("v{}", i)) : written(f);
        out += fmt::format("{}a.q{}[{}] = {};\n", indent, o, at, x);
      }
    }
    return out;
  }
  // The place of a thread among those that share columns: `deep` of them, the others side by side. None leaves early.
  std::string columns_of(const std::string& deep, const std::string& all) {
    return fmt::format(
        "  const I deep = {}, all = {}, width = static_cast<I>(blockDim.x) / deep;\n"
        "  const I side = static_cast<I>(threadIdx.x) % width, own_part = static_cast<I>(threadIdx.x) / width;\n"
        "  const I at = static_cast<I>(blockIdx.x) * width + side;\n  const bool live = at < all;\n"
        "  const I own = live ? at : all - 1;\n",
        deep, all);
  }
  // What a thread leaves in shared memory for those that join: the k-th of a few values.
  std::string left(size_t k, int i, const std::string& at) const {
    return fmt::format("reinterpret_cast<{}*>(left + {})[{}]", computed(node(i).compute), k * cuda_threads * 8, at);
  }
  // A thread a chunk, side by side down the columns; those of a part meet in shared memory. Several parts are finished by
  // a second kernel.
  std::string column_kernels() {
    constexpr size_t room = 16;  // sums whose values are in shared memory at a time
    const int end = p_.kept + p_.reduced;
    const bool single = space_.partials == 1;
    const std::vector<int> all = reductions(0);
    if (!single) workspace();
    const std::string reduced_n = number("reduced", space_.reduced), inner = number("inner", space_.inner),
                      kept = number("kept", space_.outer * space_.inner);
    number("region", space_.outer * space_.inner * space_.partials);
    std::string out = head("island");
    out += fmt::format("  __shared__ alignas(8) char left[{}];\n", std::min(room, all.size()) * cuda_threads * 8);
    out += columns_of(number("deep", space_.deep), "static_cast<I>(a.region)");
    out += fmt::format(
        "  const I part = own / {0}, column = own % {0}, first = part * {1} + own_part * {2};\n"
        "  const I to = !live ? first : {3} < first + {2} ? {3} : first + {2};\n",
        kept, column_part, column_chunk, reduced_n);
    out += fmt::format("  const I in = column % {0}, outer = column / {0};\n", inner) +
           place_of_column(p_.kept, end, "  ");
    for (size_t k = 0; k < p_.leaves.size(); ++k)
      out += row_pointer('b', in_memory(p_.leaves[k].dtype), int(k),
                         leaf_offset(int(k), 0, p_.kept) + " + " + leaf_offset(int(k), end, rank_), "  ");
    for (size_t o = 0; o < p_.outputs.size(); ++o)
      if (!p_.outputs[o].row)
        out += row_pointer('e', in_memory(p_.outputs[o].dtype), int(o),
                           output_offset(int(o), 0, p_.kept) + " + " + output_offset(int(o), end, rank_), "  ");
    out += accumulators(0, "  ") + drawn_in_columns("  ");
    out +=
        fmt::format("#pragma unroll {}\n  for (I step = first; step < to; ++step) {{\n", p_.leaves.size() > 2 ? 4 : 8) +
        coordinates("step", p_.kept, end, "    ") + element_of(0, "    ", p_.kept, end, "") + "  }\n";
    out += fmt::format("  const I chunks = ({} - part * {} + {}) / {};\n", reduced_n, column_part, column_chunk - 1,
                       column_chunk);
    for (size_t from = 0; from < all.size(); from += room) {
      const size_t until = std::min(from + room, all.size());
      if (from > 0) out += "  __syncthreads();\n";
      for (size_t k = from; k < until; ++k)
        out += fmt::format("  {} = z{};\n", left(k - from, all[k], "threadIdx.x"), all[k]);
      out += "  __syncthreads();\n  if (own_part == 0 && live) {\n";
      for (size_t k = from; k < until; ++k) {
        const std::string z = fmt::format("z{}", all[k]);
        out += fmt::format("#pragma unroll\n    for (I k = 1; k < {}; ++k)\n      if (k < chunks) {} = {};\n",
                           column_chunks, z, join(node(all[k]), z, left(k - from, all[k], "k * width + side"))) +
               (single ? store_reduced(all[k], 0, p_.kept, end, "    ")
                       : fmt::format("    {} = {};\n", partial(int(k), all[k], "own"), z));
      }
      out += "  }\n";
    }
    out += "}\n";
    if (single) return out;
    return out + finish_columns(all, end);
  }
  // c<i> of the kept dims, of which [0, outer) come before the summed ones and [inner, rank) after them.
  std::string place_of_column(int outer, int inner, const std::string& indent) {
    return coordinates("outer", 0, outer, indent) + coordinates("in", inner, rank_, indent);
  }
  // Of reduction i: column mode has one space for all.
  CudaSpace columns_of_sum(int i) const { return node(i).summed > 0 ? cuda_columns(p_, node(i).summed) : space_; }
  std::string of_sum(const char* what, int i, int64_t value) {
    return number(fmt::format("{}{}", what, node(i).summed), value);
  }
  // The parts of each column joined: groups side by side, then these in order.
  std::string finish_columns(const std::vector<int>& all, int inner) {
    std::string out = head("finish") + fmt::format("  __shared__ alignas(8) char left[{}];\n", cuda_threads * 8);
    for (size_t k = 0; k < all.size(); ++k) {
      const int i = all[k];
      const CudaSpace s = columns_of_sum(i);
      if (s.partials == 1) continue;
      const std::string z = fmt::format("z{}", i);
      const int outer = p_.kept - node(i).summed;
      out += fmt::format("  if (blockIdx.y == {}) {{\n", k) +
             columns_of(number("finish_deep", space_.finish_deep), of_sum("kept", i, s.outer * s.inner)) +
             fmt::format("  const I in = own % {0}, outer = own / {0}, partials = {1};\n",
                         number("inner", space_.inner), of_sum("partials", i, s.partials)) +
             place_of_column(outer, inner, "  ");
      out += fmt::format(
          "    {1} z{2} = {3};\n"
          "    for (I group = 0; group * {4} < partials; group += deep) {{\n"
          "      const I first = (group + own_part) * {4};\n      {1} x[{4}];\n"
          "#pragma unroll\n      for (I j = 0; j < {4}; ++j)\n        if (first + j < partials) x[j] = {5};\n"
          "#pragma unroll\n      for (I j = 1; j < {4}; ++j)\n        if (first + j < partials) x[0] = {6};\n"
          "      if (group > 0) __syncthreads();\n      if (first < partials) {7} = x[0];\n      __syncthreads();\n"
          "      for (I j = 0; own_part == 0 && j < deep && (group + j) * {4} < partials; ++j) {{\n"
          "        const {1} next = {8};\n        z{2} = group + j == 0 ? next : static_cast<{1}>({9});\n      }}\n"
          "    }}\n    if (own_part == 0 && live) {{\n",
          k, computed(node(i).compute), i, identity(node(i)), column_group,
          partial(int(k), i, "(first + j) * static_cast<int64_t>(all) + own"), join(node(i), "x[0]", "x[j]"),
          left(0, i, "threadIdx.x"), left(0, i, "j * width + side"), join(node(i), z, "next"));
      out += store_reduced(i, 0, outer, inner, "      ") + "    }\n  }\n";
    }
    return out + "}\n";
  }
  // copy_row(step): asks for the copies of a row.
  std::string row_copies() {
    std::string out = "  const auto copy_row = [&](I step) {\n    const I row = outer * summed + step;\n" +
                      coordinates("row", 0, p_.kept, "    ");
    for (size_t k = 0; k < p_.leaves.size(); ++k) {
      if (!copied(k)) continue;
      out +=
          row_pointer('b', in_memory(p_.leaves[k].dtype), int(k), leaf_offset(int(k), 0, p_.kept), "    ") +
          fmt::format(
              "#pragma unroll\n    for (int at = lane * {0}; at < {1}; at += {2})\n"
              "      copy16(copies + step % 2 * {3} + {4} + at, reinterpret_cast<const char*>(b{5}) + at, true);\n",
              cuda_copied, steps_ * 32 * size_of(p_.leaves[k].dtype), cuda_copied * 32, copied_bytes_, copies_[k], k);
    }
    return out + "  };\n";
  }
  // Rows whose columns are summed too: a warp takes the rows of a chunk, one after the other, with a column's value in a
  // register; the eight of a block, a part, meet in shared memory. Before, the warps' next rows arrive there.
  std::string summed_row_kernels() {
    constexpr int together = 8;  // values of a thread that go to shared memory at a time
    const bool finishes = space_.most_partials > 1;
    const std::vector<int> all = column_sums(-1);
    if (finishes) workspace();
    const std::string summed = number("reduced", space_.reduced), partials = number("partials", space_.partials);
    number("region", space_.outer * space_.inner * space_.partials);
    plan_registers(space_.cols, 1);
    const bool copies = copied_bytes_ > 0;
    shared_ = copies ? std::max(2 * copied_bytes_ * cuda_threads / 32, together * cuda_threads * 8) : 0;
    std::string out = head("island");
    out += fmt::format(
        "  {0}\n  constexpr int part = 0;\n  constexpr bool live = true;\n"
        "  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;\n"
        "  const I piece = static_cast<I>(blockIdx.x) % {1}, outer = static_cast<I>(blockIdx.x) / {1};\n"
        "  const I cols = {2}, from = lane, to = cols, summed = {3};\n"
        "  const I top = piece * {4} + warp * {5}, bottom = summed < top + {5} ? summed : top + {5};\n",
        copies ? "extern __shared__ __align__(16) char left[];"
               : fmt::format("__shared__ alignas(8) char left[{} * 8];", together * cuda_threads),
        partials, number("cols", space_.cols), summed, column_part, column_chunk);
    if (copies) out += fmt::format("  char* const copies = left + warp * {};\n", 2 * copied_bytes_) + row_copies();
    for (int i : all)
      out += fmt::format("  {0} s{1}[{2}];\n#pragma unroll\n  for (int j = 0; j < {2}; ++j) s{1}[j] = {3};\n",
                         computed(node(i).compute), i, steps_, identity(node(i)));
    if (copies) out += "  if (top < bottom) copy_row(top);\n  commit();\n";
    out += "  for (I step = top; step < bottom; ++step) {\n  const I row = outer * summed + step;\n";
    if (copies) out += "  if (step + 1 < bottom) copy_row(step + 1);\n  commit();\n  wait<1>();\n  __syncwarp();\n";
    out += row_body(1) + (copies ? "  __syncwarp();\n  }\n  __syncthreads();\n" : "  }\n") +
           fmt::format("  const I chunks = (summed - piece * {} + {}) / {};\n", column_part, column_chunk - 1,
                       column_chunk);
    for (size_t k = 0; k < all.size(); ++k)
      for (int base = 0; base < steps_; base += together) {
        const int i = all[k];
        const std::string z = fmt::format("z{}", i);
        out += fmt::format(
            "#pragma unroll\n  for (int j = 0; j < {0}; ++j) {1} = s{2}[{3} + j];\n  __syncthreads();\n"
            "  if (const I in = ({3} + warp) * 32 + lane; warp < {0} && in < cols) {{\n    {4} {5} = {6};\n"
            "#pragma unroll\n    for (int k = 1; k < {7}; ++k)\n      if (k < chunks) {5} = {8};\n",
            std::min(together, steps_ - base), left(0, i, "(j * 8 + warp) * 32 + lane"), i, base,
            computed(node(i).compute), z, left(0, i, "warp * 256 + lane"), column_chunks,
            join(node(i), z, left(0, i, "(warp * 8 + k) * 32 + lane")));
        const CudaSpace s = columns_of_sum(i);
        const std::string parts = of_sum("partials", i, s.partials);
        out += fmt::format(
            "    const I outer = static_cast<I>(blockIdx.x) / {0}, piece = static_cast<I>(blockIdx.x) % {0};\n", parts);
        if (s.partials == 1)
          out += place_of_column(p_.kept - node(i).summed, p_.kept, "    ") +
                 store_reduced(i, 0, p_.kept - node(i).summed, p_.kept, "    ");
        else
          out += fmt::format(
              "    {} = {};\n",
              partial(int(k), i,
                      "piece * static_cast<int64_t>(" + of_sum("kept", i, s.outer * s.inner) + ") + outer * cols + in"),
              z);
        out += "  }\n  __syncthreads();\n";
      }
    return out + "}\n" + (finishes ? finish_columns(all, p_.kept) : "");
  }
};

}  // namespace flame::cuda_text
