// A batch of rows of several tensors in one launch. As many threads as a row has pieces, 256 at most, go along it; short rows
// share a block.
#include "flame/fuse/device.cuh"
#include "flame/train/epoch_order.cuh"

namespace flame {

struct Rows {
  const void* from;
  void* to;
  int64_t pieces, piece;             // a row's, and their bytes
  int64_t threads, segments, first;  // of a row; blocks along it; the first block
};
struct Table {
  int64_t count;
  uint64_t seed, batch_number;
  int64_t rows, batch, shuffle;
  Rows tensor[8];
};

constexpr int64_t pieces_a_thread = 8;
template <class T>
void copy_row(const Rows& t, int64_t from, int64_t to, int64_t first) {
  const T* x = static_cast<const T*>(t.from) + from * t.pieces;
  T* y = static_cast<T*>(t.to) + to * t.pieces;
  for (int64_t k = 0; k < pieces_a_thread; ++k)
    if (const int64_t i = first + k * t.threads; i < t.pieces) y[i] = x[i];
}

extern "C" __global__ void __launch_bounds__(256) draw_rows(const __grid_constant__ Table a) {
  int i = 0;
  while (i + 1 < a.count && blockIdx.x >= a.tensor[i + 1].first) ++i;
  const Rows& t = a.tensor[i];
  const int64_t block = blockIdx.x - t.first, together = 256 / t.threads;
  const int64_t to = block / t.segments * together + threadIdx.x / t.threads;
  if (to >= a.batch) return;
  const uint64_t at = a.batch_number * a.batch + to, n = a.rows;
  const int64_t from = a.shuffle ? epoch_row(a.seed, at / n, at % n, n) : at % n;
  const int64_t first = block % t.segments * t.threads * pieces_a_thread + threadIdx.x % t.threads;
  if (t.piece == 16) copy_row<int4>(t, from, to, first);
  else if (t.piece == 8) copy_row<int64_t>(t, from, to, first);
  else if (t.piece == 4) copy_row<int32_t>(t, from, to, first);
  else copy_row<uint8_t>(t, from, to, first);
}

}  // namespace flame
