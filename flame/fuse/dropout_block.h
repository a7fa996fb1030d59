// Internal: dropout of a block on the CPU, whose words are made as they are used.
#pragma once
#include "flame/tensor/draw.h"

namespace flame {

struct KeptWords {
  DrawNumbers draw;
  uint32_t last;  // the highest that keeps an element
};
// out[i] = x[i] * scale where the word of element index + i * stride is kept, else 0; out may be x. Four elements share a
// Philox block, so the word of element k is word k % 4 of block k / 4.
void drop_block(const KeptWords& w, int64_t index, int64_t stride, float scale, const float* x, float* out, int64_t n);
void drop_block(const KeptWords& w, int64_t index, int64_t stride, double scale, const double* x, double* out,
                int64_t n);

}  // namespace flame
