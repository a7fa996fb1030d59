// Internal: a program compiled for the CPU's block interpreter. Steps work on blocks of a few KB that stay in L1.
#pragma once
#include "flame/fuse/kernels.h"
#include "flame/fuse/program.h"

namespace flame {

// A 16-bit value lives in a float32 register, rounded after every op.
constexpr DType register_dtype(DType t) { return t == DType::f16 || t == DType::bf16 ? DType::f32 : t; }
inline bool is_16bit(DType t) { return t == DType::f16 || t == DType::bf16; }

constexpr int64_t column_block = 256;  // columns side by side in column mode

// Where a step finds a block: a register, or straight in a tensor's memory.
struct BlockSlot {
  enum class Kind : uint8_t { reg, leaf, output } kind = Kind::reg;
  int index = 0;     // of the leaf or output; of a register: its byte offset in the scratch
  bool row = false;  // one element a row
  uint8_t size = 4;  // bytes an element
};

struct Step {
  enum class Kind : uint8_t { load, iota, splat, exec, chain, dropout, round, reduce, accumulate, spread, store } kind;
  bool row = false;          // runs over rows instead of elements
  DType dtype = DType::f32;  // round: the 16-bit type; load, iota, store: the type in memory; exec: computed in
  Code code = Code::copy;    // exec: the op; copy: a cast
  unsigned same = 0;         // exec: inputs that are one number throughout, a bit each
  BlockFn fn = nullptr;      // exec; load, store: the cast, or null
  ReduceFn reduce_fn = nullptr;
  Reduce reduce{};
  int dst = -1, a = -1, b = -1, c = -1;  // slots
  int from = -1;  // leaf, output, node or scalar that a load, store, iota, dropout, splat or partial is about
  int from2 = -1;
  struct Link {
    Code code;
    bool same, swapped;
    int other;  // slot
  };
  ChainFn chain_fn = nullptr;
  std::vector<Link> links = {};  // chain: its ops, on the block `a`
};

struct Compiled {
  Program p;
  int64_t rows = 1, cols = 1;                 // the flat space; pointwise programs choose cols to suit their broadcasts
  int64_t tile_rows = 1;                      // rows a tile
  int64_t outer = 1, inner = 1, reduced = 1;  // column mode
  int64_t chunk = 1;                          // wide: elements; column: reduced steps a partial
  int64_t partials = 1;                       // a row
  std::vector<BlockSlot> slots;
  std::vector<Step> once, steps;  // once: loop-invariant blocks, filled at the start of a worker's share
  std::vector<int> reductions;    // nodes, in order (wide and column modes)
  std::vector<bool> flat_leaf, flat_output;
  bool streams = false;     // stores past the caches: a flat output is larger than they are
  bool prefetches = false;  // inputs are asked for ahead
  size_t scratch = 0;       // bytes a worker
};

// Whether the last `rank` dims lie in row-major order without gaps.
bool row_major(const Dims& dims, const Strides& strides, int rank);
Compiled compile_program(Program p);
// Neighbouring steps that each work on what the one before made, which nobody else reads, become one.
void join_chains(Compiled& c);
void run_program(const Compiled& c, const Run& run);
size_t partial_bytes(const Compiled& c);

}  // namespace flame
