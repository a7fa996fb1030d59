// Matrix products of the CPU: which of three implementations computes a description.
#include "flame/device/cpu/gemm.h"

#include "flame/core/format.h"
#include "flame/device/cpu/services.h"

namespace flame {
namespace {

// Multiplications up to which a loop without packing, threads or library overhead wins, and up to which our packed
// product starts faster than oneDNN's; both measured on two cores with AVX-512.
constexpr double small_limit = 128 * 1024, packed_limit = 40 * 1024;

void check(const GemmDesc& d) {
  const auto bad = [&] {
    fail<ShapeError>(Loc::current(), "gemm: shapes {} and {} do not give {}", d.a.shape, d.b.shape, d.c.shape);
  };
  const bool widens = size_of(d.a.dtype) == 2 && is_float(d.a.dtype) && d.c.dtype == DType::f32 && !d.bias;
  if ((d.a.dtype != d.c.dtype && !widens) || d.b.dtype != d.a.dtype)
    fail<DTypeError>(Loc::current(), "gemm: expected one dtype, got {}, {} and {}", d.a.dtype, d.b.dtype, d.c.dtype);
  if (d.c.dtype == DType::boolean) fail<DTypeError>(Loc::current(), "gemm: bool has no products");
  const bool followed = d.activation != Activation::none || d.keep || d.slope != Activation::none || d.sums;
  if (followed && (d.add || d.c.dtype != d.a.dtype))
    fail<ValueError>(Loc::current(), "gemm: a product that is {} has no activation, slope or sums behind it",
                     d.add ? "added to a tensor" : "widened to float32");
  const int rank = d.c.shape.rank();
  if (d.a.shape.rank() < 2 || d.b.shape.rank() < 2 || rank < 2 || d.a.shape.rank() > rank || d.b.shape.rank() > rank)
    bad();
  const Shape &a = d.a.shape, &b = d.b.shape, &c = d.c.shape;
  if (a.back() != b[b.rank() - 2] || a[a.rank() - 2] != c[rank - 2] || b.back() != c.back()) bad();
  for (const Shape* s : {&a, &b})
    for (int i = 0; i < s->rank() - 2; ++i) {
      const int64_t size = (*s)[i];
      if (size != 1 && size != c[i + rank - s->rank()]) bad();
    }
}

GemmProblem::Matrix matrix_of(const Meta& m, const Shape& batch) {
  const int rank = m.shape.rank(), missing = batch.rank() - (rank - 2);
  GemmProblem::Matrix out{Dims::filled(batch.rank(), 0), m.strides[rank - 2], m.strides[rank - 1]};
  for (int i = 0; i < rank - 2; ++i)
    if (m.shape[i] != 1) out.batch[i + missing] = m.strides[i];
  return out;
}

void merge_batch_axes(GemmProblem& p) {
  GemmProblem::Matrix* const all[] = {&p.a, &p.b, &p.c};
  const auto drop = [&](int axis) {
    p.batch.erase(axis);
    for (auto* x : all) x->batch.erase(axis);
  };
  for (int i = p.batch.rank() - 1; i >= 0; --i)
    if (p.batch[i] == 1) drop(i);
  for (int i = p.batch.rank() - 2; i >= 0; --i) {
    bool joins = true;
    for (const auto* x : all) joins = joins && x->batch[i] == x->batch[i + 1] * p.batch[i + 1];
    if (!joins) continue;
    p.batch[i] *= p.batch[i + 1];
    for (auto* x : all) x->batch[i] = x->batch[i + 1];
    drop(i + 1);
  }
}

// Products that share b and continue in a and c are one product with more rows.
void fold_into_rows(GemmProblem& p) {
  while (p.batch.rank() > 0) {
    const int last = p.batch.rank() - 1;
    const int64_t a = p.a.batch[last], c = p.c.batch[last];
    if (p.b.batch[last] != 0) return;
    if (p.m == 1) p.a.rs = a, p.c.rs = c;
    else if (a != p.m * p.a.rs || c != p.m * p.c.rs) return;
    p.m *= p.batch[last];
    p.batch.erase(last);
    for (auto* x : {&p.a, &p.b, &p.c}) x->batch.erase(last);
  }
}

}  // namespace

GemmProblem gemm_problem(const GemmDesc& d) {
  check(d);
  const int rank = d.c.shape.rank();
  Shape batch = d.c.shape;
  batch.erase(rank - 1);
  batch.erase(rank - 2);
  GemmProblem p{d.a.dtype,
                d.c.shape[rank - 2],
                d.c.shape[rank - 1],
                d.a.shape.back(),
                batch,
                matrix_of(d.a, batch),
                matrix_of(d.b, batch),
                matrix_of(d.c, batch),
                d.bias,
                d.add,
                d.c.dtype};
  merge_batch_axes(p);
  fold_into_rows(p);
  return p;
}

GemmOffsets gemm_offsets(const GemmProblem& p, int64_t i) {
  GemmOffsets o{0, 0, 0};
  for (int axis = p.batch.rank() - 1; axis >= 0; --axis) {
    const int64_t at = i % p.batch[axis];
    i /= p.batch[axis];
    o.a += at * p.a.batch[axis];
    o.b += at * p.b.batch[axis];
    o.c += at * p.c.batch[axis];
  }
  return o;
}

Ref<Plan> cpu_gemm(const GemmDesc& d) {
  const GemmProblem p = gemm_problem(d);
  if (p.add || p.c_dtype != p.dtype) fail<NotImplemented>(Loc::current(), "gemm: no sums of products on the CPU");
  if (numel(d.c.shape) == 0) return make_ref<Plan>("gemm", [](const Run&) {});
  if (p.multiplications() <= small_limit)
    if (Ref<Plan> plan = gemm_small(p)) return plan;
#ifdef FLAME_WITH_ONEDNN
  if (p.multiplications() > packed_limit)
    if (Ref<Plan> plan = gemm_onednn(p)) return plan;
#endif
  return gemm_blocked(p);
}

}  // namespace flame
