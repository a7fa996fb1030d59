// The CPU block interpreter: runs a compiled program tile by tile, tiles spread over threads.
// Results never depend on the number of threads: tiles and partials are cut by the sizes alone.
#include "flame/fuse/interpreter.h"

#include <algorithm>
#include <cstring>

#include "flame/device/cpu/parallel.h"
#include "flame/fuse/dropout_block.h"

namespace flame {

namespace {

// Walks elements [start, start + n) of a loop space; calls fn(offset, stride, count, done) a run along the last dim.
template <class F>
void for_runs(const int64_t* dims, const int64_t* strides, int rank, int64_t start, int64_t n, F&& fn) {
  if (n <= 0) return;
  if (rank == 0) return static_cast<void>(fn(int64_t{0}, int64_t{0}, n, int64_t{0}));
  int64_t at[max_rank];
  int64_t offset = 0;
  for (int i = rank - 1; i >= 0; --i) {
    at[i] = start % dims[i];
    start /= dims[i];
    offset += at[i] * strides[i];
  }
  const int last = rank - 1;
  for (int64_t done = 0; done < n;) {
    const int64_t count = std::min(n - done, dims[last] - at[last]);
    fn(offset, strides[last], count, done);
    done += count;
    at[last] += count;
    offset += count * strides[last];
    for (int i = last; i > 0 && at[i] == dims[i]; --i) {
      offset += strides[i - 1] - at[i] * strides[i];
      at[i] = 0;
      ++at[i - 1];
    }
  }
}

template <class T>
void gather_as(const char* base, const int64_t* dims, const int64_t* strides, int rank, int64_t start, int64_t n,
               void* dst) {
  T* out = static_cast<T*>(dst);
  const T* in = reinterpret_cast<const T*>(base);
  for_runs(dims, strides, rank, start, n, [&](int64_t offset, int64_t stride, int64_t count, int64_t done) {
    if (stride == 1) std::memcpy(out + done, in + offset, static_cast<size_t>(count) * sizeof(T));
    else if (stride == 0) std::fill_n(out + done, count, in[offset]);
    else
      for (int64_t i = 0; i < count; ++i) out[done + i] = in[offset + i * stride];
  });
}

template <class T>
void scatter_as(char* base, const int64_t* dims, const int64_t* strides, int rank, int64_t start, int64_t n,
                const void* src) {
  T* out = reinterpret_cast<T*>(base);
  const T* in = static_cast<const T*>(src);
  for_runs(dims, strides, rank, start, n, [&](int64_t offset, int64_t stride, int64_t count, int64_t done) {
    for (int64_t i = 0; i < count; ++i) out[offset + i * stride] = in[done + i];
  });
}

template <class F>
void by_size(size_t bytes, F&& fn) {
  if (bytes == 1) fn(uint8_t{});
  else if (bytes == 2) fn(uint16_t{});
  else if (bytes == 4) fn(uint32_t{});
  else fn(uint64_t{});
}

void splat(void* dst, DType t, Word w, int64_t n) {
  visit_dtype(t, [&](auto x) {
    using T = decltype(x);
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>)
      std::fill_n(static_cast<T*>(dst), n, static_cast<T>(w.f));
    else if constexpr (std::is_arithmetic_v<T>) std::fill_n(static_cast<T*>(dst), n, static_cast<T>(w.i));
  });
}

struct Tile {
  int64_t start, n, row0, rows;
};

class Worker {
 public:
  Worker(const Compiled& c, const Run& run)
      : c_(c), run_(run), leaves_(run.buffers), outputs_(run.buffers + c.p.leaves.size()) {
    thread_local std::vector<char> scratch;
    if (scratch.size() < c.scratch + 64) scratch.resize(c.scratch + 64);
    char* base = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
    at_.resize(c.slots.size());
    for (size_t i = 0; i < c.slots.size(); ++i)
      if (c.slots[i].kind == BlockSlot::Kind::reg) at_[i] = base + c.slots[i].index;
      else moving_.push_back(static_cast<int>(i));
    const int64_t whole = c.p.mode == Mode::wide ? std::min(c.chunk, c.cols) : c.tile_rows * c.cols;
    const int64_t total = c.p.mode == Mode::column ? c.outer * c.reduced * c.inner : c.rows * c.cols;
    const Tile first{0, std::min(whole, total), 0, std::min(c.tile_rows, std::max<int64_t>(c.rows, 0))};
    const Tile constant{0, std::min(std::max(whole, c.tile_rows), std::max(total, c.rows)), 0, 0};
    for (const Step& s : c.once) step(s, s.kind == Step::Kind::splat || constant_load(s) ? constant : first);
  }

  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() {
    if (c_.streams) stream_fence();
  }

  void tile(const Tile& t) {
    for (int i : moving_) {
      const BlockSlot& s = c_.slots[static_cast<size_t>(i)];
      char* base = static_cast<char*>((s.kind == BlockSlot::Kind::leaf ? leaves_ : outputs_)[s.index]);
      at_[static_cast<size_t>(i)] = base + (s.row ? t.row0 : t.start) * s.size;
    }
    const auto steps = static_cast<int64_t>(c_.steps.size());
    for (int64_t i = 0; i < steps; ++i) {
      if (c_.prefetches) prefetch(t, i, steps);
      step(c_.steps[static_cast<size_t>(i)], t);
    }
  }
  // What the `rows` rows of a part came to, for each column.
  const char* column_result(const Step& s, int64_t rows) const {
    char* acc = at(s.b);
    if (rows <= column_chunk) return acc;
    char* before = acc + column_block * 8;
    s.fn(before, acc, nullptr, before, column_width);
    return before;
  }
  void* partial = nullptr;  // wide: where this tile's results go, one region a reduction
  int64_t partial_stride = 0;
  int64_t column_row = 0, column_width = 0;  // column: the tile's first row in its part; its columns

 private:
  const Compiled& c_;
  const Run& run_;
  void* const* leaves_;
  void* const* outputs_;
  std::vector<char*> at_;
  std::vector<int> moving_;

  bool constant_load(const Step& s) const {
    if (s.kind != Step::Kind::load) return false;
    for (int64_t st : c_.p.leaves[static_cast<size_t>(s.from)].strides)
      if (st != 0) return false;
    return true;
  }
  // Asks for the inputs of four tiles ahead while this one is computed, a part a step, so that requests never queue up.
  // An address past the end is only a hint.
  void prefetch(const Tile& t, int64_t part, int64_t parts) const {
    for (int i : moving_) {
      const BlockSlot& s = c_.slots[static_cast<size_t>(i)];
      if (s.kind != BlockSlot::Kind::leaf || s.row) continue;
      const int64_t lines = (t.n * s.size + 63) / 64;
      const char* next = at_[static_cast<size_t>(i)] + 4 * t.n * s.size;
      for (int64_t b = lines * part / parts; b < lines * (part + 1) / parts; ++b) __builtin_prefetch(next + b * 64);
    }
  }
  char* at(int slot) const { return slot < 0 ? nullptr : at_[static_cast<size_t>(slot)]; }

  void step(const Step& s, const Tile& t) {
    const int64_t n = s.row ? t.rows : t.n;
    switch (s.kind) {
      case Step::Kind::exec: s.fn(at(s.a), at(s.b), at(s.c), at(s.dst), n); break;
      case Step::Kind::chain: chain(s, n); break;
      case Step::Kind::dropout: dropout(s, s.row ? t.row0 : t.start, n); break;
      case Step::Kind::round: round_block(s.dtype, reinterpret_cast<float*>(at(s.dst)), n); break;
      case Step::Kind::load: load(s, s.row ? t.row0 : t.start, n); break;
      case Step::Kind::iota: iota(s, s.row ? t.row0 : t.start, n); break;
      case Step::Kind::splat: splat(at(s.dst), s.dtype, run_.scalars[s.from], n); break;
      case Step::Kind::reduce: reduce(s, t); break;
      case Step::Kind::accumulate: accumulate(s, t); break;
      case Step::Kind::spread: spread(s, t); break;
      case Step::Kind::store: store(s, s.row ? t.row0 : t.start, n); break;
    }
  }

  void chain(const Step& s, int64_t n) {
    ChainOp ops[longest_chain];
    int count = 0;
    for (const Step::Link& l : s.links) ops[count++] = {l.code, l.same, l.swapped, at(l.other)};
    s.chain_fn(ops, count, at(s.a), at(s.dst), n);
  }

  void load(const Step& s, int64_t start, int64_t n) {
    const LeafDesc& l = c_.p.leaves[static_cast<size_t>(s.from)];
    const char* base = static_cast<const char*>(leaves_[s.from]);
    const int rank = l.row ? c_.p.kept : c_.p.dims.rank();
    void* dst = at(s.dst);
    if (s.fn && c_.flat_leaf[static_cast<size_t>(s.from)] && !constant_load(s)) {  // 16-bit, straight from memory
      s.fn(base + start * static_cast<int64_t>(size_of(l.dtype)), nullptr, nullptr, dst, n);
      return;
    }
    thread_local std::vector<uint16_t> halves;
    if (s.fn) halves.resize(static_cast<size_t>(n));
    char* raw = s.fn ? reinterpret_cast<char*>(halves.data()) : static_cast<char*>(dst);
    by_size(size_of(l.dtype), [&](auto x) {
      using T = decltype(x);
      if (constant_load(s)) std::fill_n(reinterpret_cast<T*>(raw), n, *reinterpret_cast<const T*>(base));
      else gather_as<T>(base, c_.p.dims.begin(), l.strides.begin(), rank, start, n, raw);
    });
    if (s.fn) s.fn(raw, nullptr, nullptr, dst, n);
  }

  void iota(const Step& s, int64_t start, int64_t n) {
    const NodeDesc& d = c_.p.nodes[static_cast<size_t>(s.a)];
    const Word from = run_.scalars[s.from], by = run_.scalars[s.from2];
    visit_dtype(register_dtype(s.dtype), [&](auto x) {
      using T = decltype(x);
      if constexpr (std::is_arithmetic_v<T>) {
        T* out = reinterpret_cast<T*>(at(s.dst));
        for_runs(c_.p.dims.begin(), d.index_strides.begin(), s.row ? c_.p.kept : c_.p.dims.rank(), start, n,
                 [&](int64_t offset, int64_t stride, int64_t count, int64_t done) {
                   for (int64_t i = 0; i < count; ++i) {
                     const int64_t k = offset + i * stride;
                     if constexpr (std::is_floating_point_v<T>)
                       out[done + i] = static_cast<T>(from.f + static_cast<double>(k) * by.f);
                     else out[done + i] = static_cast<T>(from.i + k * by.i);
                   }
                 });
      }
    });
    if (is_16bit(s.dtype)) round_block(s.dtype, reinterpret_cast<float*>(at(s.dst)), n);
  }

  void dropout(const Step& s, int64_t start, int64_t n) {
    const NodeDesc& d = c_.p.nodes[static_cast<size_t>(s.from)];
    const Word* words = run_.scalars + d.draw;
    const KeptWords kept{draw_numbers(words), static_cast<uint32_t>(words[3].u)};
    const int rank = s.row ? c_.p.kept : c_.p.dims.rank();
    const auto fill = [&](auto scale) {
      using T = decltype(scale);
      const T* x = reinterpret_cast<const T*>(at(s.a));
      T* out = reinterpret_cast<T*>(at(s.dst));
      if (row_major(c_.p.dims, d.index_strides, rank)) return drop_block(kept, start, 1, scale, x, out, n);
      for_runs(c_.p.dims.begin(), d.index_strides.begin(), rank, start, n,
               [&](int64_t index, int64_t stride, int64_t count, int64_t done) {
                 drop_block(kept, index, stride, scale, x + done, out + done, count);
               });
    };
    const double scale = run_.scalars[d.in[1].index].f;
    if (s.dtype == DType::f64) fill(scale);
    else fill(static_cast<float>(scale));
  }

  void reduce(const Step& s, const Tile& t) {
    const char* x = at(s.a);
    char* out = at(s.dst);
    const auto size = static_cast<int64_t>(size_of(s.dtype));
    const int64_t out_size = c_.slots[static_cast<size_t>(s.dst)].size;
    if (c_.cols == 0) return fill_identity(s.reduce, s.dtype, out, t.rows);
    for (int64_t i = 0; i < t.rows; ++i) s.reduce_fn(x + i * c_.cols * size, out + i * out_size, c_.cols);
  }

  void accumulate(const Step& s, const Tile& t) {
    const auto size = static_cast<int64_t>(size_of(s.dtype));
    if (c_.p.mode == Mode::wide) {
      s.reduce_fn(at(s.a), static_cast<char*>(partial) + s.from * partial_stride, t.n);
      return;
    }
    char* acc = at(s.b);
    const char* x = at(s.a);
    char* before = acc + column_block * 8;
    for (int64_t done = 0, row = column_row; done < t.n; done += column_width, ++row) {
      if (row % column_chunk == 0) {
        if (row == column_chunk) std::memcpy(before, acc, static_cast<size_t>(column_width * size));
        else if (row > 0) s.fn(before, acc, nullptr, before, column_width);
        fill_identity(s.reduce, s.dtype, acc, column_width);
      }
      s.fn(acc, x + done * size, nullptr, acc, column_width);
    }
  }

  void spread(const Step& s, const Tile& t) {
    by_size(c_.slots[static_cast<size_t>(s.a)].size, [&](auto x) {
      using T = decltype(x);
      const T* in = reinterpret_cast<const T*>(at(s.a));
      T* out = reinterpret_cast<T*>(at(s.dst));
      for (int64_t i = 0; i < t.rows; ++i) std::fill_n(out + i * c_.cols, c_.cols, in[i]);
    });
  }

  void store(const Step& s, int64_t start, int64_t n) {
    const OutputDesc& o = c_.p.outputs[static_cast<size_t>(s.from)];
    char* base = static_cast<char*>(outputs_[s.from]);
    const auto size = static_cast<int64_t>(size_of(o.dtype));
    const char* src = at(s.a);
    if (c_.flat_output[static_cast<size_t>(s.from)]) {
      if (s.fn) s.fn(src, nullptr, nullptr, base + start * size, n);
      else if (c_.streams) stream_block(src, base + start * size, static_cast<size_t>(n * size));
      else std::memcpy(base + start * size, src, static_cast<size_t>(n * size));
      return;
    }
    if (s.fn) {
      s.fn(src, nullptr, nullptr, at(s.b), n);
      src = at(s.b);
    }
    by_size(static_cast<size_t>(size), [&](auto x) {
      scatter_as<decltype(x)>(base, c_.p.dims.begin(), o.strides.begin(), o.row ? c_.p.kept : c_.p.dims.rank(), start,
                              n, src);
    });
  }
};

// Fewest items a thread should take: about 30 us of work.
int64_t grain_of(const Compiled& c, int64_t elements_an_item) {
  const int64_t work = std::max<int64_t>(elements_an_item, 1) * static_cast<int64_t>(c.steps.size() + 1);
  return std::max<int64_t>(1, 131072 / work);
}

void run_rows(const Compiled& c, const Run& run) {
  const int64_t tiles = (c.rows + c.tile_rows - 1) / c.tile_rows;
  if (c.cols == 0 && !c.p.has_reduce) return;
  parallel_for(tiles, grain_of(c, c.tile_rows * c.cols), [&](int64_t begin, int64_t end) {
    Worker w(c, run);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row0 = i * c.tile_rows, rows = std::min(c.tile_rows, c.rows - row0);
      w.tile({row0 * c.cols, rows * c.cols, row0, rows});
    }
  });
}

// The results of wide and column reductions: `values` has one a row, in loop order.
void store_rows(const Compiled& c, const Run& run, int reduction, const char* values, int64_t rows) {
  const NodeDesc& n = c.p.nodes[static_cast<size_t>(c.reductions[static_cast<size_t>(reduction)])];
  if (n.output < 0) return;
  const OutputDesc& o = c.p.outputs[static_cast<size_t>(n.output)];
  Dims dims, strides;
  for (int i = 0; i < c.p.dims.rank(); ++i)
    if (i < c.p.kept || i >= c.p.kept + c.p.reduced) {
      dims.push_back(c.p.dims[i]);
      strides.push_back(o.strides[i]);
    }
  const DType from = n.reduce == Reduce::any || n.reduce == Reduce::all ? DType::boolean : register_dtype(n.out);
  std::vector<char> cast;
  if (from != o.dtype) {
    cast.resize(static_cast<size_t>(rows) * size_of(o.dtype));
    cast_kernel(from, o.dtype)(values, nullptr, nullptr, cast.data(), rows);
    values = cast.data();
  }
  by_size(size_of(o.dtype), [&](auto x) {
    scatter_as<decltype(x)>(static_cast<char*>(run.buffers[c.p.leaves.size() + static_cast<size_t>(n.output)]),
                            dims.begin(), strides.begin(), dims.rank(), 0, rows, values);
  });
}

void run_wide(const Compiled& c, const Run& run) {
  const int64_t region = c.rows * c.partials * 8;
  char* partials = static_cast<char*>(run.workspace);
  parallel_for(c.rows * c.partials, grain_of(c, c.chunk), [&](int64_t begin, int64_t end) {
    Worker w(c, run);
    w.partial_stride = region;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / c.partials, k = i % c.partials;
      w.partial = partials + i * 8;
      w.tile({row * c.cols + k * c.chunk, std::min(c.chunk, c.cols - k * c.chunk), row, 1});
    }
  });
  std::vector<char> dense(static_cast<size_t>(c.partials) * 8), values(static_cast<size_t>(c.rows) * 8);
  for (size_t r = 0; r < c.reductions.size(); ++r) {
    const NodeDesc& n = c.p.nodes[static_cast<size_t>(c.reductions[r])];
    const DType t = register_dtype(n.compute);
    const size_t size = size_of(t);
    const ReduceFn fn = row_reduce_kernel(n.reduce, t);
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t k = 0; k < c.partials; ++k)
        std::memcpy(dense.data() + static_cast<size_t>(k) * size,
                    partials + static_cast<int64_t>(r) * region + (row * c.partials + k) * 8, size);
      fn(dense.data(), values.data() + static_cast<size_t>(row) * size, c.partials);
    }
    store_rows(c, run, static_cast<int>(r), values.data(), c.rows);
  }
}

void run_column(const Compiled& c, const Run& run) {
  const int64_t blocks = (c.inner + c.cols - 1) / c.cols, kept = c.outer * c.inner;
  const int64_t region = c.partials * kept * 8;
  char* partials = static_cast<char*>(run.workspace);
  parallel_for(c.outer * blocks * c.partials, grain_of(c, std::min(c.chunk, c.reduced) * c.cols),
               [&](int64_t begin, int64_t end) {
                 Worker w(c, run);
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t part = i % c.partials, block = i / c.partials % blocks,
                                 outer = i / c.partials / blocks;
                   const int64_t from = part * c.chunk, to = std::min(from + c.chunk, c.reduced);
                   w.column_width = std::min(c.cols, c.inner - block * c.cols);
                   for (int64_t r = from; r < to; r += c.tile_rows) {
                     const int64_t rows = std::min(c.tile_rows, to - r);
                     w.column_row = r - from;
                     w.tile({(outer * c.reduced + r) * c.inner + block * c.cols, rows * w.column_width, 0, rows});
                   }
                   for (const Step& s : c.steps)
                     if (s.kind == Step::Kind::accumulate) {
                       const size_t size = size_of(s.dtype);
                       std::memcpy(partials + s.from * region +
                                       (part * kept + outer * c.inner + block * c.cols) * static_cast<int64_t>(size),
                                   w.column_result(s, to - from), static_cast<size_t>(w.column_width) * size);
                     }
                 }
               });
  for (size_t r = 0; r < c.reductions.size(); ++r) {
    const NodeDesc& n = c.p.nodes[static_cast<size_t>(c.reductions[r])];
    const DType t = register_dtype(n.compute);
    char* total = partials + static_cast<int64_t>(r) * region;
    const BlockFn combine = combine_kernel(n.reduce, t);
    const auto part = [&](int64_t k) { return total + k * kept * static_cast<int64_t>(size_of(t)); };
    for (int64_t first = 0; first < c.partials; first += column_group) {
      const int64_t end = std::min(first + column_group, c.partials);
      for (int64_t k = first + 1; k < end; ++k) combine(part(first), part(k), nullptr, part(first), kept);
      if (first > 0) combine(total, part(first), nullptr, total, kept);
    }
    store_rows(c, run, static_cast<int>(r), total, kept);
  }
}

}  // namespace

void run_program(const Compiled& c, const Run& run) {
  if (c.p.mode == Mode::row) run_rows(c, run);
  else if (c.p.mode == Mode::wide) run_wide(c, run);
  else run_column(c, run);
}

}  // namespace flame
