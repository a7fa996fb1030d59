// Matrix products by cuBLASLt: row-major products asked as column-major ones of swapped operands. float32 is exact.
#include <cublasLt.h>

#include <array>
#include <mutex>
#include <optional>

#include "flame/core/format.h"
#include "flame/device/cpu/gemm.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/libraries.h"
#include "flame/device/cuda/library.h"
#include "flame/device/cuda/library_handles.h"

namespace flame::cuda {
namespace {

constexpr size_t workspace_bytes = size_t{32} << 20;

void check(cublasStatus_t s, const char* what) {
  if (s != CUBLAS_STATUS_SUCCESS)
    fail<DeviceError>(Loc::current(), "cuda: {} failed with status {}", what, static_cast<int>(s));
}

cudaDataType_t data_type(DType t) {
  return t == DType::f64 ? CUDA_R_64F : t == DType::f32 ? CUDA_R_32F : t == DType::f16 ? CUDA_R_16F : CUDA_R_16BF;
}

// A matrix of the product as cuBLASLt sees it: columns of length `rows`, `lead` apart.
struct Operand {
  bool transposed;
  int64_t lead;
};
// Of a row-major matrix [rows, cols] read as its column-major transpose [cols, rows].
std::optional<Operand> operand(const GemmProblem::Matrix& m, int64_t rows, int64_t cols) {
  if ((m.cs == 1 || cols == 1) && (m.rs >= cols || rows == 1))
    return Operand{false, std::max(rows == 1 ? cols : m.rs, cols)};
  if ((m.rs == 1 || rows == 1) && (m.cs >= rows || cols == 1))
    return Operand{true, std::max(cols == 1 ? rows : m.cs, rows)};
  return {};
}

// All that one call needs, prepared once.
struct Call {
  cublasLtMatmulDesc_t op = nullptr;
  std::array<cublasLtMatrixLayout_t, 3> layout{};
  cublasLtMatmulAlgo_t algorithm[2]{};  // for operands at any place, and at multiples of 16 bytes
  std::mutex mutex;                     // the bias's address is part of the description
  const BlasFunctions& f;
  explicit Call(const BlasFunctions& functions) : f(functions) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call() {
    for (cublasLtMatrixLayout_t l : layout)
      if (l) f.cublasLtMatrixLayoutDestroy(l);
    if (op) f.cublasLtMatmulDescDestroy(op);
  }
};

}  // namespace

BlasFunctions::BlasFunctions() {
  void* l = need_library("cuBLASLt", {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"});
#define FLAME_LOAD(name) name = reinterpret_cast<decltype(name)>(need_symbol(l, #name));
  FLAME_BLAS_FUNCTIONS(FLAME_LOAD)
#undef FLAME_LOAD
}
Libraries::Blas::Blas(CudaDevice& d) {
  check(f.cublasLtCreate(&handle), "cublasLtCreate");
  workspace = make_ref<Storage>(d, workspace_bytes, Loc::current());
}

Ref<Plan> blas_gemm(CudaDevice& d, const GemmDesc& g) {
  if (!is_float(g.c.dtype)) return {};
  const GemmProblem p = gemm_problem(g);
  if (p.m == 0 || p.n == 0 || p.k == 0 || p.batches() == 0 || p.batch.rank() > 1) return {};
  const auto a = operand(p.a, p.m, p.k), b = operand(p.b, p.k, p.n), c = operand(p.c, p.m, p.n);
  if (!a || !b || !c || c->transposed) return {};
  Libraries::Blas& blas = d.libraries().blas();
  const BlasFunctions& f = blas.f;
  auto call = std::make_shared<Call>(f);
  const cudaDataType_t t = data_type(p.dtype);
  const bool wide = p.dtype == DType::f64;
  check(f.cublasLtMatmulDescCreate(&call->op, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                   wide ? CUDA_R_64F : CUDA_R_32F),
        "cublasLtMatmulDescCreate");
  const auto set = [&](cublasLtMatmulDescAttributes_t what, const auto& v) {
    check(f.cublasLtMatmulDescSetAttribute(call->op, what, &v, sizeof v), "cublasLtMatmulDescSetAttribute");
  };
  // c^T = b^T a^T: the first operand is b.
  set(CUBLASLT_MATMUL_DESC_TRANSA, b->transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, a->transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.bias) set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  const auto lay = [&](int i, const Operand& o, int64_t rows, int64_t cols, const GemmProblem::Matrix& m) {
    const uint64_t r = static_cast<uint64_t>(o.transposed ? rows : cols),
                   s = static_cast<uint64_t>(o.transposed ? cols : rows);
    auto& l = call->layout[static_cast<size_t>(i)];
    check(f.cublasLtMatrixLayoutCreate(&l, t, r, s, o.lead), "cublasLtMatrixLayoutCreate");
    if (p.batch.rank() == 0) return;
    const int32_t count = static_cast<int32_t>(p.batch[0]);
    const int64_t step = m.batch[0];
    check(f.cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count),
          "batch count");
    check(f.cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step),
          "batch stride");
  };
  lay(0, *b, p.k, p.n, p.b);
  lay(1, *a, p.m, p.k, p.a);
  lay(2, *c, p.m, p.n, p.c);
  cublasLtMatmulPreference_t preference = nullptr;
  check(f.cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  f.cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                         sizeof workspace_bytes);
  const auto& l = call->layout;
  bool found_all = true;
  for (const uint32_t alignment : {static_cast<uint32_t>(size_of(p.dtype)), uint32_t{16}}) {
    for (auto what : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      f.cublasLtMatmulPreferenceSetAttribute(preference, what, &alignment, sizeof alignment);
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    const cublasStatus_t s =
        f.cublasLtMatmulAlgoGetHeuristic(blas.handle, call->op, l[0], l[1], l[2], l[2], preference, 1, &found, &count);
    found_all = found_all && s == CUBLAS_STATUS_SUCCESS && count > 0;
    call->algorithm[alignment == 16] = found.algo;
  }
  f.cublasLtMatmulPreferenceDestroy(preference);
  if (!found_all) return {};
  return make_ref<Plan>("gemm", [&d, &blas, call, bias = p.bias, wide](const Run& r) {
    std::lock_guard lock(call->mutex);
    if (bias) {
      const void* at = r.buffers[2];
      check(blas.f.cublasLtMatmulDescSetAttribute(call->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &at, sizeof at), "bias");
    }
    const double one64 = 1, zero64 = 0;
    const float one32 = 1, zero32 = 0;
    const void *one = wide ? static_cast<const void*>(&one64) : &one32,
               *zero = wide ? static_cast<const void*>(&zero64) : &zero32;
    void* c = r.buffers[bias ? 3 : 2];
    const auto& l = call->layout;
    bool aligned = true;
    for (const void* at : {r.buffers[0], r.buffers[1], c})
      aligned = aligned && reinterpret_cast<uintptr_t>(at) % 16 == 0;
    check(blas.f.cublasLtMatmul(blas.handle, call->op, one, r.buffers[1], l[0], r.buffers[0], l[1], zero, c, l[2], c,
                                l[2], &call->algorithm[aligned], blas.workspace->data(), workspace_bytes,
                                reinterpret_cast<cudaStream_t>(d.stream())),
          "cublasLtMatmul");
  });
}

Ref<Plan> CudaDevice::gemm(const GemmDesc& g) {
  if (Ref<Plan> p = blas_gemm(*this, g)) return p;
  return own_gemm(*this, g);
}

}  // namespace flame::cuda
