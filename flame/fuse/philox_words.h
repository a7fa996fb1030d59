// Internal: many Philox blocks at once, as the scalar function of core/philox.h makes them one by one.
#pragma once
#include <cstdint>

namespace flame {

// The words of blocks first .. first + blocks - 1, four a block in order; best instruction set of this CPU.
void philox_words(uint64_t seed, uint64_t first, uint64_t call, int64_t blocks, uint32_t* words);
// The words of elements first, first + step, ..., where four elements share a block: element k has word k % 4 of block k / 4.
void philox_words_of(uint64_t seed, uint64_t first, uint64_t step, uint64_t call, int64_t n, uint32_t* words);

}  // namespace flame
