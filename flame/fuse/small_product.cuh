// Tiles of small float32 products on tensor cores (TF32), c [m, n] = a [m, k] b [k, n]: the warps of a block take
// turns along k in chunks of 16, and their sums are added in order. Operands go from memory to registers, several
// chunks on the way: within a chunk k is dealt out to the lanes, and along the other axis rows to tiles, so that a
// lane reads up to 16 bytes at a time whichever axis is contiguous.
#pragma once
#include "flame/fuse/tensor_cores.cuh"

namespace flame {

constexpr int chunk = 16;

// An operand and how it is read. along_k: k is contiguous, else its places are (rows of a, columns of b), of which a
// lane has `places` in a tile of eight times as many; pack: 4, or 1 where rows do not start at multiples of 16 bytes;
// masked: numbers count where those of `mask`, which lies as x does, are not 0 or less. No operand reaches beyond
// 2^31 numbers.
template <bool along_k_, int pack, bool masked, int places_>
struct Side {
  static constexpr bool along_k = along_k_;
  static constexpr int places = places_;
  const float *x, *mask;
  int32_t step, extent;  // between what is contiguous; places

  // A lane's numbers of a chunk: [q][e] is its e-th k and its q-th place.
  struct Square {
    float of[places][4];
  };
  static int place_of(int q, int group) { return along_k ? 8 * q + group : places * group + q; }

  void read(Square& s, int32_t first, int32_t k0, int32_t k, int group, int quad) const {
    constexpr int lines = along_k ? places : 4, width = along_k ? 4 : places;
    const int32_t at = k0 + 4 * quad, begin = along_k ? at : first + places * group, end = along_k ? k : extent;
#pragma unroll
    for (int i = 0; i < lines; ++i) {
      const int32_t row = along_k ? first + place_of(i, group) : at + i, from = row * step + begin;
      float v[width] = {}, y[width] = {};
      if (row < (along_k ? extent : k) && begin < end) {
        load(v, x + from, end - begin);
        if constexpr (masked) load(y, mask + from, end - begin);
      }
#pragma unroll
      for (int j = 0; j < width; ++j) (along_k ? s.of[i][j] : s.of[j][i]) = masked && y[j] <= 0 ? 0 : v[j];
    }
  }

 private:
  template <int width>
  static void load(float (&v)[width], const float* from, int32_t left) {
    if constexpr (pack == 4 && width == 4) {
      const float4 all = __ldg(reinterpret_cast<const float4*>(from));
      v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
    } else if constexpr (pack == 4) {
      const float2 all = __ldg(reinterpret_cast<const float2*>(from));
      v[0] = all.x, v[1] = all.y;
    } else {
#pragma unroll
      for (int j = 0; j < width; ++j)
        if (j < left) v[j] = from[j];
    }
  }
};

// Four numbers of a row, from `column` of `columns` on; at once if `packed`: the row starts at a multiple of 16 bytes.
inline void store_row(float* to, const float (&v)[4], int32_t column, int32_t columns, bool packed) {
  if (packed) *reinterpret_cast<float4*>(to + column) = make_float4(v[0], v[1], v[2], v[3]);
  else
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (column + i < columns) to[column + i] = v[i];
}

// What a block of 32 * warps threads makes of a tile, m0 and n0 its first row and column; `depth` chunks a warp are
// on the way.
template <class A, class B, int warps, int depth>
struct SmallProduct {
  static constexpr int places = A::places, tile = 8 * places, pitch = tile + 4;
  using Parts = float[warps][tile][pitch];  // in shared memory, at a multiple of 16 bytes

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, group = lane / 4, quad = lane % 4;
  float c[places / 2][places][4] = {};  // [16 rows][8 columns][as a product leaves them]
  float of_a[places] = {};              // sums of a's rows, if they are wanted

  template <bool sums>
  void run(const A& a, const B& b, int32_t m0, int32_t n0, int32_t k) {
    const int32_t chunks = (k + chunk - 1) / chunk;
    typename A::Square from_a[depth];
    typename B::Square from_b[depth];
    const auto fetch = [&](int which, int32_t number) {
      a.read(from_a[which], m0, number * chunk, k, group, quad);
      b.read(from_b[which], n0, number * chunk, k, group, quad);
    };
#pragma unroll
    for (int which = 0; which < depth; ++which) fetch(which, warp + which * warps);
    for (int32_t number = warp; number < chunks; number += depth * warps) {  // beyond the last chunk are zeros
#pragma unroll
      for (int which = 0; which < depth; ++which) {
        multiply<sums>(from_a[which], from_b[which]);
        fetch(which, number + (which + depth) * warps);
      }
    }
  }

  // The sums of all warps at `row` of the tile and the four columns from `first` on. All threads of the block call it.
  void join(Parts& parts, int row, int first, float (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < places / 2; ++i)
#pragma unroll
      for (int j = 0; j < places; ++j)
#pragma unroll
        for (int r = 0; r < 4; ++r)
          parts[warp][A::place_of(2 * i + r / 2, group)][B::place_of(j, 2 * quad + r % 2)] = c[i][j][r];
    __syncthreads();
    if (row >= tile) return;
#pragma unroll
    for (int w = 0; w < warps; ++w) {
      const float4 v = *reinterpret_cast<const float4*>(&parts[w][row][first]);
      out[0] += v.x;
      out[1] += v.y;
      out[2] += v.z;
      out[3] += v.w;
    }
  }
  // Behind join: the sums of a's rows, the tile's first at `sums`.
  void join_sums(Parts& parts, float* sums, int32_t rows) const {
    __syncthreads();
#pragma unroll
    for (int q = 0; q < places; ++q) {
      float s = of_a[q];
      s += __shfl_xor_sync(0xffffffffu, s, 1);
      s += __shfl_xor_sync(0xffffffffu, s, 2);
      if (quad == 0) parts[warp][0][A::place_of(q, group)] = s;
    }
    __syncthreads();
    if (threadIdx.x >= tile || static_cast<int32_t>(threadIdx.x) >= rows) return;
    float s = 0;
    for (int w = 0; w < warps; ++w) s += parts[w][0][threadIdx.x];
    sums[threadIdx.x] = s;
  }

 private:
  template <bool sums>
  void multiply(const typename A::Square& a, const typename B::Square& b) {
    uint32_t x[places][4], y[places][4];
#pragma unroll
    for (int q = 0; q < places; ++q) {
      if constexpr (sums) of_a[q] += (a.of[q][0] + a.of[q][1]) + (a.of[q][2] + a.of[q][3]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        x[q][e] = tensor_float(a.of[q][e]);
        y[q][e] = tensor_float(b.of[q][e]);
      }
    }
#pragma unroll
    for (int e = 0; e < 4; e += 2)
#pragma unroll
      for (int i = 0; i < places / 2; ++i)
#pragma unroll
        for (int j = 0; j < places; ++j)
          multiply_tf32(c[i][j], x[2 * i][e], x[2 * i + 1][e], x[2 * i][e + 1], x[2 * i + 1][e + 1], y[j][e], y[j][e + 1]);
  }
};

}  // namespace flame
