// Internal: text for the draws of an island's dropouts where warps share Philox blocks: see kept_by_warp in fuse/draw.cuh.
#pragma once
#include "flame/fuse/cuda_elements.h"

namespace flame::cuda_text {

class Draws : protected Elements {
 protected:
  Draws(const Program& p, int width) : Elements(p, width) {}

  // Whether the elements of a row have numbers that follow each other, from a multiple of 4 on.
  bool row_shares(const NodeDesc& n) const {
    const auto of_four = [](int64_t s) { return s % 4 == 0; };
    return n.kind == Kind::dropout && !n.row && p_.kept + 1 == rank_ && n.index_strides[p_.kept] == 1 &&
           std::all_of(n.index_strides.begin(), n.index_strides.begin() + p_.kept, of_four);
  }
  // g<i>: which of a thread's `steps` elements of a row, 32 apart, a dropout keeps. 0: they are not counted.
  std::string drawn_in_rows(int steps, const std::string& indent) {
    std::string out;
    for (int i = 0; i < nodes(); ++i) {
      if (!steps || !row_shares(node(i))) continue;
      out += fmt::format(
          "{0}const uint32_t g{1} = kept_by_warp<{2}>(a.r{1}, static_cast<U>({3} + from), static_cast<U>(32));\n",
          indent, i, steps, index_of(i, 0, p_.kept));
      keeps_[static_cast<size_t>(i)] = fmt::format("(g{} >> j & 1)", i);
    }
    return out;
  }
  // Whether the lanes of a warp stand at neighbouring columns of one row, whose numbers begin at a multiple of 4.
  bool columns_share(const NodeDesc& n) const {
    const auto of_four = [](int64_t s) { return s % 4 == 0; };
    return n.kind == Kind::dropout && p_.reduced == 1 && p_.kept + 2 == rank_ && p_.dims[rank_ - 1] % 32 == 0 &&
           n.index_strides[rank_ - 1] == 1 &&
           std::all_of(n.index_strides.begin(), n.index_strides.begin() + rank_ - 1, of_four);
  }
  // g<i>: which of the 32 elements from `first` on down a column a dropout keeps. For whole warps.
  std::string drawn_in_columns(const std::string& indent) {
    std::string out;
    for (int i = 0; i < nodes(); ++i) {
      if (!columns_share(node(i))) continue;
      const std::string step = number(fmt::format("k{}_{}", i, p_.kept), node(i).index_strides[p_.kept]);
      out += fmt::format(
          "{0}const uint32_t g{1} = kept_by_warp<32>(a.r{1}, static_cast<U>({2} + {3} + first * {4}), "
          "static_cast<U>({4}));\n",
          indent, i, index_of(i, 0, p_.kept), index_of(i, p_.kept + 1, rank_), step);
      keeps_[static_cast<size_t>(i)] = fmt::format("(g{} >> (step - first) & 1)", i);
    }
    return out;
  }
};

}  // namespace flame::cuda_text
