// Adafactor over a table of tensors. Lines are rows of matrices, or parts of vectors; every sum of a line or a column is
// taken in one order, which sizes decide. FLAME_P, FLAME_G: dtypes of parameter and gradient; FLAME_C: computed in, and
// the moments' dtype; FLAME_ITEMS: of a table; FLAME_S, if defined: the dtype of the shadows that parameters may have.
#include "flame/fuse/device.cuh"

namespace flame {
using P = FLAME_P;
using G = FLAME_G;
using C = FLAME_C;
constexpr int64_t part = 4096, band = 128;  // elements of a vector's line, rows of a column's partial sum

struct Item {
  P* p;
  const G* g;
  C* m[2];  // second moments of rows and columns; of a vector: of its elements
  void* s;  // the parameter in 16 bits, or null
  int64_t vector, rows, columns, matrices;
  int64_t first_line, lines;  // of all tensors'
  int64_t first_tile, bands;  // blocks of 256 columns of a band each
  int64_t sums, roots, factor;  // places in the workspace: [matrices][bands][columns], [matrices][columns], the rate
  int64_t dense, rank, shape[8], strides[8];
  const double* skip;  // null, or NaN there skips the step
  const double* from;  // where the numbers are, if not here
  double numbers[10];

  double k(int i) const { return from ? from[i] : numbers[i]; }
  bool skips() const { return skip && *skip != *skip; }

  double eps1() const {
    if (k(5) == k(5)) return k(5);
    return sizeof(C) == 8 ? 2.220446049250313e-16 : 1.1920928955078125e-07;
  }
  int64_t place(int64_t at) const {  // of the row-major element `at`
    if (dense) return at;
    int64_t out = 0;
    each_axis(at, rank, shape, [&](int i, int64_t k) { out += k * strides[i]; });
    return out;
  }
};
struct Items {
  int64_t count;
  Item item[FLAME_ITEMS];
};
template <int64_t Item::*first>
const Item& own_item(const Items& all) {
  int64_t low = 0, high = all.count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (all.item[middle].*first <= blockIdx.x) low = middle;
    else high = middle - 1;
  }
  return all.item[low];
}
// The block's sum, in every thread.
inline double total(double v) {
  __shared__ double all[8];
  for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(0xffffffffu, v, by);
  __syncthreads();
  if (threadIdx.x % 32 == 0) all[threadIdx.x / 32] = v;
  __syncthreads();
  v = all[0];
  for (int i = 1; i < 8; ++i) v += all[i];
  return v;
}
struct Line {
  int64_t begin, count, row;
};
inline Line own_line(const Item& t) {
  const int64_t line = blockIdx.x - t.first_line;
  if (!t.vector) return {line * t.columns, t.columns, line};
  const int64_t left = t.columns - line * part;
  return {line * part, left < part ? left : part, 0};
}
inline C capped(C x, C cap) { return x > cap ? cap : x; }
inline C root_of(C v, C cap) { return capped(C(1) / std::sqrt(v), cap); }

// Moments of rows and of vectors' elements; a line's squares of the parameter and, in vectors, of the update.
extern "C" __global__ void __launch_bounds__(256) lines(const __grid_constant__ Items all, double* work) {
  const Item& t = own_item<&Item::first_line>(all);
  if (t.skips()) return;
  const Line l = own_line(t);
  const C cap = static_cast<C>(1 / t.eps1()), weight = static_cast<C>(t.k(3)), rest = C(1) - weight;
  const bool scaled = t.k(8) != 0, near_new = t.k(3) >= 0.5;
  double parameters = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < l.count; i += 256) {
    const int64_t at = t.place(l.begin + i);
    const C g = widen(t.g[at]), square = g * g;
    if (scaled) {
      const C p = widen(t.p[at]);
      parameters += p * p;
    }
    if (t.vector) {
      C& v = t.m[0][l.begin + i];
      const C change = square - v;
      v = near_new ? square - change * rest : v + weight * change;
      const C u = root_of(v, cap) * g;
      squares += u * u;
    } else {
      squares += square;
    }
  }
  parameters = total(parameters);
  squares = total(squares);
  if (threadIdx.x > 0) return;
  work[2 * static_cast<int64_t>(blockIdx.x)] = parameters;
  work[2 * static_cast<int64_t>(blockIdx.x) + 1] = squares;
  if (t.vector) return;
  const double before = t.m[0][l.row], mean = squares / static_cast<double>(t.columns);
  t.m[0][l.row] = static_cast<C>(before + t.k(3) * (mean - before));
}
// Sums of g^2 down the rows of a band.
extern "C" __global__ void __launch_bounds__(256) columns(const __grid_constant__ Items all, double* work) {
  const Item& t = own_item<&Item::first_tile>(all);
  if (t.skips()) return;
  const int64_t tiles = (t.columns + 255) / 256, tile = blockIdx.x - t.first_tile;
  const int64_t column = tile % tiles * 256 + threadIdx.x, line = tile / tiles;  // line: matrix and band
  if (column >= t.columns) return;
  const int64_t begin = line % t.bands * band, end = begin + band < t.rows ? begin + band : t.rows;
  const int64_t matrix = line / t.bands * t.rows;
  double sum = 0;
#pragma unroll 4
  for (int64_t r = begin; r < end; ++r) {
    const C g = widen(t.g[t.place((matrix + r) * t.columns + column)]);
    sum += g * g;
  }
  work[t.sums + line * t.columns + column] = sum;
}
// Second moments of columns, and 1 / the roots of their factors: a block for 256 columns of a matrix.
extern "C" __global__ void __launch_bounds__(256) roots(const __grid_constant__ Items all, double* work) {
  const Item& t = own_item<&Item::first_tile>(all);
  if (t.skips()) return;
  const int64_t tiles = (t.columns + 255) / 256, tile = blockIdx.x - t.first_tile, line = tile / tiles;
  if (line % t.bands != 0) return;  // the whole block
  const int64_t matrix = line / t.bands, column = tile % tiles * 256 + threadIdx.x;
  double rows = 0;
  for (int64_t r = threadIdx.x; r < t.rows; r += 256) rows += t.m[0][matrix * t.rows + r];
  rows = total(rows) / static_cast<double>(t.rows);
  const double scale = rows > t.eps1() ? rows : t.eps1();
  if (column >= t.columns) return;
  double sum = 0;
  for (int64_t b = 0; b < t.bands; ++b) sum += work[t.sums + (line + b) * t.columns + column];
  const int64_t at = matrix * t.columns + column;
  const double before = t.m[1][at], now = before + t.k(3) * (sum / static_cast<double>(t.rows) - before);
  t.m[1][at] = static_cast<C>(now);
  work[t.roots + at] = static_cast<C>(1 / ::sqrt(now / scale));
}
// The factors of a row's update.
inline C factor_of(const Item& t, const Line& l, const double* roots, C row, int64_t i, C cap) {
  return t.vector ? root_of(t.m[0][l.begin + i], cap) : capped(row * static_cast<C>(roots[i]), cap);
}
inline const double* roots_of(const Item& t, const Line& l, const double* work) {
  return work + t.roots + l.row / t.rows * t.columns;
}
inline C row_factor(const Item& t, const Line& l) {
  return t.vector ? C(0) : static_cast<C>(1 / ::sqrt(static_cast<double>(t.m[0][l.row])));
}
extern "C" __global__ void __launch_bounds__(256) sizes(const __grid_constant__ Items all, double* work) {
  const Item& t = own_item<&Item::first_line>(all);
  if (t.skips()) return;
  if (t.vector) return;
  const Line l = own_line(t);
  const C cap = static_cast<C>(1 / t.eps1()), row = row_factor(t, l);
  const double* roots = roots_of(t, l, work);
  double squares = 0;
  for (int64_t i = threadIdx.x; i < l.count; i += 256) {
    const C u = widen(t.g[t.place(l.begin + i)]) * factor_of(t, l, roots, row, i, cap);
    squares += u * u;
  }
  squares = total(squares);
  if (threadIdx.x == 0) work[2 * static_cast<int64_t>(blockIdx.x) + 1] = squares;
}
// A block a tensor.
extern "C" __global__ void __launch_bounds__(256) rates(const __grid_constant__ Items all, double* work) {
  const Item& t = all.item[blockIdx.x];
  if (t.skips()) return;
  double parameters = 0, updates = 0;
  for (int64_t i = threadIdx.x; i < t.lines; i += 256) {
    parameters += work[2 * (t.first_line + i)];
    updates += work[2 * (t.first_line + i) + 1];
  }
  parameters = total(parameters);
  updates = total(updates);
  if (threadIdx.x > 0) return;
  const double n = static_cast<double>(t.matrices * t.rows * t.columns), size = ::sqrt(parameters / n);
  const double scale = t.k(8) == 0 ? 1 : size > t.k(6) ? size : t.k(6);
  const double over = ::sqrt(updates / n) / t.k(7);
  work[t.factor] = t.k(0) * scale * t.k(4) / (over > 1 ? over : 1);
}
extern "C" __global__ void __launch_bounds__(256) apply(const __grid_constant__ Items all, const double* work) {
  const Item& t = own_item<&Item::first_line>(all);
  if (t.skips()) return;
  const Line l = own_line(t);
  const C cap = static_cast<C>(1 / t.eps1()), row = row_factor(t, l), keep = static_cast<C>(t.k(1));
  const C rate = static_cast<C>(work[t.factor]);
  const double* roots = roots_of(t, l, work);
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < l.count; i += 256) {
    const int64_t at = t.place(l.begin + i);
    const C u = widen(t.g[at]) * factor_of(t, l, roots, row, i, cap);
    const P updated = convert<P>(widen(t.p[at]) * keep - rate * u);
    t.p[at] = updated;
#ifdef FLAME_S
    if (t.s) static_cast<FLAME_S*>(t.s)[at] = convert<FLAME_S>(widen(updated));
#endif
  }
}

}  // namespace flame
