// Matrix products by oneDNN: float32 and the 16-bit floats that this CPU and version take, with the bias fused.
#include "flame/device/cpu/gemm.h"

#ifdef FLAME_WITH_ONEDNN
#include "flame/device/cpu/onednn.h"

namespace flame {
namespace {

// A description of one operand in oneDNN's terms; false for strides that it has no format for.
bool describe(const GemmProblem& p, const GemmProblem::Matrix& x, int64_t rows, int64_t cols, dnnl::memory::desc& out) {
  int64_t rs = x.rs, cs = x.cs;
  // Along an axis of size 1 the stride says nothing: take the one that makes the matrix plain.
  if (cols == 1) cs = rs >= 1 || rows == 1 ? 1 : 0;
  if (rows == 1 && cols > 1) rs = cs == 1 ? cols : 1;
  if (rows == 1 && cols == 1) rs = 1;
  const bool plain = cs == 1 && rs >= cols, transposed = rs == 1 && cs >= rows;
  if (!plain && !transposed) return false;
  dnnl::memory::dims dims, strides;
  for (int i = 0; i < p.batch.rank(); ++i) {
    if (x.batch[i] < 0) return false;
    dims.push_back(x.batch[i] == 0 ? 1 : p.batch[i]);
    strides.push_back(x.batch[i] == 0 ? rows * cols : x.batch[i]);
  }
  dims.insert(dims.end(), {rows, cols});
  strides.insert(strides.end(), {rs, cs});
  out = dnnl::memory::desc(dims, onednn::data_type(p.dtype), strides);
  return true;
}

}  // namespace

Ref<Plan> gemm_onednn(const GemmProblem& p) {
  if (onednn::data_type(p.dtype) == dnnl::memory::data_type::undef || p.k == 0) return nullptr;
  dnnl::memory::desc a, b, c, bias;
  if (!describe(p, p.a, p.m, p.k, a) || !describe(p, p.b, p.k, p.n, b) || !describe(p, p.c, p.m, p.n, c))
    return nullptr;
  if (p.bias) {
    dnnl::memory::dims dims(static_cast<size_t>(p.batch.rank()) + 2, 1), strides(dims.size(), p.n);
    dims.back() = p.n;
    strides.back() = 1;
    bias = dnnl::memory::desc(dims, onednn::data_type(p.dtype), strides);
  }
  const LibraryThreads threads(num_threads());
  const dnnl::matmul::primitive_desc pd(onednn::engine(), a, b, bias, c, onednn::user_scratchpad(), true);
  if (!pd || onednn::is_reference(pd)) return nullptr;
  std::vector<onednn::Call::Argument> arguments{{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}};
  if (p.bias) arguments.push_back({DNNL_ARG_BIAS, bias});
  arguments.push_back({DNNL_ARG_DST, c});
  arguments.push_back({DNNL_ARG_SCRATCHPAD, pd.scratchpad_desc()});
  const auto call = std::make_shared<onednn::Call>(dnnl::matmul(pd), std::move(arguments));
  const size_t scratch = pd.scratchpad_desc().get_size();
  if (p.bias)
    return make_ref<Plan>(
        "gemm",
        [call](const Run& r) {
          call->run({r.buffers[0], r.buffers[1], r.buffers[2], r.buffers[3], r.workspace});
        },
        scratch);
  return make_ref<Plan>(
      "gemm",
      [call](const Run& r) {
        call->run({r.buffers[0], r.buffers[1], r.buffers[2], r.workspace});
      },
      scratch);
}

}  // namespace flame
#endif
