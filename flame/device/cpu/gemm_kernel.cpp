// Inner kernels of the own matrix product: a register tile over packed panels, and two loops for small products.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/device/cpu/gemm_kernel.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include <algorithm>

#include "flame/device/cpu/gemm_kernel.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Two vectors of columns, and as many rows as the registers hold accumulators for.
constexpr int tile_vectors = 2;
constexpr int tile_rows = HWY_TARGET == HWY_AVX3 ? 12 : 6;
template <class Acc>
constexpr int tile_columns = tile_vectors * static_cast<int>(hn::MaxLanes(hn::ScalableTag<Acc>()));

template <class V>
HWY_INLINE V multiply_add(V a, V b, V c) {
  if constexpr (hwy::IsFloat<hn::TFromV<V>>()) return hn::MulAdd(a, b, c);
  else return hn::Add(a * b, c);
}

// Integers are accumulated unsigned, so that they wrap; a negative int8 keeps its sign on the way.
template <class Acc, class T>
HWY_INLINE Acc widened(T v) {
  if constexpr (std::is_same_v<T, int8_t>) return static_cast<Acc>(static_cast<std::make_signed_t<Acc>>(v));
  else return static_cast<Acc>(v);
}

template <class T, class Acc, int width>
void pack(const void* px, int64_t across, int64_t along, int64_t count, int64_t depth, void* pout) {
  const T* x = static_cast<const T*>(px);
  Acc* out = static_cast<Acc*>(pout);
  if (count == width && across == 1) {
    for (int64_t p = 0; p < depth; ++p)
      for (int i = 0; i < width; ++i) out[p * width + i] = widened<Acc>(x[p * along + i]);
    return;
  }
  // Blocks of depth that stay in L1 while they are filled row after row.
  constexpr int64_t block = 64;
  for (int64_t p0 = 0; p0 < depth; p0 += block) {
    const int64_t p1 = std::min(depth, p0 + block);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t p = p0; p < p1; ++p) out[p * width + i] = widened<Acc>(x[i * across + p * along]);
    for (int64_t i = count; i < width; ++i)
      for (int64_t p = p0; p < p1; ++p) out[p * width + i] = Acc{};
  }
}

template <class Acc>
void tile(const void* pa, const void* pb, int64_t depth, void* pacc, int64_t ld, bool add) {
  const hn::ScalableTag<Acc> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int lanes = static_cast<int>(hn::MaxLanes(d)), columns = tile_columns<Acc>;
  const Acc* HWY_RESTRICT a = static_cast<const Acc*>(pa);
  const Acc* HWY_RESTRICT b = static_cast<const Acc*>(pb);
  Acc* HWY_RESTRICT acc = static_cast<Acc*>(pacc);
  V c[tile_rows][tile_vectors];
  for (int i = 0; i < tile_rows; ++i)
    for (int v = 0; v < tile_vectors; ++v) c[i][v] = add ? hn::LoadU(d, acc + i * ld + v * lanes) : hn::Zero(d);
  for (int64_t p = 0; p < depth; ++p, a += tile_rows, b += columns) {
    V row[tile_vectors];
    for (int v = 0; v < tile_vectors; ++v) row[v] = hn::LoadU(d, b + v * lanes);
    for (int i = 0; i < tile_rows; ++i) {
      const V x = hn::Set(d, a[i]);
      for (int v = 0; v < tile_vectors; ++v) c[i][v] = multiply_add(x, row[v], c[i][v]);
    }
  }
  for (int i = 0; i < tile_rows; ++i)
    for (int v = 0; v < tile_vectors; ++v) hn::StoreU(c[i][v], d, acc + i * ld + v * lanes);
}

template <class Acc>
void tile_after_tile(const void* pa, const void* pb, void* pacc, int64_t ld) {
  const hn::ScalableTag<Acc> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int lanes = static_cast<int>(hn::MaxLanes(d)), columns = tile_columns<Acc>;
  const Acc* HWY_RESTRICT a = static_cast<const Acc*>(pa);
  const Acc* HWY_RESTRICT b = static_cast<const Acc*>(pb);
  Acc* HWY_RESTRICT acc = static_cast<Acc*>(pacc);
  V c[tile_rows][tile_vectors];
  for (int i = 0; i < tile_rows; ++i)
    for (int v = 0; v < tile_vectors; ++v) c[i][v] = hn::LoadU(d, acc + i * ld + v * lanes);
  for (int p = 0; p < columns; ++p, b += columns) {
    V row[tile_vectors];
    for (int v = 0; v < tile_vectors; ++v) row[v] = hn::LoadU(d, b + v * lanes);
    for (int i = 0; i < tile_rows; ++i) {
      const V x = hn::Set(d, a[i * columns + p]);
      for (int v = 0; v < tile_vectors; ++v) c[i][v] = multiply_add(x, row[v], c[i][v]);
    }
  }
  for (int i = 0; i < tile_rows; ++i)
    for (int v = 0; v < tile_vectors; ++v) hn::StoreU(c[i][v], d, acc + i * ld + v * lanes);
}

template <class T, class Acc>
void store(const void* pacc, int64_t ld, int64_t rows, int64_t cols, const void* pbias, void* py, int64_t rs,
           int64_t cs) {
  const Acc* acc = static_cast<const Acc*>(pacc);
  const T* bias = static_cast<const T*>(pbias);
  T* y = static_cast<T*>(py);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j)
      y[i * rs + j * cs] = static_cast<T>(bias ? acc[i * ld + j] + widened<Acc>(bias[j]) : acc[i * ld + j]);
}

template <class T, class Acc>
GemmKernel make() {
  constexpr int columns = tile_columns<Acc>;
  return {tile_rows,
          columns,
          sizeof(Acc),
          pack<T, Acc, tile_rows>,
          pack<T, Acc, columns>,
          tile<Acc>,
          tile_after_tile<Acc>,
          store<T, Acc>};
}

GemmKernel kernel_of(DType t) {
  switch (t) {
    case DType::f16: return make<float16, float>();
    case DType::bf16: return make<bfloat16, float>();
    case DType::f64: return make<double, double>();
    case DType::u8: return make<uint8_t, uint32_t>();
    case DType::i8: return make<int8_t, uint32_t>();
    case DType::i32: return make<uint32_t, uint32_t>();  // unsigned: integer products wrap
    case DType::i64: return make<uint64_t, uint64_t>();
    default: return make<float, float>();
  }
}

// AVX2 and AVX-512 load and store part of a vector without touching the memory behind it.
constexpr bool has_masks = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2;

// A column block: whole vectors, or one vector of which the first `count` lanes exist.
template <bool partial, class D>
struct Columns {
  using T = hn::TFromD<D>;
  D d;
  hn::Mask<D> mask;
  Columns(D tag, int64_t count) : d(tag), mask(hn::FirstN(tag, static_cast<size_t>(count))) {}
  HWY_INLINE hn::Vec<D> load(const T* p) const {
    if constexpr (partial) return hn::MaskedLoad(mask, d, p);
    else return hn::LoadU(d, p);
  }
  HWY_INLINE void store(hn::Vec<D> v, T* p) const {
    if constexpr (partial) hn::BlendedStore(v, mask, d, p);
    else hn::StoreU(v, d, p);
  }
};

// `rows` rows times `vectors` vectors of columns, kept in registers over the whole of k.
template <int rows, int vectors, class Cols, class T>
HWY_INLINE void row_block(const Cols& cols, const SmallGemm& g, const T* a, const T* b, const T* bias, T* c) {
  using V = hn::Vec<decltype(cols.d)>;
  constexpr int64_t lanes = static_cast<int64_t>(hn::MaxLanes(decltype(cols.d)()));
  V acc[rows][vectors];
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) acc[i][v] = bias ? cols.load(bias + v * lanes) : hn::Zero(cols.d);
  for (int64_t p = 0; p < g.k; ++p) {
    V row[vectors];
    for (int v = 0; v < vectors; ++v) row[v] = cols.load(b + p * g.b_rs + v * lanes);
    for (int i = 0; i < rows; ++i) {
      const V x = hn::Set(cols.d, a[i * g.a_rs + p * g.a_cs]);
      for (int v = 0; v < vectors; ++v) acc[i][v] = hn::MulAdd(x, row[v], acc[i][v]);
    }
  }
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) cols.store(acc[i][v], c + i * g.c_rs + v * lanes);
}

// All rows for the columns at j.
template <int vectors, class Cols, class T>
HWY_INLINE void column_block(const Cols& cols, const SmallGemm& g, const T* a, const T* b, const T* bias, T* c,
                             int64_t j) {
  constexpr int rows = vectors == 1 ? 8 : 4;
  int64_t i = 0;
  if (bias) bias += j;
  for (; i + rows <= g.m; i += rows) row_block<rows, vectors>(cols, g, a + i * g.a_rs, b + j, bias, c + i * g.c_rs + j);
  for (; i < g.m; ++i) row_block<1, vectors>(cols, g, a + i * g.a_rs, b + j, bias, c + i * g.c_rs + j);
}

template <class T>
void rows(const SmallGemm& g, const void* pa, const void* pb, const void* pbias, void* pc) {
  const T* a = static_cast<const T*>(pa);
  const T* b = static_cast<const T*>(pb);
  const T* bias = static_cast<const T*>(pbias);
  T* c = static_cast<T*>(pc);
  const hn::ScalableTag<T> d;
  constexpr int64_t lanes = static_cast<int64_t>(hn::MaxLanes(d));
  constexpr int widest = HWY_TARGET == HWY_AVX3 ? 4 : 2;  // what the registers hold for four rows
  const Columns<false, decltype(d)> whole(d, lanes);
  int64_t j = 0;
  for (; j + widest * lanes <= g.n; j += widest * lanes) column_block<widest>(whole, g, a, b, bias, c, j);
  for (; j + lanes <= g.n; j += lanes) column_block<1>(whole, g, a, b, bias, c, j);
  if constexpr (has_masks) {
    if (j < g.n) column_block<1>(Columns<true, decltype(d)>(d, g.n - j), g, a, b, bias, c, j);
  } else {
    const hn::CappedTag<T, 1> one;
    for (; j < g.n; ++j) column_block<1>(Columns<false, decltype(one)>(one, 1), g, a, b, bias, c, j);
  }
}

// `count` columns of one row, each a dot product along k.
template <int count, class T>
HWY_INLINE void dot_block(const SmallGemm& g, const T* a, const T* b, const T* bias, T* c) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int64_t lanes = static_cast<int64_t>(hn::MaxLanes(d));
  V acc[count];
  for (int j = 0; j < count; ++j) acc[j] = hn::Zero(d);
  int64_t p = 0;
  for (; p + lanes <= g.k; p += lanes) {
    const V x = hn::LoadU(d, a + p);
    for (int j = 0; j < count; ++j) acc[j] = hn::MulAdd(x, hn::LoadU(d, b + j * g.b_cs + p), acc[j]);
  }
  for (int j = 0; j < count; ++j) {
    T sum = hn::GetLane(hn::SumOfLanes(d, acc[j]));
    for (int64_t q = p; q < g.k; ++q) sum += a[q] * b[j * g.b_cs + q];
    c[j * g.c_cs] = bias ? sum + bias[j] : sum;
  }
}

template <class T>
void dots(const SmallGemm& g, const void* pa, const void* pb, const void* pbias, void* pc) {
  const T* bias = static_cast<const T*>(pbias);
  constexpr int count = 4;
  for (int64_t i = 0; i < g.m; ++i) {
    const T* a = static_cast<const T*>(pa) + i * g.a_rs;
    T* c = static_cast<T*>(pc) + i * g.c_rs;
    const T* b = static_cast<const T*>(pb);
    int64_t j = 0;
    for (; j + count <= g.n; j += count)
      dot_block<count>(g, a, b + j * g.b_cs, bias ? bias + j : nullptr, c + j * g.c_cs);
    for (; j < g.n; ++j) dot_block<1>(g, a, b + j * g.b_cs, bias ? bias + j : nullptr, c + j * g.c_cs);
  }
}

SmallGemmFn rows_of(DType t) {
  if (t == DType::f32) return rows<float>;
  return t == DType::f64 ? rows<double> : nullptr;
}
SmallGemmFn dots_of(DType t) {
  if (t == DType::f32) return dots<float>;
  return t == DType::f64 ? dots<double> : nullptr;
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame {

HWY_EXPORT(kernel_of);
HWY_EXPORT(rows_of);
HWY_EXPORT(dots_of);

GemmKernel gemm_kernel(DType t) { return HWY_DYNAMIC_DISPATCH(kernel_of)(t); }
SmallGemmFn small_gemm_rows(DType t) { return HWY_DYNAMIC_DISPATCH(rows_of)(t); }
SmallGemmFn small_gemm_dots(DType t) { return HWY_DYNAMIC_DISPATCH(dots_of)(t); }

}  // namespace flame
#endif
