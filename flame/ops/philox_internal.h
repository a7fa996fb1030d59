// Internal: random bits in numbers, and normals made of them.
#pragma once
#include "flame/fuse/philox_words.h"

namespace flame {

// out[i] = shift + scale * inverse_normal::from_bits(bits[i]), the same bits as one by one.
void normals_of(const uint32_t* bits, int64_t count, float shift, float scale, float* out);

}  // namespace flame
