// Attention forward on the CPU. Scores are computed transposed (keys down, queries across), a tile at a time: a tile then
// is the packed right operand of the next product, and its maxima and sums run along the lanes.
#include <cmath>

#include "flame/ops/attention_tiles_internal.h"
#include "flame/tensor/draw.h"

namespace flame {

AttentionDraw attention_draw(const Word* w) {
  const DrawNumbers n = draw_numbers(w + 3);
  return {n.seed, n.call, w[1].u, w[2].f};
}

namespace attention {
namespace {

template <class A>
class Forward {
 public:
  Forward(std::span<const Meta> in, std::span<const Meta> out, const AttentionFlags& f)
      : s_(in, f),
        scores_(attention_kernel(in[0].dtype)),
        q_(in[0]),
        k_(in[1]),
        v_(in[2]),
        out_(out[0]),
        mask_(f.mask ? in[3] : in[0]),
        extras_(f.mask ? &in[3] : nullptr),
        blocks_((s_.queries + query_block - 1) / query_block),
        slots_(s_.batch * s_.heads * blocks_, buffers(nullptr).second) {}
  size_t workspace() const { return slots_.workspace(); }

  void run(const Run& r) const {
    slots_.run(r.workspace, [&](int64_t task, char* space) {
      const int64_t q0 = task % blocks_ * query_block, head = task / blocks_ % s_.heads,
                    batch = task / blocks_ / s_.heads;
      block(r, batch, head, q0, std::min(s_.queries, q0 + query_block), buffers(space).first);
    });
  }

 private:
  struct Buffers {
    A *q, *k, *v, *s, *bias, *keep, *out, *max, *sum, *factor;
  };
  std::pair<Buffers, size_t> buffers(void* at) const {
    Space<A> x(at);
    const int64_t rows = round_up(query_block, s_.nr), tile = key_tile * s_.nr;
    Buffers b{};
    b.q = x.take(rows * s_.width);
    b.k = x.take(key_tile * s_.width);
    b.v = x.take(key_tile * round_up(s_.depth, s_.mr));
    b.s = x.take(tile);
    b.bias = x.take(s_.flags.mask ? tile : 0);
    b.keep = x.take(s_.flags.dropout ? tile : 0);
    b.out = x.take(rows * round_up(s_.depth, s_.mr));
    b.max = x.take(rows);
    b.sum = x.take(rows);
    b.factor = x.take(s_.nr);
    return {b, x.used()};
  }

  void block(const Run& r, int64_t batch, int64_t head, int64_t q0, int64_t q1, const Buffers& b) const {
    const Matrix q = q_.of(r.buffers[0], batch, head), k = k_.of(r.buffers[1], batch, head / s_.group()),
                 v = v_.of(r.buffers[2], batch, head / s_.group());
    const int64_t rows = round_up(q1 - q0, s_.nr);
    for (int64_t i = 0; i < rows; i += s_.nr)
      pack_queries(s_, q, q0 + i, std::min(s_.nr, q1 - q0 - i), s_.width, b.q + i * s_.width);
    std::fill_n(b.max, rows, -std::numeric_limits<A>::infinity());
    std::fill_n(b.sum, rows, A{});
    std::fill_n(b.out, rows * round_up(s_.depth, s_.mr), A{});
    const int64_t end = s_.flags.causal ? std::min(s_.keys, q1) : s_.keys;
    for (int64_t j0 = 0; j0 < end; j0 += key_tile) {
      const int64_t keys = std::min(key_tile, end - j0);
      pack_keys(s_, k, j0, keys, s_.width, reinterpret_cast<char*>(b.k));
      pack_columns(s_, v, j0, keys, s_.depth, reinterpret_cast<char*>(b.v));
      for (int64_t i = 0; i < rows; i += s_.nr)
        if (const int64_t seen = s_.seen(q0 + i, j0, keys)) tile(r, batch, head, q0 + i, i, j0, keys, seen, b);
    }
    finish(r, batch, head, q0, q1, b);
  }

  // The panel of queries at q0 (row i of the block) against `seen` of the `keys` packed ones.
  void tile(const Run& r, int64_t batch, int64_t head, int64_t q0, int64_t i, int64_t j0, int64_t keys, int64_t seen,
            const Buffers& b) const {
    const int64_t deep = round_up(s_.depth, s_.mr), count = std::min(s_.nr, s_.queries - q0);
    for (int64_t j = 0; j < seen; j += s_.mr)
      s_.kernel.tile(b.k + j * s_.width, b.q + i * s_.width, s_.width, b.s + j * s_.nr, s_.nr, false);
    if (s_.flags.mask) extras_.read(mask_.of(r.buffers[3], batch, head), q0, count, j0, seen, s_.nr, b.bias);
    if (s_.flags.dropout)
      extras_.draw(s_, attention_draw(r.scalars), (batch * s_.heads + head) * s_.queries + q0, count, j0, seen, b.keep);
    const ScoreTile t{
        b.s,     s_.flags.mask ? b.bias : nullptr,      extras_.select, s_.flags.dropout ? b.keep : nullptr, seen,
        q0 - j0, s_.flags.causal && j0 + seen > q0 + 1, r.scalars[0].f};
    scores_.softmax(t, b.max + i, b.sum + i, b.factor);
    if (j0 > 0) scores_.rescale(b.out + i * deep, deep, b.factor);
    for (int64_t e = 0; e < s_.depth; e += s_.mr)
      s_.kernel.tile(b.v + e * keys, b.s, seen, b.out + i * deep + e * s_.nr, s_.nr, true);
  }

  void finish(const Run& r, int64_t batch, int64_t head, int64_t q0, int64_t q1, const Buffers& b) const {
    const int64_t deep = round_up(s_.depth, s_.mr), rows = round_up(q1 - q0, s_.nr);
    A* lse = static_cast<A*>(r.buffers[s_.flags.mask ? 5 : 4]) + (batch * s_.heads + head) * s_.queries;
    const Matrix out = out_.of(r.buffers[s_.flags.mask ? 4 : 3], batch, head);
    for (int64_t i = 0; i < rows; ++i) {
      const A sum = b.sum[i];
      if (q0 + i < q1) lse[q0 + i] = sum == 0 ? std::numeric_limits<A>::infinity() : b.max[i] + std::log(sum);
      b.sum[i] = sum == 0 ? 0 : 1 / sum;
    }
    for (int64_t i = 0; i < rows; i += s_.nr) {
      scores_.rescale(b.out + i * deep, deep, b.sum + i);
      s_.kernel.store(b.out + i * deep, s_.nr, s_.depth, std::min(s_.nr, q1 - q0 - i), nullptr, out.at(q0 + i), out.col,
                      out.row);
    }
  }

  Sizes s_;
  AttentionKernel scores_;
  Matrices q_, k_, v_, out_, mask_;
  Extras<A> extras_;
  int64_t blocks_;
  Slots slots_;
};

}  // namespace
}  // namespace attention

Ref<Plan> attention_cpu(std::span<const Meta> in, std::span<const Meta> out, const AttentionFlags& f) {
  return attention::plan_of<attention::Forward>("attention", in, out, f);
}

}  // namespace flame
