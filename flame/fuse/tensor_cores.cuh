// Tensor cores and what feeds them, as PTX of sm_80 and later, since NVRTC compiles without mma.h: asynchronous copies to
// shared memory, matrices of 8 x 8 from there, and products with float32 sums: m16n8k16 of 16-bit operands, m16n8k8 of TF32.
#pragma once
#include "flame/fuse/device.cuh"

namespace flame {

inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
// 16 or 4 bytes to shared memory, zeros if not `there`.
inline void copy16(void* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0)
               : "memory");
}
inline void copy4(void* to, const void* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(there ? 4 : 0)
               : "memory");
}
inline void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but the `left` latest groups of copies have arrived.
template <int left>
void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

// Four matrices; lane i names row i % 8 of matrix i / 8.
inline void load4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
inline void load4_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b; `brain`: of bfloat16, else float16.
template <bool brain>
void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#define FLAME_MULTIPLY(types)                               \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." types        \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
      "{%0, %1, %2, %3};"                                   \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])      \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (brain) FLAME_MULTIPLY("bf16.bf16");
  else FLAME_MULTIPLY("f16.f16");
#undef FLAME_MULTIPLY
}
// float32 rounded to the 10 bits of mantissa that tensor cores take of it, and d += a b of m16n8k8 with such numbers.
inline uint32_t tensor_float(float x) {
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}
inline void multiply_tf32(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <bool brain>
uint32_t packed(float low, float high) {
  uint32_t r;
  if constexpr (brain) asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  else asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace flame
