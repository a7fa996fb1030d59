// Matrix products by cuBLASLt: row-major products asked as column-major ones of swapped operands. Several algorithms are
// timed on the operands of a plan's first run; the choice stays on disk.
#include <cublasLt.h>

#include <array>
#include <cstring>
#include <mutex>
#include <optional>
#include <vector>

#include "flame/core/format.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/device_gemm.h"
#include "flame/device/cuda/libraries.h"
#include "flame/device/cuda/library.h"
#include "flame/device/cuda/library_handles.h"
#include "flame/device/cuda/tuning.h"
#include "flame/device/kernel.h"

namespace flame::cuda {
namespace {

constexpr size_t workspace_bytes = size_t{32} << 20;
constexpr int most_candidates = 6;

void check(cublasStatus_t s, const char* what) {
  if (s == CUBLAS_STATUS_ALLOC_FAILED) fail<OutOfMemory>(Loc::current(), "cuda: {}: no memory", what);
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

// An algorithm as text: its bytes, which the library lets one keep for the same version of it.
std::string text_of(const cublasLtMatmulAlgo_t& a) {
  std::string out;
  for (const uint64_t word : a.data) out += fmt::format("{:016x}", word);
  return out;
}
std::optional<cublasLtMatmulAlgo_t> algorithm_of(const std::string& text) {
  cublasLtMatmulAlgo_t a{};
  if (text.size() != 16 * std::size(a.data)) return {};
  for (size_t i = 0; i < std::size(a.data); ++i) a.data[i] = std::stoull(text.substr(16 * i, 16), nullptr, 16);
  return a;
}

// All that one product needs, prepared once.
class Product {
 public:
  Product(CudaDevice& d, Libraries::Blas& blas, const GemmProblem& p, bool tf32);
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
  ~Product() {
    for (cublasLtMatrixLayout_t l : layout_)
      if (l) f_.cublasLtMatrixLayoutDestroy(l);
    if (op_) f_.cublasLtMatmulDescDestroy(op_);
  }
  bool prepare();  // false: the library has no algorithm
  size_t workspace() const { return pointers_ ? 3 * sizeof(void*) * static_cast<size_t>(problem_.batches()) : 0; }
  void run(const Run& r);

 private:
  template <class V>
  void set(cublasLtMatmulDescAttributes_t what, const V& v) {
    check(f_.cublasLtMatmulDescSetAttribute(op_, what, &v, sizeof v), "cublasLtMatmulDescSetAttribute");
  }
  template <class V>
  void set(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t what, const V& v) {
    check(f_.cublasLtMatrixLayoutSetAttribute(l, what, &v, sizeof v), "cublasLtMatrixLayoutSetAttribute");
  }
  void lay(size_t i, const Operand& o, int64_t rows, int64_t cols, const GemmProblem::Matrix& m);
  std::vector<cublasLtMatmulAlgo_t> heuristics(uint32_t alignment, int most) const;
  bool restore(const Tuned& t);
  struct Pointers {
    const void *a, *b;
    void* c;
  };
  cublasStatus_t go(const Pointers& p, const cublasLtMatmulAlgo_t& a) const;
  void choose(const Pointers& p);

  CudaDevice& device_;
  Libraries::Blas& blas_;
  const BlasFunctions& f_;
  const GemmProblem problem_;
  Operand a_, b_, c_;
  TuningKey key_;
  cublasLtMatmulDesc_t op_ = nullptr;
  std::array<cublasLtMatrixLayout_t, 3> layout_{};  // of b, a, c
  Ref<Kernel> pointers_;                            // where the batches have several axes
  bool steps_aligned_ = true;
  cublasLtMatmulAlgo_t unaligned_{};
  std::vector<cublasLtMatmulAlgo_t> candidates_;  // for operands at multiples of 16 bytes
  size_t chosen_ = 0;
  bool decided_ = true, used_ = false;
  std::mutex mutex_;  // the bias's address is part of the description
};

Product::Product(CudaDevice& d, Libraries::Blas& blas, const GemmProblem& p, bool tf32)
    : device_(d),
      blas_(blas),
      f_(blas.f),
      problem_(p),
      a_(*operand(p.a, p.m, p.k)),
      b_(*operand(p.b, p.k, p.n)),
      c_(*operand(p.c, p.m, p.n)) {
  const bool wide = p.dtype == DType::f64;
  tf32 = tf32 && p.dtype == DType::f32;
  check(f_.cublasLtMatmulDescCreate(&op_,
                                    wide   ? CUBLAS_COMPUTE_64F
                                    : tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                           : CUBLAS_COMPUTE_32F,
                                    wide ? CUDA_R_64F : CUDA_R_32F),
        "cublasLtMatmulDescCreate");
  // c^T = b^T a^T: the first operand is b.
  set(CUBLASLT_MATMUL_DESC_TRANSA, b_.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, a_.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.bias) set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  if (p.batch.rank() > 1) pointers_ = gemm_batches_kernel(d, p.dtype);
  lay(0, b_, p.k, p.n, p.b);
  lay(1, a_, p.m, p.k, p.a);
  lay(2, c_, p.m, p.n, p.c);
  std::string batches;
  for (int i = 0; i < p.batch.rank(); ++i)
    batches += fmt::format(" x {} ({} {} {})", p.batch[i], p.a.batch[i], p.b.batch[i], p.c.batch[i]);
  key_ = {fmt::format("cuBLASLt {}", f_.cublasLtGetVersion()), fmt::format("{} sm_{}", d.gpu_name(), d.arch()),
          fmt::format("gemm {}{}{} m {} n {} k {} a {}{} b {}{} c {}{}", p.dtype, tf32 ? " tf32" : "",
                      p.bias ? " bias" : "", p.m, p.n, p.k, a_.lead, a_.transposed ? "t" : "", b_.lead,
                      b_.transposed ? "t" : "", c_.lead, batches)};
}

void Product::lay(size_t i, const Operand& o, int64_t rows, int64_t cols, const GemmProblem::Matrix& m) {
  auto& l = layout_[i];
  check(f_.cublasLtMatrixLayoutCreate(&l, data_type(problem_.dtype), static_cast<uint64_t>(o.transposed ? rows : cols),
                                      static_cast<uint64_t>(o.transposed ? cols : rows), o.lead),
        "cublasLtMatrixLayoutCreate");
  for (int axis = 0; axis < problem_.batch.rank(); ++axis)
    steps_aligned_ = steps_aligned_ && m.batch[axis] * static_cast<int64_t>(size_of(problem_.dtype)) % 16 == 0;
  if (problem_.batch.rank() == 0) return;
  set(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(problem_.batches()));
  if (pointers_) set(l, CUBLASLT_MATRIX_LAYOUT_BATCH_MODE, uint32_t{CUBLASLT_BATCH_MODE_POINTER_ARRAY});
  else set(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, m.batch[0]);
}

std::vector<cublasLtMatmulAlgo_t> Product::heuristics(uint32_t alignment, int most) const {
  cublasLtMatmulPreference_t preference = nullptr;
  check(f_.cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  f_.cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                          sizeof workspace_bytes);
  for (auto what : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    f_.cublasLtMatmulPreferenceSetAttribute(preference, what, &alignment, sizeof alignment);
  std::array<cublasLtMatmulHeuristicResult_t, most_candidates> found{};
  int count = 0;
  const cublasStatus_t s = f_.cublasLtMatmulAlgoGetHeuristic(blas_.handle, op_, layout_[0], layout_[1], layout_[2],
                                                             layout_[2], preference, most, found.data(), &count);
  f_.cublasLtMatmulPreferenceDestroy(preference);
  std::vector<cublasLtMatmulAlgo_t> out;
  for (int i = 0; s == CUBLAS_STATUS_SUCCESS && i < count; ++i)
    if (found[static_cast<size_t>(i)].state == CUBLAS_STATUS_SUCCESS) out.push_back(found[static_cast<size_t>(i)].algo);
  return out;
}

// The choice of an earlier process, if the library still takes it.
bool Product::restore(const Tuned& t) {
  const auto a = algorithm_of(t.candidates[t.chosen].config);
  if (!a) return false;
  cublasLtMatmulHeuristicResult_t r{};
  if (f_.cublasLtMatmulAlgoCheck(blas_.handle, op_, layout_[0], layout_[1], layout_[2], layout_[2], &*a, &r) !=
          CUBLAS_STATUS_SUCCESS ||
      r.workspaceSize > workspace_bytes)
    return false;
  candidates_ = {*a};
  return true;
}

bool Product::prepare() {
  const auto any = heuristics(static_cast<uint32_t>(size_of(problem_.dtype)), 1);
  if (any.empty()) return false;
  unaligned_ = any[0];
  if (!deterministic())
    if (const auto known = find_tuned(key_); known && restore(*known)) return true;
  candidates_ = heuristics(16, deterministic() ? 1 : most_candidates);
  decided_ = candidates_.size() < 2;
  return !candidates_.empty();
}

cublasStatus_t Product::go(const Pointers& p, const cublasLtMatmulAlgo_t& a) const {
  const bool wide = problem_.dtype == DType::f64;
  const double one64 = 1, zero64 = 0;
  const float one32 = 1, zero32 = 0;
  return f_.cublasLtMatmul(blas_.handle, op_, wide ? static_cast<const void*>(&one64) : &one32, p.b, layout_[0], p.a,
                           layout_[1], wide ? static_cast<const void*>(&zero64) : &zero32, p.c, layout_[2], p.c,
                           layout_[2], &a, blas_.workspace->data(), workspace_bytes,
                           reinterpret_cast<cudaStream_t>(device_.stream()));
}

// Every candidate writes all of c, so the operands at hand serve.
void Product::choose(const Pointers& p) {
  std::vector<std::string> configs;
  configs.reserve(candidates_.size());
  for (const cublasLtMatmulAlgo_t& a : candidates_) configs.push_back(text_of(a));
  double best = -1;
  const auto time = [&](size_t i) {
    if (go(p, candidates_[i]) != CUBLAS_STATUS_SUCCESS) return -1.0;
    return time_on(
        device_, [&] { check(go(p, candidates_[i]), "cublasLtMatmul"); }, best);
  };
  const std::optional<Tuned> known = find_tuned(key_);  // by another plan meanwhile
  const Tuned t = known && known->candidates.size() == configs.size() ? *known : tune(key_, configs, time);
  chosen_ = t.chosen;
  decided_ = true;
}

void Product::run(const Run& r) {
  std::lock_guard lock(mutex_);
  const bool bias = problem_.bias;
  if (bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, r.buffers[2]);
  Pointers p{r.buffers[0], r.buffers[1], r.buffers[bias ? 3 : 2]};
  bool aligned = steps_aligned_;
  for (const void* at : {p.a, p.b, static_cast<const void*>(p.c), static_cast<const void*>(r.buffers[2])})
    aligned = aligned && reinterpret_cast<uintptr_t>(at) % 16 == 0;
  if (pointers_) {
    const int64_t count = problem_.batches();
    (*pointers_)({.blocks = blocks_for(count, 256)}, DeviceGemm(problem_), count, p.a, p.b, p.c, r.workspace);
    void** lists = static_cast<void**>(r.workspace);
    p = {lists, lists + count, lists + 2 * count};
  }
  std::optional<CudaDevice::Meter> meter;  // the first run loads the library's kernels
  if (!used_) meter.emplace(device_);
  if (aligned && !decided_ && !device_.capturing()) choose(p);
  check(go(p, aligned ? candidates_[chosen_] : unaligned_), "cublasLtMatmul");
  used_ = true;
}

}  // namespace

BlasFunctions::BlasFunctions() {
  void* l = need_library("cuBLASLt", {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"});
#define FLAME_LOAD(name) name = reinterpret_cast<decltype(name)>(need_symbol(l, #name));
  FLAME_BLAS_FUNCTIONS(FLAME_LOAD)
#undef FLAME_LOAD
}
Libraries::Blas::Blas(CudaDevice& d) {
  check(f.cublasLtCreate(&handle), "cublasLtCreate");
  workspace = make_ref<Storage>(d, workspace_bytes, Loc::current(), MemoryKind::workspace);
}

Ref<Kernel> gemm_batches_kernel(Device& d, DType t) {
  return d.kernel({"gemm batches",
                   std::string(device_text("device/cuda/gemm.cu")),
                   "batch_pointers",
                   {std::string("-DFLAME_T=") + device_type(t), "--fmad=false"}});
}

Ref<Plan> blas_gemm(CudaDevice& d, const GemmDesc& g) {
  if (!is_float(g.c.dtype)) return {};
  const GemmProblem p = gemm_problem(g);
  if (p.m == 0 || p.n == 0 || p.k == 0 || p.batches() == 0) return {};
  if (p.batch.rank() > DeviceGemm::most_axes || (p.bias && p.batch.rank() > 1)) return {};
  const auto c = operand(p.c, p.m, p.n);
  if (!operand(p.a, p.m, p.k) || !operand(p.b, p.k, p.n) || !c || c->transposed) return {};
  d.enter();
  const CudaDevice::Meter meter(d);
  auto product = std::make_shared<Product>(d, d.libraries().blas(), p, g.tf32);
  if (!product->prepare()) return {};
  if (p.batch.rank() > 1) tuning_stats().pointer_batches += 1;
  return make_ref<Plan>("gemm", d.in_order(g.bias ? 4 : 3, 0, [product](const Run& r) { product->run(r); }),
                        product->workspace());
}

Ref<Plan> CudaDevice::gemm(const GemmDesc& g) {
  if (Ref<Plan> p = blas_gemm(*this, g)) return p;
  return own_gemm(*this, g);
}

}  // namespace flame::cuda
