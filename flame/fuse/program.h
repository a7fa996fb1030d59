// Internal: one group of an island, as a device sees it: a loop space, leaves, nodes, outputs. No sizes of blocks, no pointers.
#pragma once
#include <vector>

#include "flame/fuse/island.h"

namespace flame {

// The loop space in order, slowest first: pointwise and row groups are [kept][reduced]; column groups are
// [kept outer][reduced][kept inner].
enum class Mode : uint8_t {
  row,     // whole rows fit a tile: reductions and what follows from them stay in it
  wide,    // long rows: chunks are reduced to partials, nothing follows
  column,  // the fastest axis is kept: accumulators run down the reduced axes, nothing follows
};
constexpr int64_t widest_row = 4096;         // elements of a row in Mode::row
constexpr int64_t widest_summed_row = 1024;  // where columns are summed as well

// The order of sums down columns, the same on every device: the rows of a chunk one after the other, then likewise the
// chunks of a part, the parts of a group, and the groups.
constexpr int64_t column_chunk = 32, column_chunks = 8, column_part = column_chunk * column_chunks, column_group = 32;

struct Src {
  enum class Kind : uint8_t { none, node, leaf, scalar } kind = Kind::none;
  int index = 0;
};
struct LeafDesc {
  DType dtype;
  Strides strides;  // over the loop dims; of a row leaf: over the kept ones
  bool row;         // one value a row
};
struct NodeDesc {
  enum class Kind : uint8_t { pointwise, reduce, iota, dropout, copy } kind = Kind::pointwise;
  Code code{};
  Reduce reduce{};
  DType compute{}, out{};
  bool row = false;  // one value a row: a reduction or what is computed from it
  // A reduction of a row group down this many of its kept dims, the last ones, or what follows it; `row` is set as well.
  int summed = 0;
  Src in[3];
  Strides index_strides;  // iota: 1 along the axis counted, 0 elsewhere; dropout: of the element's number in C order
  int draw = -1;          // dropout: the first of draw_words scalars
  int output = -1;        // index among the outputs, or not written
};
constexpr int draw_words = 4;  // a Draw's, and the last word of 32 bits that keeps an element
struct OutputDesc {
  DType dtype;
  Strides strides;  // as for leaves
  bool row;
};
struct Program {
  Mode mode = Mode::row;
  Dims dims;        // loop dims
  int kept = 0;     // row, wide: dims [0, kept) are kept; column: the outer kept ones
  int reduced = 0;  // dims [kept, kept + reduced) are reduced; column: the rest is inner
  int summed = 0;   // row: the least that a node has, not counting 0; nothing else follows those sums
  bool has_reduce = false;
  std::vector<LeafDesc> leaves;
  std::vector<NodeDesc> nodes;  // inputs come before their readers
  std::vector<OutputDesc> outputs;
  int scalars = 0;
  int ops = 0;  // pointwise ops, casts and reductions; fills and copies are not counted
};

Ref<Plan> prepare_cpu_program(Program p);
Ref<Plan> prepare_cuda_program(Program p, Device& d);

}  // namespace flame
