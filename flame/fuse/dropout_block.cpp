// Dropout on blocks: some hundreds of words at a time from the vector kernels, four a Philox block where elements follow each
// other.
#include "flame/fuse/dropout_block.h"

#include <algorithm>
#include <bit>
#include <type_traits>

#include "flame/fuse/philox_words.h"

namespace flame {

namespace {

constexpr int64_t blocks_at_a_time = 64;

template <class T>
void select(const uint32_t* words, uint32_t last, T scale, const T* x, T* out, int64_t n) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  for (int64_t i = 0; i < n; ++i)
    out[i] = std::bit_cast<T>(std::bit_cast<Bits>(x[i] * scale) & -static_cast<Bits>(words[i] <= last));
}

template <class T>
void drop(const KeptWords& w, int64_t index, int64_t stride, T scale, const T* x, T* out, int64_t n) {
  uint32_t words[4 * blocks_at_a_time];
  for (int64_t done = 0; done < n;) {
    int64_t first = 0, count = std::min(n - done, 4 * blocks_at_a_time);
    if (stride == 1) {
      const int64_t at = index + done;
      first = at % 4;
      count = std::min(count, 4 * blocks_at_a_time - first);
      philox_words(w.draw.seed, static_cast<uint64_t>(at / 4), w.draw.call, (first + count + 3) / 4, words);
    } else {
      philox_words_of(w.draw.seed, static_cast<uint64_t>(index + done * stride), static_cast<uint64_t>(stride),
                      w.draw.call, count, words);
    }
    select(words + first, w.last, scale, x + done, out + done, count);
    done += count;
  }
}

}  // namespace

void drop_block(const KeptWords& w, int64_t index, int64_t stride, float scale, const float* x, float* out, int64_t n) {
  drop(w, index, stride, scale, x, out, n);
}
void drop_block(const KeptWords& w, int64_t index, int64_t stride, double scale, const double* x, double* out,
                int64_t n) {
  drop(w, index, stride, scale, x, out, n);
}

}  // namespace flame
