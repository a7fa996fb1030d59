// Turns a program into interpreter steps: tile shape, loop-invariant blocks, registers by last use.
#include <algorithm>
#include <bit>

#include "flame/fuse/interpreter.h"

namespace flame {

bool row_major(const Dims& dims, const Strides& st, int rank) {
  int64_t step = 1;
  for (int i = rank - 1; i >= 0; --i) {
    if (dims[i] != 1 && st[i] != step) return false;
    step *= dims[i];
  }
  return true;
}

namespace {

constexpr int64_t l1_bytes = 24 << 10;  // for the blocks of one tile: half or more of any L1 cache in use
constexpr int64_t wide_chunk = 1024;
constexpr int64_t prefetched_bytes = int64_t{16} << 20;  // of all blocks in memory; less finds its own way from a cache
constexpr int64_t streamed_bytes = int64_t{32} << 20;    // of an output that no cache would hold until it is read

int64_t product(const Dims& d, int from, int to) {
  int64_t n = 1;
  for (int i = from; i < to; ++i) n *= d[i];
  return n;
}
bool all_zero(const Strides& st, int from, int to) {
  for (int i = from; i < to; ++i)
    if (st[i] != 0) return false;
  return true;
}

class Compiler {
 public:
  explicit Compiler(Program p) { c_.p = std::move(p); }

  Compiled run() {
    shape_tiles();
    last_use_.assign(c_.p.nodes.size(), -1);
    for (size_t i = 0; i < c_.p.nodes.size(); ++i)
      for (const Src& s : c_.p.nodes[i].in)
        if (s.kind == Src::Kind::node) last_use_[static_cast<size_t>(s.index)] = static_cast<int>(i);
    for (const LeafDesc& l : c_.p.leaves) c_.flat_leaf.push_back(is_flat(l.strides, l.row));
    for (const OutputDesc& o : c_.p.outputs) c_.flat_output.push_back(is_flat(o.strides, o.row));
    for (size_t i = 0; i < c_.p.outputs.size(); ++i) c_.streams = c_.streams || streamed(static_cast<int>(i));
    c_.prefetches = bytes_in_memory() >= prefetched_bytes;
    leaf_slot_.assign(c_.p.leaves.size(), -1);
    scalar_slot_.assign(static_cast<size_t>(c_.p.scalars) * num_dtypes, -1);
    spread_slot_.assign(c_.p.nodes.size(), -1);
    node_slot_.assign(c_.p.nodes.size(), -1);
    for (size_t i = 0; i < c_.p.nodes.size(); ++i) node(static_cast<int>(i));
    join_chains(c_);
    place_registers();
    return std::move(c_);
  }

 private:
  Compiled c_;
  std::vector<int> last_use_, leaf_slot_, scalar_slot_, spread_slot_, node_slot_;
  struct Live {
    int slot, first, last;
    int64_t elements;
  };
  int64_t tile_ = 256;           // elements
  std::vector<Live> registers_;  // first == -1: lives throughout

  bool is_flat(const Strides& st, bool row) const {
    const Program& p = c_.p;
    if (row && p.mode == Mode::column) return true;  // outputs of reductions, stored at the end
    return row_major(p.dims, st, row ? p.kept : p.dims.rank());
  }

  int64_t bytes_in_memory() const {
    int64_t bytes = 0;
    for (const LeafDesc& l : c_.p.leaves) bytes += l.row ? 0 : static_cast<int64_t>(size_of(l.dtype));
    for (const OutputDesc& o : c_.p.outputs) bytes += o.row ? 0 : static_cast<int64_t>(size_of(o.dtype));
    return bytes * product(c_.p.dims, 0, c_.p.dims.rank());
  }
  bool streamed(int output) const {
    const OutputDesc& o = c_.p.outputs[static_cast<size_t>(output)];
    const int64_t bytes = product(c_.p.dims, 0, c_.p.dims.rank()) * static_cast<int64_t>(size_of(o.dtype));
    return !o.row && c_.flat_output[static_cast<size_t>(output)] && bytes >= streamed_bytes;
  }

  // The more blocks are live, the shorter they are: inputs, outputs and about three values in between.
  int64_t tile_length() const {
    const auto blocks = static_cast<int64_t>(c_.p.leaves.size() + c_.p.outputs.size() + 3);
    return static_cast<int64_t>(
        std::bit_floor(static_cast<uint64_t>(std::clamp<int64_t>(l1_bytes / 4 / blocks, 256, 1024))));
  }

  void shape_tiles() {
    Program& p = c_.p;
    tile_ = tile_length();
    const int rank = p.dims.rank();
    if (p.mode == Mode::column) {
      c_.outer = product(p.dims, 0, p.kept);
      c_.reduced = product(p.dims, p.kept, p.kept + p.reduced);
      c_.inner = product(p.dims, p.kept + p.reduced, rank);
      c_.chunk = column_part;
      c_.partials = (c_.reduced + c_.chunk - 1) / c_.chunk;
      c_.cols = std::min(c_.inner, column_block);
      c_.rows = c_.outer * c_.reduced;
      c_.tile_rows = c_.cols < c_.inner ? 1 : std::clamp<int64_t>(tile_ / std::max<int64_t>(c_.cols, 1), 1, c_.chunk);
      return;
    }
    c_.rows = product(p.dims, 0, p.kept);
    c_.cols = product(p.dims, p.kept, rank);
    if (!p.has_reduce) {  // let broadcast patterns repeat with the row
      int64_t period = 1;
      for (const LeafDesc& l : p.leaves) period = std::max(period, period_of(l.strides));
      for (const NodeDesc& n : p.nodes)
        if (n.kind == NodeDesc::Kind::iota) period = std::max(period, period_of(n.index_strides));
      c_.rows = c_.rows / std::max<int64_t>(period, 1);
      c_.cols = period;
    }
    if (p.mode == Mode::wide) {
      c_.chunk = wide_chunk;
      c_.partials = (c_.cols + c_.chunk - 1) / c_.chunk;
      c_.tile_rows = 1;
      return;
    }
    c_.tile_rows = std::max<int64_t>(1, tile_ / std::max<int64_t>(c_.cols, 1));
  }
  // The length after which a pattern repeats through the whole space, if it fits a tile; else 1.
  int64_t period_of(const Strides& st) const {
    const Dims& d = c_.p.dims;
    int i = 0;
    while (i < d.rank() && st[i] == 0) ++i;
    if (i == 0) return 1;
    const int64_t n = product(d, i, d.rank());
    return n <= tile_ ? std::max<int64_t>(n, 1) : 1;
  }
  int64_t tile_size() const {
    if (c_.p.mode == Mode::wide) return std::min(c_.chunk, std::max<int64_t>(c_.cols, 1));
    return std::max<int64_t>(c_.tile_rows * c_.cols, 1);
  }
  // Whether every tile of elements reads the same numbers (its prefix, in the last one).
  bool repeats(const Strides& st) const {
    const Program& p = c_.p;
    if (all_zero(st, 0, st.rank())) return true;
    if (p.mode != Mode::row) return false;
    int64_t tail = 1;
    int i = p.dims.rank();
    while (i > 0 && tail < c_.cols) tail *= p.dims[--i];
    return tail == c_.cols && all_zero(st, 0, i);
  }

  int slot(BlockSlot s) {
    c_.slots.push_back(s);
    return static_cast<int>(c_.slots.size()) - 1;
  }
  // A register that lives from node `first` to node `last`; first -1: throughout.
  int reg(DType t, bool row, int first, int last) {
    const int s = slot({BlockSlot::Kind::reg, 0, row, static_cast<uint8_t>(size_of(t))});
    const int64_t n = row && first >= 0 ? c_.tile_rows : std::max(tile_size(), c_.tile_rows);
    registers_.push_back({s, first, last, n * static_cast<int64_t>(size_of(t))});
    return s;
  }

  Step& emit(std::vector<Step>& to, Step::Kind kind, int dst, int a = -1) {
    Step s{};
    s.kind = kind;
    s.dst = dst;
    s.a = a;
    to.push_back(s);
    return to.back();
  }

  int scalar(int index, DType t) {
    int& known = scalar_slot_[static_cast<size_t>(index) * num_dtypes + static_cast<size_t>(t)];
    if (known < 0) {
      known = reg(t, false, -1, -1);
      Step& s = emit(c_.once, Step::Kind::splat, known);
      s.from = index;
      s.dtype = t;
    }
    return known;
  }

  // The block of a leaf, as elements or as rows, in its register dtype.
  int leaf(int index, int at) {
    int& known = leaf_slot_[static_cast<size_t>(index)];
    if (known >= 0) return known;
    const LeafDesc& l = c_.p.leaves[static_cast<size_t>(index)];
    const bool same = l.dtype == register_dtype(l.dtype);
    const bool constant = all_zero(l.strides, 0, l.strides.rank()) || (!l.row && repeats(l.strides));
    if (!constant && same && c_.flat_leaf[static_cast<size_t>(index)])
      return known = slot({BlockSlot::Kind::leaf, index, l.row, static_cast<uint8_t>(size_of(l.dtype))});
    int last = at;
    for (size_t i = static_cast<size_t>(at); i < c_.p.nodes.size(); ++i)
      for (const Src& s : c_.p.nodes[i].in)
        if (s.kind == Src::Kind::leaf && s.index == index) last = static_cast<int>(i);
    known = constant ? reg(register_dtype(l.dtype), false, -1, -1) : reg(register_dtype(l.dtype), l.row, at, last);
    Step& s = emit(constant ? c_.once : c_.steps, Step::Kind::load, known);
    s.row = l.row && !constant;
    s.from = index;
    s.dtype = l.dtype;
    s.fn = same ? nullptr : cast_kernel(l.dtype, DType::f32);
    return known;
  }

  // Whether every element of the input is the same number.
  bool one_number(const Src& s) const {
    if (s.kind == Src::Kind::leaf) {
      const Strides& st = c_.p.leaves[static_cast<size_t>(s.index)].strides;
      return all_zero(st, 0, st.rank());
    }
    return s.kind == Src::Kind::scalar;
  }

  bool is_row(const Src& s) const { return s.kind == Src::Kind::node && c_.p.nodes[static_cast<size_t>(s.index)].row; }
  // Whether `s`, one of two inputs of node n, is a value a row of which a tile sees one: the kernels read it as a number.
  bool row_is_number(const Src& s, const NodeDesc& n) const {
    if (!is_row(s) || n.row || c_.p.mode != Mode::row || c_.tile_rows != 1) return false;
    if (n.in[2].kind != Src::Kind::none || !is_float(n.compute)) return false;
    const Src& other = &s == &n.in[0] ? n.in[1] : n.in[0];
    return other.kind != Src::Kind::none && !is_row(other) && !one_number(other);
  }

  // The block that input k of node i reads.
  int source(int i, const Src& s, DType want) {
    const NodeDesc& n = c_.p.nodes[static_cast<size_t>(i)];
    if (s.kind == Src::Kind::scalar) return scalar(s.index, register_dtype(want));
    if (s.kind == Src::Kind::leaf) return leaf(s.index, i);
    const NodeDesc& from = c_.p.nodes[static_cast<size_t>(s.index)];
    const int have = node_slot_[static_cast<size_t>(s.index)];
    if (from.row == (n.row && n.kind != NodeDesc::Kind::reduce)) return have;
    if (n.kind == NodeDesc::Kind::pointwise && row_is_number(s, n)) {
      // A chain reads it again beside each of its stores, and it may end at any later node.
      extend(have, i, static_cast<int>(c_.p.nodes.size()));
      return have;
    }
    int& spread = spread_slot_[static_cast<size_t>(s.index)];
    if (spread < 0) {
      spread = reg(register_dtype(from.out), false, i, last_use_[static_cast<size_t>(s.index)]);
      emit(c_.steps, Step::Kind::spread, spread, have);
    }
    return spread;
  }

  // Where node i's result goes: straight into its output if that is flat and of the register's type.
  int destination(int i) {
    const NodeDesc& n = c_.p.nodes[static_cast<size_t>(i)];
    if (n.output >= 0 && c_.flat_output[static_cast<size_t>(n.output)] && n.out == register_dtype(n.out) &&
        !(n.row && c_.p.mode != Mode::row) && !streamed(n.output))
      return slot({BlockSlot::Kind::output, n.output, n.row, static_cast<uint8_t>(size_of(n.out))});
    return reg(register_dtype(n.out), n.row, i, std::max(i, last_use_[static_cast<size_t>(i)]));
  }

  void node(int i) {
    const NodeDesc& n = c_.p.nodes[static_cast<size_t>(i)];
    int& dst = node_slot_[static_cast<size_t>(i)];
    const DType from = register_dtype(n.compute), to = register_dtype(n.out);
    bool rounds = is_16bit(n.out);
    if (n.kind == NodeDesc::Kind::iota) {
      const int start = n.in[0].index, step = n.in[1].index;
      const bool constant = repeats(n.index_strides) && n.output < 0;
      dst = constant ? reg(to, false, -1, -1) : destination(i);
      Step& s = emit(constant ? c_.once : c_.steps, Step::Kind::iota, dst);
      s.row = n.row && !constant;
      s.dtype = n.out;
      s.from = start;
      s.from2 = step;
      s.a = i;
      rounds = false;  // the step does it
    } else if (n.kind == NodeDesc::Kind::dropout) {
      const int x = source(i, n.in[0], n.compute);
      dst = destination(i);
      Step& s = emit(c_.steps, Step::Kind::dropout, dst, x);
      s.row = n.row;
      s.dtype = to;
      s.from = i;
    } else if (n.kind == NodeDesc::Kind::reduce) {
      const int x = source(i, n.in[0], n.compute);
      if (c_.p.mode == Mode::row) {
        dst = destination(i);
        Step& s = emit(c_.steps, Step::Kind::reduce, dst, x);
        s.row = true;
        s.reduce = n.reduce;
        s.reduce_fn = row_reduce_kernel(n.reduce, from);
        s.dtype = from;
      } else {
        Step& s = emit(c_.steps, Step::Kind::accumulate, -1, x);
        s.reduce = n.reduce;
        s.dtype = from;
        s.reduce_fn = row_reduce_kernel(n.reduce, from);
        s.fn = combine_kernel(n.reduce, from);
        s.from = static_cast<int>(c_.reductions.size());
        s.b = slot({BlockSlot::Kind::reg, 0, false, static_cast<uint8_t>(size_of(from))});
        c_.reductions.push_back(i);
        return;
      }
    } else if (n.kind == NodeDesc::Kind::copy) {
      const int x = source(i, n.in[0], n.compute);
      rounds = rounds && n.compute != n.out && last_use_[static_cast<size_t>(i)] >= 0;  // storing it rounds as well
      if (from == to && !rounds) {
        dst = x;
        extend(x, i, last_use_[static_cast<size_t>(i)]);
      } else {
        dst = destination(i);
        Step& s = emit(c_.steps, Step::Kind::exec, dst, x);
        s.row = n.row;
        s.fn = cast_kernel(from, to);
      }
    } else {
      int in[3] = {-1, -1, -1};
      unsigned same = 0;
      for (int k = 0; k < 3; ++k)
        if (n.in[k].kind != Src::Kind::none) {
          if (one_number(n.in[k]) || row_is_number(n.in[k], n)) same |= 1u << k;
          in[k] = source(i, n.in[k], n.code == Code::where && k == 0 ? DType::boolean : n.compute);
        }
      dst = destination(i);
      Step& s = emit(c_.steps, Step::Kind::exec, dst, in[0]);
      s.b = in[1];
      s.c = in[2];
      s.row = n.row;
      s.fn = block_kernel(n.code, from, same);
      s.code = n.code;
      s.dtype = from;
      s.same = same;
    }
    if (rounds && last_use_[static_cast<size_t>(i)] >= 0) {
      Step& s = emit(c_.steps, Step::Kind::round, dst, dst);
      s.row = n.row;
      s.dtype = n.out;
    }
    store(i, dst);
  }

  void store(int i, int dst) {
    const NodeDesc& n = c_.p.nodes[static_cast<size_t>(i)];
    const BlockSlot& s = c_.slots[static_cast<size_t>(dst)];
    if (n.output < 0 || (s.kind == BlockSlot::Kind::output && s.index == n.output)) return;
    const DType from = register_dtype(n.out);
    Step& st = emit(c_.steps, Step::Kind::store, -1, dst);
    st.row = n.row;
    st.from = n.output;
    st.dtype = n.out;
    st.fn = from == n.out ? nullptr : cast_kernel(from, n.out);
    if (!c_.flat_output[static_cast<size_t>(n.output)] && st.fn) st.b = reg(n.out, n.row, i, i);
  }

  // An alias keeps the register of what it aliases alive.
  void extend(int s, int now, int until) {
    for (Live& r : registers_)
      if (r.slot == s && r.first >= 0) r.last = std::max({r.last, now, until});
  }

  // Byte offsets in the scratch: registers whose lives do not overlap share.
  void place_registers() {
    struct Space {
      int free_from;
      int64_t offset, bytes;
    };
    std::vector<Space> spaces;
    int64_t top = 0;
    const auto fresh = [&](int64_t bytes) {
      const int64_t at = top;
      top += (bytes + 63) / 64 * 64;
      return at;
    };
    std::stable_sort(registers_.begin(), registers_.end(),
                     [](const Live& a, const Live& b) { return a.first < b.first; });
    for (const Live& r : registers_) {
      BlockSlot& s = c_.slots[static_cast<size_t>(r.slot)];
      auto fit = spaces.end();
      if (r.first >= 0)
        fit = std::find_if(spaces.begin(), spaces.end(),
                           [&](const Space& f) { return f.free_from <= r.first && f.bytes >= r.elements; });
      if (fit == spaces.end()) {
        s.index = static_cast<int>(fresh(r.elements));
        if (r.first >= 0) spaces.push_back({r.last + 1, s.index, (r.elements + 63) / 64 * 64});
      } else {
        s.index = static_cast<int>(fit->offset);
        fit->free_from = r.last + 1;
      }
    }
    for (Step& s : c_.steps)  // accumulators of column mode: of a chunk, and of those before it
      if (s.kind == Step::Kind::accumulate)
        c_.slots[static_cast<size_t>(s.b)].index = static_cast<int>(fresh(2 * column_block * 8));
    c_.scratch = static_cast<size_t>(top);
  }
};

}  // namespace

Compiled compile_program(Program p) { return Compiler(std::move(p)).run(); }

size_t partial_bytes(const Compiled& c) {
  if (c.p.mode == Mode::row) return 0;
  const int64_t rows = c.p.mode == Mode::wide ? c.rows : c.outer * c.inner;
  return c.reductions.size() * static_cast<size_t>(rows * std::max<int64_t>(c.partials, 1)) * 8;
}

}  // namespace flame
