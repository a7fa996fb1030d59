// Internal: one call of a generator that launches may ask for more than once: forward, and backward again.
#pragma once
#include <array>

#include "flame/device/device.h"
#include "flame/tensor/generator.h"

namespace flame {

// Its number is known at once; but inside a recording the generator's block is what replays renew.
class Draw {
 public:
  explicit Draw(Generator& g);
  // For a launch that is made now: the block's address, or null; what is added to its base, or the call's number; the seed.
  std::array<Word, 3> words() const;

 private:
  Generator::Call call_;
  Generator::Block now_;
  uint64_t recording_ = 0;
};

// What a launch reads of such words when it is made.
struct DrawNumbers {
  uint64_t seed, call;
};
DrawNumbers draw_numbers(const Word* words);

}  // namespace flame
