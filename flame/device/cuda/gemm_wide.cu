// Products of 16-bit matrices on Hopper's tensor cores, c [m, n] = a [m, k] b [k, n], with what follows them beside the next
// tile's product: one warp keeps a ring of chunks along k filled by the copy engine, two groups of four warps multiply 64 rows
// each, round their sums into shared memory and go on, and three warps turn those into the result. Blocks stay and take tile
// after tile; the two of a cluster have the same columns and fetch half of b's chunks each, for both. FLAME_T; FLAME_BRAIN: 1 for
// bfloat16; FLAME_N: columns of a tile; FLAME_STAGES: chunks of the ring; FLAME_CLUSTER: 1 or 2; FLAME_B: 1 if b is contiguous
// along k, 0 along n; FLAME_BIAS; FLAME_GELU: 1 for gelu_tanh, 2 if what it is taken of is kept, 3 for its slope at what was kept;
// FLAME_SUMS: the sums of each tile's columns of the result too.
#include "flame/fuse/device.cuh"
#include "flame/fuse/tensor_cores.cuh"

namespace flame {
using T = FLAME_T;
constexpr int tile_m = 128, tile_n = FLAME_N, chunk = 64, stages = FLAME_STAGES, cluster = FLAME_CLUSTER;
constexpr int finishers = FLAME_N == 256 ? 3 : 7, together = 4;  // warps, and rows that one has in hand
constexpr int a_bytes = tile_m * chunk * 2, b_bytes = tile_n * chunk * 2, half_rows = tile_m / 2, pitch = tile_n * 2;
constexpr int sums_bytes = FLAME_SUMS ? 2 * finishers * tile_n * 4 : 0;
constexpr int across = 16;  // tiles along n that are swept together, so that b's columns stay in the second cache

constexpr int threads = FLAME_N == 256 ? 384 : 512;

struct alignas(64) Map {  // a tensor map of the driver's
  uint64_t words[16];
};
struct Wide {
  int m, n, k;
};

// --- barriers in shared memory ---
inline void make_barrier(uint32_t at, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}
inline void arrive(uint32_t at) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
inline void arrive_at(uint32_t at, uint32_t block) {  // of the cluster
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(at), "r"(block) : "memory");
}
inline void expect(uint32_t at, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
inline bool passed(uint32_t at, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(at), "r"(parity)
      : "memory");
  return done != 0;
}
inline void await(uint32_t at, uint32_t parity) {
  while (!passed(at, parity)) {}
}
inline void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
inline uint32_t block_of_cluster() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}

// A box of a matrix from column x and row y on; what lies outside is zeros.
inline void fetch(uint32_t to, const Map& map, int x, int y, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}
inline void fetch_for_both(uint32_t to, const Map& map, int x, int y, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], "
      "[%4], %5;" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(barrier), "h"(static_cast<uint16_t>(3))
      : "memory");
}

// --- the product ---
// Where a matrix begins for wgmma: rows of 128 bytes whose 16-byte parts are swizzled within 8 rows.
inline uint64_t matrix_at(uint32_t at, int leading, int stride) {
  return (at & 0x3ffff) >> 4 | static_cast<uint64_t>(leading >> 4) << 16 | static_cast<uint64_t>(stride >> 4) << 32 |
         1ull << 62;
}
#define FLAME_OUT8(i)                                                                                                  \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define FLAME_OUT32(i) FLAME_OUT8(i), FLAME_OUT8(i + 8), FLAME_OUT8(i + 16), FLAME_OUT8(i + 24)
#define FLAME_NAMES64                                                                                               \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "  \
  "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, " \
  "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FLAME_NAMES96                                                                                              \
  FLAME_NAMES64                                                                                                    \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, "    \
  "%85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define FLAME_NAMES128                                                                                              \
  FLAME_NAMES96                                                                                                     \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, " \
  "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#if FLAME_BRAIN
#define FLAME_TYPES "bf16.bf16"
#else
#define FLAME_TYPES "f16.f16"
#endif
#define FLAME_WGMMA(n, names, a, b, more, turned, ...)                                                     \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " more ", 0;\nwgmma.mma_async.sync.aligned.m64n" n        \
               "k16.f32." FLAME_TYPES " {" names "}, " a ", " b ", p, 1, 1, 0, " turned ";\n}"             \
               : __VA_ARGS__                                                                               \
               : "l"(x), "l"(y), "r"(add), "n"(FLAME_B ? 0 : 1))
struct Sums {
  float d[tile_n / 2];  // [8 columns][rows of 8][2 columns]
};
// d = or, if `add`, += the 64 x 16 of a at x times the 16 x tile_n of b at y.
inline void multiply_wide(Sums& s, uint64_t x, uint64_t y, int add) {
  float (&d)[tile_n / 2] = s.d;
#if FLAME_N == 256
  FLAME_WGMMA("256", FLAME_NAMES128, "%128", "%129", "%130", "%131", FLAME_OUT32(0), FLAME_OUT32(32), FLAME_OUT32(64),
              FLAME_OUT32(96));
#elif FLAME_N == 192
  FLAME_WGMMA("192", FLAME_NAMES96, "%96", "%97", "%98", "%99", FLAME_OUT32(0), FLAME_OUT32(32), FLAME_OUT32(64));
#else
  FLAME_WGMMA("128", FLAME_NAMES64, "%64", "%65", "%66", "%67", FLAME_OUT32(0), FLAME_OUT32(32));
#endif
}
inline void store4(uint32_t at, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {  // four matrices of 8 x 8
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

// --- pairs of 16-bit numbers ---
inline uint32_t pair_of(float low, float high) {
  uint32_t r;
#if FLAME_BRAIN
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#endif
  return r;
}
inline float low_of(uint32_t p) {
#if FLAME_BRAIN
  return __uint_as_float(p << 16);
#else
  return widen(half{static_cast<uint16_t>(p)});
#endif
}
inline float high_of(uint32_t p) {
#if FLAME_BRAIN
  return __uint_as_float(p & 0xffff0000u);
#else
  return widen(half{static_cast<uint16_t>(p >> 16)});
#endif
}
// At least -7, or between -7 and 7; NaN stays.
inline uint32_t from_below(uint32_t p) {
#if FLAME_BRAIN
  asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(p) : "r"(0xc0e0c0e0u));
#else
  asm("max.NaN.f16x2 %0, %0, %1;" : "+r"(p) : "r"(0xc700c700u));
#endif
  return p;
}
inline uint32_t bounded(uint32_t p) {
#if FLAME_BRAIN
  asm("min.NaN.bf16x2 %0, %0, %1;" : "+r"(p) : "r"(0x40e040e0u));
#else
  asm("min.NaN.f16x2 %0, %0, %1;" : "+r"(p) : "r"(0x47004700u));
#endif
  return from_below(p);
}
inline float two_to(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
inline float inverse(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
// gelu_tanh is x / (1 + 2^z), z = -2 sqrt(2 / pi) (x + 0.044715 x^3) / ln 2.
constexpr float steep = -2.302208198f, cubic = 0.044715f;
inline float power(float x, float square) { return two_to(x * fmaf(square, steep * cubic, steep)); }
inline float gelu1(float x) { return x * inverse(1 + power(x, x * x)); }
inline uint32_t gelu(uint32_t p) { return pair_of(gelu1(low_of(p)), gelu1(high_of(p))); }
inline float gelu_slope(float x);
inline uint32_t times_slope(uint32_t v, uint32_t p) {
  return pair_of(low_of(v) * gelu_slope(low_of(p)), high_of(v) * gelu_slope(high_of(p)));
}
// Of x in [-7, 7], beyond which it is 0 or 1 to 2^-44.
inline float gelu_slope(float x) {
  constexpr float slope = 1.59576912160573071176f;
  const float square = x * x, e = power(x, square), s = inverse(1 + e);
  return fmaf(x * fmaf(square, 3 * cubic * slope, slope), e * s * s, s);
}

struct Eight {
  uint32_t of[4];
};
inline Eight read8(uint32_t at) {
  Eight r;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.of[0]), "=r"(r.of[1]), "=r"(r.of[2]), "=r"(r.of[3])
               : "r"(at)
               : "memory");
  return r;
}
// Zeros, or nothing, if not `there`; without a branch, so that rows' numbers are computed side by side.
inline Eight read8_once(const T* p, bool there) {
  Eight r = {};
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n@p ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];\n}"
      : "+r"(r.of[0]), "+r"(r.of[1]), "+r"(r.of[2]), "+r"(r.of[3])
      : "l"(p), "r"(static_cast<int>(there)));
  return r;
}
inline void write8(T* p, const Eight& v, bool there) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n@p st.global.cs.v4.b32 [%0], {%1, %2, %3, %4};\n}" ::"l"(p), "r"(v.of[0]),
               "r"(v.of[1]), "r"(v.of[2]), "r"(v.of[3]), "r"(static_cast<int>(there))
               : "memory");
}

// Tiles in the order in which clusters take them: down the rows with up to `across` tiles of columns side by side.
struct Tiles {
  int down, beside;  // of clusters' rows; of columns
  Tiles(const Wide& p) : down((p.m + tile_m * cluster - 1) / (tile_m * cluster)), beside((p.n + tile_n - 1) / tile_n) {}
  int count() const { return down * beside; }
  void at(int number, uint32_t block, int& m0, int& n0) const {
    const int sweep = number / (across * down), first = sweep * across, rest = number - sweep * across * down,
              wide = beside - first < across ? beside - first : across;
    m0 = ((rest / wide) * cluster + static_cast<int>(block)) * tile_m;
    n0 = (first + rest % wide) * tile_n;
  }
};

struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  void next() {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

#if FLAME_CLUSTER > 1
extern "C" __global__ void __cluster_dims__(FLAME_CLUSTER, 1, 1) __launch_bounds__(threads, 1)
#else
extern "C" __global__ void __launch_bounds__(threads, 1)
#endif
    gemm_wide(const __grid_constant__ Map a, const __grid_constant__ Map b, const T* bias, const T* kept_before, T* c, T* kept,
              float* parts, const __grid_constant__ Wide p) {
  extern __shared__ uint8_t shared[];
  __shared__ uint64_t barriers[2 * stages + 4];
  // a's chunks, b's, sums on their way to the result, parts of columns' sums.
  const uint32_t base = (shared_address(shared) + 1023) & ~1023u, b_base = base + stages * a_bytes,
                 sums_base = b_base + stages * b_bytes, parts_base = sums_base + tile_m * pitch;
  const uint32_t filled = shared_address(barriers), emptied = filled + 8 * stages, written = emptied + 8 * stages,
                 taken = written + 16;
  const int all = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0), lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t block = cluster > 1 ? block_of_cluster() : 0;
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; ++i) {
      make_barrier(filled + 8 * i, 1);
      make_barrier(emptied + 8 * i, 8 * cluster);
    }
    for (int i = 0; i < 2; ++i) {
      make_barrier(written + 8 * i, 4);
      make_barrier(taken + 8 * i, finishers);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if (cluster > 1) cluster_barrier();
  else __syncthreads();

  const Tiles tiles(p);
  const int chunks = (p.k + chunk - 1) / chunk, count = tiles.count(), step = static_cast<int>(gridDim.x) / cluster,
            first = static_cast<int>(blockIdx.x) / cluster;
  int m0, n0;
  if (all == 0) {
    if (lane == 0) {
      Ring r;
      for (int number = first; number < count; number += step) {
        tiles.at(number, block, m0, n0);
        for (int i = 0; i < chunks; ++i, r.next()) {
          const uint32_t full = filled + 8 * r.stage;
          await(emptied + 8 * r.stage, r.parity ^ 1);
          expect(full, a_bytes + b_bytes);
          fetch(base + r.stage * a_bytes, a, i * chunk, m0, full);
          const uint32_t to = b_base + r.stage * b_bytes;
#if FLAME_B
          constexpr int rows = tile_n / cluster;
          const int y = static_cast<int>(block) * rows;
          if (cluster > 1) fetch_for_both(to + y * 128, b, i * chunk, n0 + y, full);
          else fetch(to, b, i * chunk, n0, full);
#else
          constexpr int rows = chunk / cluster;
          const int y = static_cast<int>(block) * rows;
#pragma unroll
          for (int j = 0; j < tile_n / 64; ++j) {
            const uint32_t box = to + j * chunk * 128 + y * 128;
            if (cluster > 1) fetch_for_both(box, b, n0 + 64 * j, i * chunk + y, full);
            else fetch(box, b, n0 + 64 * j, i * chunk + y, full);
          }
#endif
        }
      }
    }
    __syncwarp();
  } else if (all >= 4 && all < 12) {
    const int half = all / 4 - 1, warp = all % 4;
    const uint32_t rows_base = sums_base + half * half_rows * pitch + (16 * warp + lane % 16) * pitch;
    const uint32_t place = static_cast<uint32_t>(lane / 16) ^ static_cast<uint32_t>(lane % 8);
    Ring r;
    Sums s;
    uint32_t turn = 0;
    for (int number = first; number < count; number += step, turn ^= 1) {
      tiles.at(number, block, m0, n0);
      int before = -1;
      for (int i = 0; i < chunks; ++i) {
        await(filled + 8 * r.stage, r.parity);
        const uint64_t x = matrix_at(base + r.stage * a_bytes + half * half_rows * 128, 16, 1024),
                       y = FLAME_B ? matrix_at(b_base + r.stage * b_bytes, 16, 1024)
                                   : matrix_at(b_base + r.stage * b_bytes, chunk * 128, 1024);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int q = 0; q < chunk / 16; ++q)  // 16 numbers along k further: 32 bytes, or 16 rows
          multiply_wide(s, x + 2 * q, y + (FLAME_B ? 2 : 128) * q, i + q > 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (before >= 0 && lane < cluster) arrive_at(emptied + 8 * before, lane);
        before = r.stage;
        r.next();
      }
#if FLAME_BIAS
      uint32_t pairs[tile_n / 64];  // of the bias: a lane's are 64 columns apart
#pragma unroll
      for (int i = 0; i < tile_n / 64; ++i) {
        const int column = n0 + 64 * i + 2 * lane;
        pairs[i] = column < p.n ? __ldg(reinterpret_cast<const uint32_t*>(bias + column)) : 0;
      }
#endif
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      if (lane < cluster) arrive_at(emptied + 8 * before, lane);
      await(taken + 8 * half, turn ^ 1);
#pragma unroll
      for (int j = 0; j < tile_n / 8; j += 2) {
#if FLAME_BIAS
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t pair = __shfl_sync(0xffffffffu, pairs[(j + i) / 8], 4 * ((j + i) % 8) + lane % 4);
          float* const d = s.d + 4 * (j + i);
          d[0] += low_of(pair);
          d[1] += high_of(pair);
          d[2] += low_of(pair);
          d[3] += high_of(pair);
        }
#endif
        const float* const d = s.d + 4 * j;
        store4(rows_base + ((static_cast<uint32_t>(j) ^ place) << 4), pair_of(d[0], d[1]), pair_of(d[2], d[3]),
               pair_of(d[4], d[5]), pair_of(d[6], d[7]));
      }
      __syncwarp();
      if (lane == 0) arrive(written + 8 * half);
    }
  } else {
    constexpr int batches = half_rows / together;
    const int warp = all < 4 ? all - 1 : all - 9;
    uint32_t turn = 0;
    for (int number = first; number < count; number += step, turn ^= 1) {
      tiles.at(number, block, m0, n0);
      const int column = n0 + 8 * lane;
      const bool inside = lane < tile_n / 8 && column < p.n;
      const auto there = [&](int row) { return inside && m0 + row < p.m; };
      const auto offset = [&](int row) { return static_cast<int64_t>(m0 + row) * p.n + column; };
#if FLAME_GELU == 3
      Eight before[together];
      const auto look_ahead = [&](int batch) {
#pragma unroll
        for (int q = 0; q < together; ++q) {
          const int row = batch * together + q;
          before[q] = read8_once(kept_before + offset(row), there(row));
        }
      };
      look_ahead(warp);
#endif
#if FLAME_SUMS
      float sums[8] = {};
#endif
      int reached = -1;
#pragma unroll 1
      for (int batch = warp; batch < 2 * batches; batch += finishers) {
        if (const int half = batch / batches; half > reached) {
          __syncwarp();
          if (half == 1 && lane == 0) arrive(taken);
          await(written + 8 * half, turn);
          reached = half;
        }
        Eight now[together];
#pragma unroll
        for (int q = 0; q < together; ++q) {
          const int row = batch * together + q;
          now[q] = read8(sums_base + row * pitch + ((lane ^ (row & 7)) % (tile_n / 8) << 4));
        }
#if FLAME_GELU == 3
        Eight at[together];
#pragma unroll
        for (int q = 0; q < together; ++q) at[q] = before[q];
        if (batch + finishers < 2 * batches) look_ahead(batch + finishers);
#endif
#pragma unroll
        for (int q = 0; q < together; ++q) {
          const int row = batch * together + q;
#if FLAME_GELU == 2
          write8(kept + offset(row), now[q], there(row));
#endif
#if FLAME_GELU || FLAME_SUMS
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            uint32_t& v = now[q].of[e];
#if FLAME_GELU == 3
            const uint32_t z = bounded(at[q].of[e]);
            v = times_slope(v, z);
#elif FLAME_GELU
            v = gelu(v);
#endif
#if FLAME_SUMS
            sums[2 * e] += low_of(v);  // 0 in rows that are not there
            sums[2 * e + 1] += high_of(v);
#endif
          }
#endif
          write8(c + offset(row), now[q], there(row));
        }
      }
      __syncwarp();
      if (lane == 0) arrive(taken + 8);
#if FLAME_SUMS
      float* const mine = reinterpret_cast<float*>(shared + (parts_base - shared_address(shared))) + turn * finishers * tile_n;
      if (lane < tile_n / 8)
        for (int e = 0; e < 8; ++e) mine[warp * tile_n + 8 * lane + e] = sums[e];
      asm volatile("bar.sync 1, %0;" ::"n"(32 * finishers) : "memory");
      for (int i = 32 * warp + lane; i < tile_n && m0 < p.m; i += 32 * finishers)
        if (n0 + i < p.n)
        {
          float sum = mine[i];
#pragma unroll
          for (int j = 1; j < finishers; ++j) sum += mine[j * tile_n + i];
          parts[static_cast<int64_t>(m0 / tile_m) * p.n + n0 + i] = sum;
        }
#endif
    }
  }
  if (cluster > 1) cluster_barrier();
}

}  // namespace flame
