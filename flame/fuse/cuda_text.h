// Internal: the CUDA text of an island's group. The text is a function of its structure alone (ops, dtypes, which strides
// are zero, index width); sizes, strides and numbers are arguments, so that one kernel serves every size.
#pragma once
#include <string>
#include <vector>

#include "flame/fuse/program.h"

namespace flame {

// One 8-byte member of the kernels' argument struct, in order; a draw is the Dropped of fuse/draw.cuh.
struct CudaField {
  enum class Kind : uint8_t { leaf, output, workspace, number, scalar, draw } kind;
  int index = 0;      // of the leaf, output or scalar, or of a draw's first
  int64_t value = 0;  // of a number
};

struct CudaKernelText {
  std::string text;
  std::vector<CudaField> fields;
  std::vector<int> copied;  // leaves that must begin at multiples of cuda_copied bytes
  int shared = 0;           // dynamic bytes of "island"
};

// How a group is spread over threads; sizes, so no part of the text.
struct CudaSpace {
  int64_t rows = 1, cols = 1;                 // pointwise, row and wide modes
  int64_t outer = 1, reduced = 1, inner = 1;  // column mode, and rows whose columns are summed
  int64_t partials = 1;                       // a row (wide) or a column
  int64_t most_partials = 1;                  // of any of a row group's sums down columns
  int64_t deep = 1, finish_deep = 1;          // column mode: threads that share a part, and the parts of a column
};

constexpr int cuda_threads = 256;
constexpr int cuda_copied = 16;            // bytes of an asynchronous copy to shared memory
constexpr int64_t cuda_wide_chunk = 1024;  // the CPU's, so that sums have its order

CudaSpace cuda_space(const Program& p);
// Of sums down the last `summed` of a row group's kept dims.
CudaSpace cuda_columns(const Program& p, int summed);
// Elements a thread for a pointwise group whose tensors are all dense in one order; 1 where they are not.
int cuda_vector_width(const Program& p);
// Numbers that a row of wide mode leaves in the workspace: partials, and behind them, if they are more than 1,024, the
// joined blocks of them.
int64_t cuda_wide_partials(const CudaSpace& s);
// The axis along which some leaves of a pointwise group run while its outputs run along the last, or -1; and the blocks
// of its kernel, a tile of 32 by 32 each.
int cuda_tile_axis(const Program& p);
int64_t cuda_tiles(const Program& p, int axis);
// Whether a block takes a row of wide mode whole, with its partials in shared memory and no second launch.
constexpr int64_t cuda_most_shared_partials = 256;
bool cuda_block_rows(const Program& p, const CudaSpace& s);
// Warps that share a row in row mode, each with 1,024 columns: 1, 2 or 4.
int cuda_row_warps(const CudaSpace& s);
// Entries: "island"; in wide mode (but where a block takes a row), and in column mode with several partials, "finish" too; between them "join" where a
// wide row has more than 1,024 partials. `width`: elements a thread
// of a pointwise group, whose flat tensors must then be aligned to as many; cuda_copied, where rows whose columns are summed
// may be copied to shared memory; else 1.
CudaKernelText cuda_island_text(const Program& p, int width);

}  // namespace flame
