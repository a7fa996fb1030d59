// What the kernels that normalise rows share. Rows lie in one or several pieces. A row of up to 16,384 elements stays in
// the registers of its warp or block; longer ones are a block's each, or are cut into chunks with sums of every chunk
// first. Each order follows from shapes alone. FLAME_T, FLAME_W: dtypes of x and of the weights; FLAME_PACK: elements an
// access; FLAME_THREADS: of a row or chunk; FLAME_PER: packs a thread; FLAME_ROWS: rows a block; FLAME_G, if defined: the gradient's dtype, with FLAME_EACH and form 0; FLAME_EACH: a weight an element; FLAME_PLUS: dx is added to what has arrived; FLAME_RMS: no mean; FLAME_FORM: 0 whole rows in registers, 1 rows in
// chunks, 2 a long row a block; FLAME_PIECES: rows of several pieces; FLAME_ALIGNED: all begin at multiples of 16 bytes.
#pragma once
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using W = FLAME_W;
using C = computed<T>;
#ifdef FLAME_G
using G = FLAME_G;
#else
using G = T;
#endif
constexpr int pack = FLAME_PACK, threads = FLAME_THREADS, per = FLAME_PER, block_rows = FLAME_ROWS;
constexpr bool each = FLAME_EACH, rms = FLAME_RMS, plus = FLAME_PLUS, chunked = FLAME_FORM == 1, aligned = FLAME_ALIGNED,
               pieces = FLAME_PIECES;
constexpr int elements_a_chunk = threads * per * pack;
using X = Pack<T, pack>;
using XG = Pack<G, pack>;

struct Norm {
  int64_t rows, length, period, per_row, segment;
  int64_t row_stride, piece, piece_stride;  // element e of row r: r * row_stride + e / piece * piece_stride + e % piece
  int64_t span, spans, chunks;              // chunked: parts of a row with one weight, chunks of each
  double eps, part;                         // part: 1 / length
};
inline int64_t place(const Norm& n, int64_t row, int e) {
  const int64_t base = row * n.row_stride;
  if constexpr (!pieces) return base + e;
  const uint32_t at = static_cast<uint32_t>(e), size = static_cast<uint32_t>(n.piece);
  return base + at / size * n.piece_stride + at % size;
}
// A pack by one access, or element by element: the order of all sums is the same. `once`: the caches need not keep it.
template <class P, bool once = false, class U>
P pack_at(const U* x) {
  if constexpr (aligned && sizeof(P) == 16)
    return std::bit_cast<P>(once ? __ldcs(reinterpret_cast<const uint4*>(x))
                                 : __ldg(reinterpret_cast<const uint4*>(x)));
  else if constexpr (aligned) return *reinterpret_cast<const P*>(x);
  P out;
  for (int j = 0; j < pack; ++j) out.v[j] = x[j];
  return out;
}
inline void store(T* to, const X& x) {
  if constexpr (aligned) *reinterpret_cast<X*>(to) = x;
  else
    for (int j = 0; j < pack; ++j) to[j] = x.v[j];
}
inline void store_once(T* to, const X& x) {
  if constexpr (aligned && sizeof(X) == 16) __stcs(reinterpret_cast<uint4*>(to), std::bit_cast<uint4>(x));
  else store(to, x);
}
inline int64_t first_weight(const Norm& n, int64_t row) {
  if (n.period == 1) return 0;
  return static_cast<uint32_t>(row) % static_cast<uint32_t>(n.period) * n.per_row;
}
// Weights of the pack at element e, from the row's first one; `other` where there are none. `span`: of a chunk.
inline void weights_of(const Norm& n, const W* w, int64_t first, int e, int span, C other, C (&out)[pack]) {
  if (!w) {
    for (int j = 0; j < pack; ++j) out[j] = other;
  } else if constexpr (each) {
    const auto own = pack_at<Pack<W, pack>>(w + first + e);
    for (int j = 0; j < pack; ++j) out[j] = static_cast<C>(widen(own.v[j]));
  } else {
    const int64_t k = chunked ? span : static_cast<uint32_t>(e) / static_cast<uint32_t>(n.segment);
    const C own = static_cast<C>(widen(w[first + k]));
    for (int j = 0; j < pack; ++j) out[j] = own;
  }
}

// Waits for the threads of this row.
inline void sync_row() {
  if constexpr (block_rows > 1) __barrier_sync_count(1 + threadIdx.x / threads, threads);
  else __syncthreads();
}
// Numbers of a row's threads become their sums, in every thread.
template <int n>
void totals(C (&v)[n]) {
#pragma unroll
  for (int by = 16; by > 0; by /= 2)
    for (int k = 0; k < n; ++k) v[k] += __shfl_xor_sync(0xffffffffu, v[k], by);
  if constexpr (threads > 32) {
    __shared__ C parts[block_rows][n][threads / 32];
    C(&all)[n][threads / 32] = parts[threadIdx.x / threads];
    sync_row();
    if (threadIdx.x % 32 == 0)
      for (int k = 0; k < n; ++k) all[k][threadIdx.x % threads / 32] = v[k];
    sync_row();
    for (int k = 0; k < n; ++k) {
      v[k] = all[k][0];
      for (int i = 1; i < threads / 32; ++i) v[k] += all[k][i];
    }
  }
}

// The elements of a row, or of a chunk of one, that a thread holds.
struct Part {
  int64_t row;
  int begin, end, span, own;
  int at(int k) const { return begin + (k * threads + own) * pack; }
  template <class F>
  void packs(const F& fn) const {  // fn(k, element) for those inside
#pragma unroll
    for (int k = 0; k < per; ++k)
      if (at(k) < end) fn(k, at(k));
  }
  template <class U>
  void load(const Norm& n, const U* x, Pack<U, pack> (&v)[per]) const {
#pragma unroll
    for (int k = 0; k < per; ++k)
      if (at(k) < end) v[k] = pack_at<Pack<U, pack>>(x + place(n, row, at(k)));
  }
};
inline Part row_part(const Norm& n, int64_t row) {
  return {row, 0, static_cast<int>(n.length), 0, static_cast<int>(threadIdx.x) % threads};
}
inline Part chunk_part(const Norm& n, int64_t index) {
  const uint32_t all = static_cast<uint32_t>(n.spans * n.chunks), chunks = static_cast<uint32_t>(n.chunks);
  const uint32_t row = static_cast<uint32_t>(index) / all, chunk = static_cast<uint32_t>(index) - row * all;
  const uint32_t span = chunk / chunks;
  const int64_t start = span * n.span, begin = start + (chunk - span * chunks) * static_cast<int64_t>(elements_a_chunk);
  const int64_t end = begin + elements_a_chunk, last = start + n.span;
  return {row, static_cast<int>(begin), static_cast<int>(end < last ? end : last), static_cast<int>(span),
          static_cast<int>(threadIdx.x)};
}

inline C scale_of(const Norm& n, C var) { return C(1) / std::sqrt(var + static_cast<C>(n.eps)); }

// The quotient of a place in a row of at most 2^19 elements, by a multiplication.
struct Quotient {
  float inverse;
  explicit Quotient(int64_t by) : inverse(1.0f / static_cast<float>(by)) {}
  int operator()(int e) const { return static_cast<int>((static_cast<float>(e) + 0.5f) * inverse); }
};
// As `place`, in a long row.
struct Places {
  const Norm& n;
  const int64_t first;
  const int size;
  const Quotient of_piece;
  Places(const Norm& n, int64_t row)
      : n(n), first(row * n.row_stride), size(static_cast<int>(n.piece)), of_piece(n.piece) {}
  int64_t operator()(int e) const {
    if constexpr (!pieces) return first + e;
    const int k = of_piece(e);
    return first + k * n.piece_stride + (e - k * size);
  }
};

// A row's weights where it has one alone.
struct Single {
  C by = 1, plus = 0;
  Single(const Norm& n, const W* w, const W* b, int64_t first) {
    if (n.per_row != 1) return;
    if (w) by = static_cast<C>(widen(w[first]));
    if (b) plus = static_cast<C>(widen(b[first]));
  }
};

#if FLAME_FORM == 2
extern __shared__ uint4 room[];
#endif

}  // namespace flame
