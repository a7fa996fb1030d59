// Matrix products by cuBLASLt: row-major products asked as column-major ones of swapped operands, with bias, activation,
// slope and sums as epilogues. Several algorithms are timed on a plan's first operands; the choice stays on disk.
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
#include "flame/device/cuda/library_errors.h"
#include "flame/device/cuda/library_handles.h"
#include "flame/device/cuda/step_graph.h"
#include "flame/device/cuda/tuning.h"
#include "flame/device/kernel.h"

namespace flame::cuda {
namespace {

constexpr size_t workspace_bytes = size_t{32} << 20;
constexpr int most_candidates = 6;

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

// An algorithm as text: all that is configured in it.
std::string text_of(const BlasFunctions& f, const cublasLtMatmulAlgo_t& a) {
  struct Attribute {
    const char* name;
    cublasLtMatmulAlgoConfigAttributes_t id;
    size_t bytes;
  };
  constexpr Attribute all[] = {{"algorithm", CUBLASLT_ALGO_CONFIG_ID, 4},
                               {"tile", CUBLASLT_ALGO_CONFIG_TILE_ID, 4},
                               {"stages", CUBLASLT_ALGO_CONFIG_STAGES_ID, 4},
                               {"split-k", CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 4},
                               {"reduction", CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, 4},
                               {"swizzle", CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, 4},
                               {"custom", CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, 4},
                               {"inner", CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, 2},
                               {"cluster", CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, 2}};
  std::string out;
  for (const Attribute& x : all) {
    uint32_t value = 0;  // little endian: two bytes fill the lower half
    size_t written = 0;
    if (f.cublasLtMatmulAlgoConfigGetAttribute(&a, x.id, &value, x.bytes, &written) == CUBLAS_STATUS_SUCCESS)
      out += fmt::format("{}{} {}", out.empty() ? "" : " ", x.name, value);
  }
  return out;
}
cublasLtEpilogue_t epilogue(const GemmDesc& g) {
  const auto of = [](Activation a, cublasLtEpilogue_t relu, cublasLtEpilogue_t gelu) {
    return a == Activation::relu ? relu : gelu;
  };
  if (g.slope != Activation::none) return of(g.slope, CUBLASLT_EPILOGUE_DRELU, CUBLASLT_EPILOGUE_DGELU);
  if (g.sums) return CUBLASLT_EPILOGUE_BGRADB;
  if (g.activation == Activation::none) return g.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  if (g.keep)
    return g.bias ? of(g.activation, CUBLASLT_EPILOGUE_RELU_AUX_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS)
                  : of(g.activation, CUBLASLT_EPILOGUE_RELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX);
  return g.bias ? of(g.activation, CUBLASLT_EPILOGUE_RELU_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS)
                : of(g.activation, CUBLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_GELU);
}
// "", or " bias", " gelu_tanh kept", " relu slope", " sums", " to float32 added".
std::string epilogue_text(const GemmDesc& g) {
  const auto name = [](Activation a) { return a == Activation::relu ? " relu" : " gelu_tanh"; };
  std::string out = g.bias ? " bias" : "";
  if (g.activation != Activation::none) out += name(g.activation);
  if (g.keep) out += " kept";
  if (g.slope != Activation::none) out += name(g.slope) + std::string(" slope");
  if (g.sums) out += " sums";
  if (g.c.dtype != g.a.dtype) out += " to float32";
  if (g.add) out += " added";
  return out;
}

// All that one product needs, prepared once.
class Product {
 public:
  Product(CudaDevice& d, Libraries::Blas& blas, const GemmDesc& g, const GemmProblem& p);
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
  ~Product() {
    for (cublasLtMatrixLayout_t l : layout_)
      if (l) f_.cublasLtMatrixLayoutDestroy(l);
    if (op_) f_.cublasLtMatmulDescDestroy(op_);
  }
  bool prepare();  // false: the library has no algorithm
  size_t workspace() const;
  void run(const Run& r);

 private:
  template <class V>
  void set(cublasLtMatmulDescAttributes_t what, const V& v) {
    must(device_, "cublasLtMatmulDescSetAttribute",
         [&] { return f_.cublasLtMatmulDescSetAttribute(op_, what, &v, sizeof v); });
  }
  template <class V>
  void set(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t what, const V& v) {
    must(device_, "cublasLtMatrixLayoutSetAttribute",
         [&] { return f_.cublasLtMatrixLayoutSetAttribute(l, what, &v, sizeof v); });
  }
  bool keeps() const { return desc_.keep || desc_.slope != Activation::none; }
  void lay(size_t i, DType t, const Operand& o, int64_t rows, int64_t cols, const GemmProblem::Matrix& m);
  std::vector<cublasLtMatmulAlgo_t> heuristics(uint32_t alignment, size_t most) const;
  struct Pointers {
    const void *a, *b, *added;
    void* c;
  };
  cublasStatus_t go(const Pointers& p, const cublasLtMatmulAlgo_t& a) const;
  std::vector<std::string> configs() const;
  void choose_among(Pointers p, const Run& r);

  CudaDevice& device_;
  Libraries::Blas& blas_;
  const BlasFunctions& f_;
  const GemmDesc desc_;
  const GemmProblem problem_;
  Operand a_, b_, c_;
  TuningKey key_;
  cublasLtMatmulDesc_t op_ = nullptr;
  std::array<cublasLtMatrixLayout_t, 3> layout_{};  // of b, a, c
  Ref<Kernel> pointers_;                            // where the batches have several axes
  bool steps_aligned_ = true;
  std::vector<cublasLtMatmulAlgo_t> unaligned_;   // one, for operands anywhere; none where an epilogue forbids it
  std::vector<cublasLtMatmulAlgo_t> candidates_;  // for operands at multiples of 16 bytes
  Ref<Plan> apart_;                               // the product, and a kernel for its epilogue
  struct Own {
    std::string text;
    Ref<Plan> plan;
  };
  std::vector<Own> own_;  // further candidates
  size_t chosen_ = 0;     // of candidates_ and own_
  bool decided_ = true, used_ = false;
  std::mutex mutex_;  // addresses are part of the description
};

Product::Product(CudaDevice& d, Libraries::Blas& blas, const GemmDesc& g, const GemmProblem& p)
    : device_(d),
      blas_(blas),
      f_(blas.f),
      desc_(g),
      problem_(p),
      a_(*operand(p.a, p.m, p.k)),
      b_(*operand(p.b, p.k, p.n)),
      c_(*operand(p.c, p.m, p.n)) {
  const bool wide = p.dtype == DType::f64, tf32 = g.tf32 && p.dtype == DType::f32;
  must(d, "cublasLtMatmulDescCreate", [&] {
    return f_.cublasLtMatmulDescCreate(&op_,
                                       wide   ? CUBLAS_COMPUTE_64F
                                       : tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                              : CUBLAS_COMPUTE_32F,
                                       wide ? CUDA_R_64F : CUDA_R_32F);
  });
  // c^T = b^T a^T: the first operand is b.
  set(CUBLASLT_MATMUL_DESC_TRANSA, b_.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, a_.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (const cublasLtEpilogue_t e = epilogue(g); e != CUBLASLT_EPILOGUE_DEFAULT) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, e);
    if (p.bias || g.sums) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, blas.workspace);  // some address, until it runs
  }
  if (keeps()) {
    const bool bits = g.activation == Activation::relu || g.slope == Activation::relu;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, bits ? (p.n + 127) / 128 * 128 : p.n);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, blas.workspace);
  }
  if (p.batch.rank() > 1) pointers_ = gemm_batches_kernel(d, p.dtype);
  lay(0, p.dtype, b_, p.k, p.n, p.b);
  lay(1, p.dtype, a_, p.m, p.k, p.a);
  lay(2, p.c_dtype, c_, p.m, p.n, p.c);
  std::string batches;
  for (int i = 0; i < p.batch.rank(); ++i)
    batches += fmt::format(" x {} ({} {} {})", p.batch[i], p.a.batch[i], p.b.batch[i], p.c.batch[i]);
  key_ = {fmt::format("cuBLASLt {}", f_.cublasLtGetVersion()), fmt::format("{} sm_{}", d.gpu_name(), d.arch()),
          fmt::format("gemm {}{}{} m {} n {} k {} a {}{} b {}{} c {}{}", p.dtype, tf32 ? " tf32" : "", epilogue_text(g),
                      p.m, p.n, p.k, a_.lead, a_.transposed ? "t" : "", b_.lead, b_.transposed ? "t" : "", c_.lead,
                      batches)};
}

void Product::lay(size_t i, DType t, const Operand& o, int64_t rows, int64_t cols, const GemmProblem::Matrix& m) {
  auto& l = layout_[i];
  must(device_, "cublasLtMatrixLayoutCreate", [&] {
    return f_.cublasLtMatrixLayoutCreate(&l, data_type(t), static_cast<uint64_t>(o.transposed ? rows : cols),
                                         static_cast<uint64_t>(o.transposed ? cols : rows), o.lead);
  });
  for (int axis = 0; axis < problem_.batch.rank(); ++axis)
    steps_aligned_ = steps_aligned_ && m.batch[axis] * static_cast<int64_t>(size_of(t)) % 16 == 0;
  if (problem_.batch.rank() == 0) return;
  set(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(problem_.batches()));
  if (pointers_) set(l, CUBLASLT_MATRIX_LAYOUT_BATCH_MODE, uint32_t{CUBLASLT_BATCH_MODE_POINTER_ARRAY});
  else set(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, m.batch[0]);
}

std::vector<cublasLtMatmulAlgo_t> Product::heuristics(uint32_t alignment, size_t most) const {
  cublasLtMatmulPreference_t preference = nullptr;
  must(device_, "cublasLtMatmulPreferenceCreate", [&] { return f_.cublasLtMatmulPreferenceCreate(&preference); });
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& v) {
    f_.cublasLtMatmulPreferenceSetAttribute(preference, what, &v, sizeof v);
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  for (auto what : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    prefer(what, alignment);
  // How parts along k may be added: in float32 where numbers have 16 bits, and in an order where results must repeat.
  const uint32_t in_float32 = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE,
                 ordered = in_float32 | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, any = CUBLASLT_REDUCTION_SCHEME_MASK;
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, size_of(problem_.dtype) == 2 ? in_float32
                                                     : deterministic()            ? ordered
                                                                                  : any);
  std::array<cublasLtMatmulHeuristicResult_t, most_candidates> found{};
  int count = 0;
  const cublasStatus_t s = with_memory(device_, [&] {
    return f_.cublasLtMatmulAlgoGetHeuristic(blas_.handle, op_, layout_[0], layout_[1], layout_[2], layout_[2],
                                             preference, static_cast<int>(most), found.data(), &count);
  });
  f_.cublasLtMatmulPreferenceDestroy(preference);
  if (verdict(s) != Verdict::done) raise_device_error(device_, verdict(s), "cublasLtMatmulAlgoGetHeuristic");
  if (verdict(s) == Verdict::failed)
    fail<DeviceError>(Loc::current(), "cuda: cublasLtMatmulAlgoGetHeuristic failed: {}", status_name(s));
  std::vector<cublasLtMatmulAlgo_t> out;
  for (int i = 0; verdict(s) == Verdict::done && i < count; ++i)
    if (found[static_cast<size_t>(i)].state == CUBLAS_STATUS_SUCCESS) out.push_back(found[static_cast<size_t>(i)].algo);
  return out;
}

std::vector<std::string> Product::configs() const {
  std::vector<std::string> out;
  out.reserve(candidates_.size() + own_.size());
  for (const cublasLtMatmulAlgo_t& a : candidates_) out.push_back(text_of(f_, a));
  for (const Own& o : own_) out.push_back(o.text);
  return out;
}

// What an epilogue does by kernels of ours is a candidate too, since some take longer than the pass they save, and so
// are whole products: small ones, and on Hopper those of 16 bits with gelu_tanh.
bool Product::prepare() {
  const bool timed = !deterministic(), summed_slope = desc_.sums && desc_.slope != Activation::none;
  if (!summed_slope) {  // which cuBLASLt takes three times as long for as for its parts
    unaligned_ = heuristics(static_cast<uint32_t>(size_of(problem_.dtype)), 1);
    if (unaligned_.empty() && !has_epilogue(desc_)) return false;
    candidates_ = heuristics(16, deterministic() ? 1 : most_candidates);
    if (candidates_.empty()) return false;
  }
  const bool through = summed_slope || (timed && has_epilogue(desc_));
  if (through || unaligned_.empty()) apart_ = unfused_gemm(device_, desc_, device_.gemm(without_epilogue(desc_)));
  if (through) own_.push_back({"apart: a product, and a kernel behind it", apart_});
  if (timed) {
    if (Ref<Plan> small = small_gemm(device_, desc_)) own_.push_back({"own: small tiles", std::move(small)});
    for (const int columns : wide_gemm_columns)
      if (Ref<Plan> wide = wide_gemm(device_, desc_, columns))
        own_.push_back({fmt::format("own: tiles of 128 x {}", columns), std::move(wide)});
  }
  decided_ = candidates_.size() + own_.size() < 2;
  if (!decided_)
    if (const auto known = find_choice(key_, configs())) {
      chosen_ = *known;
      decided_ = true;
    }
  return true;
}

// Of pointers, or of what is done by kernels of ours, as long as that may run.
size_t Product::workspace() const {
  size_t most = pointers_ ? 3 * sizeof(void*) * static_cast<size_t>(problem_.batches()) : 0;
  if (apart_ && (!decided_ || unaligned_.empty())) most = std::max(most, apart_->workspace);
  for (size_t i = 0; i < own_.size(); ++i)
    if (!decided_ || chosen_ == candidates_.size() + i) most = std::max(most, own_[i].plan->workspace);
  return most;
}

cublasStatus_t Product::go(const Pointers& p, const cublasLtMatmulAlgo_t& a) const {
  const bool wide = problem_.dtype == DType::f64;
  const double one64 = 1, beta64 = problem_.add ? 1 : 0;
  const float one32 = 1, beta32 = problem_.add ? 1 : 0;
  return f_.cublasLtMatmul(blas_.handle, op_, wide ? static_cast<const void*>(&one64) : &one32, p.b, layout_[0], p.a,
                           layout_[1], wide ? static_cast<const void*>(&beta64) : &beta32, p.added, layout_[2], p.c,
                           layout_[2], &a, blas_.scratch(), workspace_bytes,
                           reinterpret_cast<cudaStream_t>(device_.stream()));
}

// Every candidate writes all of its results, so the operands at hand serve; what is added to may be the result, which
// then goes elsewhere. Without room for that the first candidate serves this plan from now on, since each further try
// would wait for the device and empty its cache; nothing goes to the disk, so that another process may time them.
void Product::choose_among(Pointers p, const Run& r) {
  std::shared_ptr<void> elsewhere;
  if (problem_.add) {
    if (device_.work_waits()) return;  // the first candidate, this time: free memory may belong to what waits
    const size_t bytes = size_of(problem_.c_dtype) * static_cast<size_t>(problem_.m * c_.lead);
    elsewhere = {device_.memory().allocate(bytes, MemoryKind::workspace), [this](void* at) {
                   if (at) device_.memory().deallocate(at);
                 }};
    if (!elsewhere) {
      chosen_ = 0;
      decided_ = true;
      return;
    }
    p.c = elsewhere.get();
  }
  double best = -1;
  const auto time = [&](size_t i) {
    if (i >= candidates_.size())
      return time_on(
          device_, [&] { own_[i - candidates_.size()].plan->body(r); }, best);
    if (!works(device_, "cublasLtMatmul", [&] { return go(p, candidates_[i]); })) return -1.0;
    return time_on(
        device_, [&] { must(device_, "cublasLtMatmul", [&] { return go(p, candidates_[i]); }); }, best);
  };
  chosen_ = choose(key_, configs(), time);
  decided_ = true;
}

// Buffers: a, b, (bias), (kept), (added), c, (kept), (sums).
void Product::run(const Run& r) {
  std::lock_guard lock(mutex_);
  const bool slope = desc_.slope != Activation::none;
  const int kept = problem_.bias ? 3 : 2, c = kept + (slope || problem_.add ? 1 : 0),
            last = c + (desc_.keep || desc_.sums ? 1 : 0);
  bool aligned = steps_aligned_;
  for (int i = 0; i <= last; ++i) aligned = aligned && reinterpret_cast<uintptr_t>(r.buffers[i]) % 16 == 0;
  if (!aligned && unaligned_.empty()) return apart_->body(r);
  if (problem_.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, r.buffers[2]);
  if (desc_.sums) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, r.buffers[last]);
  if (keeps()) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, r.buffers[slope ? kept : last]);
  Pointers p{r.buffers[0], r.buffers[1], r.buffers[problem_.add ? c - 1 : c], r.buffers[c]};
  if (pointers_) {
    const int64_t count = problem_.batches();
    (*pointers_)({.blocks = blocks_for(count, 256)}, DeviceGemm(problem_), count, p.a, p.b, p.c, r.workspace);
    void** lists = static_cast<void**>(r.workspace);
    p = {lists, lists + count, lists + 2 * count, lists + 2 * count};
  }
  std::optional<CudaDevice::Meter> meter;  // the first run loads the library's kernels
  if (!used_) meter.emplace(device_);
  if (aligned && !decided_ && !device_.capturing()) choose_among(p, r);
  const bool own = aligned && chosen_ >= candidates_.size();
  if (own) own_[chosen_ - candidates_.size()].plan->body(r);
  else must(device_, "cublasLtMatmul", [&] { return go(p, aligned ? candidates_[chosen_] : unaligned_[0]); });
  used_ = true;
  if (has_epilogue(desc_) && !own) tuning_stats().epilogues += 1;
}

}  // namespace

BlasFunctions::BlasFunctions() {
  void* l = need_library("cuBLASLt", {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"});
#define FLAME_LOAD(name) name = reinterpret_cast<decltype(name)>(need_symbol(l, #name));
  FLAME_BLAS_FUNCTIONS(FLAME_LOAD)
#undef FLAME_LOAD
}
// The workspace is the allocator's, not a Storage: a plan may be prepared inside a recording, which it must outlive.
Libraries::Blas::Blas(CudaDevice& d)
    : device(d), workspace(d.memory().allocate(workspace_bytes, MemoryKind::workspace)) {
  if (!workspace) d.refuse("cuBLASLt's workspace");
  try {
    must(d, "cublasLtCreate", [&] { return f.cublasLtCreate(&handle); });
  } catch (...) {
    d.memory().deallocate(workspace);
    throw;
  }
}

void* Libraries::Blas::scratch() {
  const StepGraph* g = StepGraph::taking(device);
  if (!g || g->lane() == 0) return workspace;
  std::lock_guard lock(mutex_);
  while (beside_.size() < g->lane()) {
    void* more = device.memory().allocate(workspace_bytes, MemoryKind::workspace);
    if (!more) device.refuse("cuBLASLt's workspace");
    beside_.push_back(more);
  }
  return beside_[g->lane() - 1];
}

Ref<Kernel> gemm_batches_kernel(Device& d, DType t) {
  return d.kernel(
      {"gemm batches",
       std::string(own_text("device/cuda/gemm.cu")),
       "batch_pointers",
       {std::string("-DFLAME_T=") + device_type(t), std::string("-DFLAME_OUT=") + device_type(t), "--fmad=false"}});
}

Ref<Plan> blas_gemm(CudaDevice& d, const GemmDesc& g) {
  if (!is_float(g.c.dtype)) return {};
  const GemmProblem p = gemm_problem(g);
  if (p.m == 0 || p.n == 0 || p.k == 0 || p.batches() == 0) return {};
  if (p.batch.rank() > DeviceGemm::most_axes || (p.bias && p.batch.rank() > 1)) return {};
  const auto c = operand(p.c, p.m, p.n);
  if (!operand(p.a, p.m, p.k) || !operand(p.b, p.k, p.n) || !c || c->transposed) return {};
  if ((g.add || p.c_dtype != p.dtype) && p.batch.rank() > 0) return {};
  if (has_epilogue(g)) {
    if (p.batch.rank() > 0 || c->lead != p.n) return {};
    const bool gelu = g.activation == Activation::gelu_tanh || g.slope == Activation::gelu_tanh;
    if (gelu && size_of(p.dtype) != 2) return {};  // cuBLASLt's is good for 16 bits, even where numbers have 64
    if (gelu && (g.keep || g.slope != Activation::none) && p.n % 8 != 0) return {};  // its rows of what is kept
  }
  d.enter();
  const CudaDevice::Meter meter(d);
  auto product = std::make_shared<Product>(d, d.libraries().blas(), g, p);
  if (!product->prepare()) return {};
  if (p.batch.rank() > 1) tuning_stats().pointer_batches += 1;
  if (has_epilogue(g)) tuning_stats().fused_products += 1;
  const size_t buffers =
      3 + (g.bias ? 1 : 0) + (g.slope != Activation::none ? 1 : 0) + (g.add ? 1 : 0) + (g.keep || g.sums ? 1 : 0);
  return make_ref<Plan>("gemm", d.in_order(buffers, 0, [product](const Run& r) { product->run(r); }),
                        product->workspace());
}

Ref<Plan> CudaDevice::gemm(const GemmDesc& g) {
  if (Ref<Plan> p = prepared([&] { return blas_gemm(*this, g); })) return p;
  return has_epilogue(g) ? unfused_gemm(*this, g, gemm(without_epilogue(g))) : own_gemm(*this, g);
}

}  // namespace flame::cuda
