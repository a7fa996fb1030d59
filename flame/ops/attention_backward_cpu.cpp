// Attention backward on the CPU: the weights are made again from the saved log-sum-exp, a tile at a time, transposed as in
// forward.
#include "flame/ops/attention_tiles_internal.h"

namespace flame {
namespace attention {
namespace {

constexpr int64_t key_block = 384;        // keys packed at once
constexpr int64_t most_of_dq = 16 << 20;  // bytes a thread may hold of one head's query gradients

// out[i] = sum over e of a[i][e] b[i][e].
template <class T, class A>
void row_dots(const Matrix& a, const Matrix& b, int64_t q0, int64_t count, int64_t depth, A* out) {
  for (int64_t i = 0; i < count; ++i) {
    const T* x = reinterpret_cast<const T*>(a.at(q0 + i));
    const T* y = reinterpret_cast<const T*>(b.at(q0 + i));
    A sum = 0;
    for (int64_t e = 0; e < depth; ++e) sum += widened<A>(x[e * a.col]) * widened<A>(y[e * b.col]);
    out[i] = sum;
  }
}

// Gradients of keys and values add up over queries, those of queries over keys, always in the order of the tiles. With
// many heads one pass over a head makes both; else one pass parallel over keys and one over queries make the same bits.
template <class A>
class Backward {
 public:
  Backward(std::span<const Meta> in, std::span<const Meta> out, const AttentionFlags& f)
      : s_(in, f),
        scores_(attention_kernel(in[0].dtype)),
        q_(in[0]),
        k_(in[1]),
        v_(in[2]),
        out_(in[3]),
        g_(in[5]),
        mask_(f.mask ? in[6] : in[0]),
        dq_(out[0]),
        dk_(out[1]),
        dv_(out[2]),
        extras_(f.mask ? &in[6] : nullptr) {
    dots_ = in[0].dtype == DType::f16    ? row_dots<float16, A>
            : in[0].dtype == DType::bf16 ? row_dots<bfloat16, A>
                                         : row_dots<A, A>;
    const int64_t units = s_.batch * s_.shared;
    const int64_t whole = round_up(s_.queries, s_.nr) * s_.group() * round_up(s_.width, s_.mr) * int64_t(sizeof(A));
    key_blocks_ = (s_.keys + key_block - 1) / key_block;
    query_blocks_ = (s_.queries + query_block - 1) / query_block;
    one_pass_ = units >= num_threads() && whole <= most_of_dq;
    if (one_pass_) slots_.emplace_back(units, buffers(nullptr, s_.queries).second);
    else {
      slots_.emplace_back(units * key_blocks_, buffers(nullptr, 0).second);
      slots_.emplace_back(units * query_blocks_, buffers(nullptr, query_block).second);
    }
  }
  size_t workspace() const { return std::max(slots_.front().workspace(), slots_.back().workspace()); }

  void run(const Run& r) const {
    if (one_pass_)
      return slots_[0].run(r.workspace, [&](int64_t task, char* space) {
        work(r, {task, 0, s_.keys, 0, s_.queries, true, true}, space);
      });
    slots_[0].run(r.workspace, [&](int64_t task, char* space) {
      const int64_t j0 = task % key_blocks_ * key_block;
      work(r, {task / key_blocks_, j0, std::min(s_.keys, j0 + key_block), 0, s_.queries, false, true}, space);
    });
    slots_[1].run(r.workspace, [&](int64_t task, char* space) {
      const int64_t q0 = task % query_blocks_ * query_block;
      work(r, {task / query_blocks_, 0, s_.keys, q0, std::min(s_.queries, q0 + query_block), true, false}, space);
    });
  }

 private:
  struct Task {
    int64_t unit, j0, j1, q0, q1;  // a (batch, key head), its keys and queries
    bool queries, keys;            // which gradients
  };
  struct Buffers {
    A *k, *v, *columns, *q, *q_rows, *g, *g_rows, *s, *dp, *bias, *keep, *lse, *delta, *dk, *dv, *dq;
  };
  std::pair<Buffers, size_t> buffers(void* at, int64_t queries) const {
    Space<A> x(at);
    const int64_t tile = key_tile * s_.nr;
    Buffers b{};
    b.k = x.take(key_block * s_.width);
    b.v = x.take(key_block * s_.depth);
    b.columns = x.take(key_block * round_up(s_.width, s_.mr));
    b.q = x.take(s_.nr * s_.width);
    b.q_rows = x.take(s_.nr * round_up(s_.width, s_.nr));
    b.g = x.take(s_.nr * s_.depth);
    b.g_rows = x.take(s_.nr * round_up(s_.depth, s_.nr));
    b.s = x.take(tile);
    b.dp = x.take(tile);
    b.bias = x.take(s_.flags.mask ? tile : 0);
    b.keep = x.take(s_.flags.dropout ? tile : 0);
    b.lse = x.take(s_.nr);
    b.delta = x.take(s_.nr);
    b.dk = x.take(key_block * round_up(s_.width, s_.nr));
    b.dv = x.take(key_block * round_up(s_.depth, s_.nr));
    b.dq = x.take(round_up(queries, s_.nr) * s_.group() * round_up(s_.width, s_.mr));
    return {b, x.used()};
  }
  int64_t panel_of(const Task& t, int64_t member, int64_t q) const {  // of dq
    return (member * round_up(t.q1 - t.q0, s_.nr) + q - t.q0) * round_up(s_.width, s_.mr);
  }

  void work(const Run& r, const Task& t, char* space) const {
    const Buffers b = buffers(space, t.queries ? t.q1 - t.q0 : 0).first;
    const int64_t batch = t.unit / s_.shared, shared = t.unit % s_.shared, group = s_.group();
    if (t.queries) std::fill_n(b.dq, panel_of(t, group, t.q0), A{});
    const int64_t end = s_.flags.causal && !t.keys ? std::min(t.j1, t.q1) : t.j1;
    for (int64_t j0 = t.j0; j0 < end; j0 += key_block) {
      const int64_t keys = std::min(key_block, t.j1 - j0);
      pack(r, t, batch, shared, j0, keys, b);
      for (int64_t member = 0; member < group; ++member)
        for (int64_t q = t.q0; q < t.q1; q += s_.nr)
          if (s_.seen(q, j0, keys) > 0) panel(r, t, batch, shared, member, q, j0, keys, b);
      if (!t.keys) continue;
      const Matrix dk = dk_.of(r.buffers[first_output() + 1], batch, shared),
                   dv = dv_.of(r.buffers[first_output() + 2], batch, shared);
      s_.kernel.store(b.dk, round_up(s_.width, s_.nr), keys, s_.width, nullptr, dk.at(j0), dk.row, dk.col);
      s_.kernel.store(b.dv, round_up(s_.depth, s_.nr), keys, s_.depth, nullptr, dv.at(j0), dv.row, dv.col);
    }
    if (!t.queries) return;
    for (int64_t member = 0; member < group; ++member) {
      const Matrix dq = dq_.of(r.buffers[first_output()], batch, shared * group + member);
      for (int64_t q = t.q0; q < t.q1; q += s_.nr)
        s_.kernel.store(b.dq + panel_of(t, member, q), s_.nr, s_.width, std::min(s_.nr, t.q1 - q), nullptr, dq.at(q),
                        dq.col, dq.row);
    }
  }
  size_t first_output() const { return s_.flags.mask ? 7 : 6; }

  void pack(const Run& r, const Task& t, int64_t batch, int64_t shared, int64_t j0, int64_t keys,
            const Buffers& b) const {
    const Matrix k = k_.of(r.buffers[1], batch, shared), v = v_.of(r.buffers[2], batch, shared);
    pack_keys(s_, k, j0, keys, s_.width, reinterpret_cast<char*>(b.k));
    pack_keys(s_, v, j0, keys, s_.depth, reinterpret_cast<char*>(b.v));
    for (int64_t j = 0; t.queries && j < keys; j += key_tile)
      pack_columns(s_, k, j0 + j, std::min(key_tile, keys - j), s_.width,
                   reinterpret_cast<char*>(b.columns + j * round_up(s_.width, s_.mr)));
    if (!t.keys) return;
    std::fill_n(b.dk, key_block * round_up(s_.width, s_.nr), A{});
    std::fill_n(b.dv, key_block * round_up(s_.depth, s_.nr), A{});
  }

  // The nr queries from q of one head against the packed keys.
  void panel(const Run& r, const Task& t, int64_t batch, int64_t shared, int64_t member, int64_t q, int64_t j0,
             int64_t keys, const Buffers& b) const {
    const int64_t head = shared * s_.group() + member, count = std::min(s_.nr, s_.queries - q);
    const int64_t row = (batch * s_.heads + head) * s_.queries + q;
    const Matrix x = q_.of(r.buffers[0], batch, head), out = out_.of(r.buffers[3], batch, head),
                 g = g_.of(r.buffers[5], batch, head);
    pack_queries(s_, x, q, count, s_.width, b.q);
    pack_queries(s_, g, q, count, s_.depth, b.g);
    if (t.keys) {
      pack_rows(x, q, count, s_.width, b.q_rows);
      pack_rows(g, q, count, s_.depth, b.g_rows);
    }
    const A* lse = static_cast<const A*>(r.buffers[4]) + row;
    for (int64_t i = 0; i < s_.nr; ++i) b.lse[i] = i < count ? lse[i] : std::numeric_limits<A>::infinity();
    std::fill_n(b.delta, s_.nr, A{});
    dots_(g, out, q, count, s_.depth, b.delta);
    for (int64_t j = 0; j < keys; j += key_tile) {
      const int64_t all = std::min(key_tile, keys - j), seen = s_.seen(q, j0 + j, all);
      if (seen == 0) break;
      if (s_.flags.mask) extras_.read(mask_.of(r.buffers[6], batch, head), q, count, j0 + j, seen, s_.nr, b.bias);
      if (s_.flags.dropout) extras_.draw(s_, attention_draw(r.scalars), row, count, j0 + j, seen, b.keep);
      tile(t,
           {b.s, s_.flags.mask ? b.bias : nullptr, extras_.select, s_.flags.dropout ? b.keep : nullptr, seen,
            q - j0 - j, s_.flags.causal && j0 + j + seen > q + 1, r.scalars[0].f},
           j, all, b.dq + (t.queries ? panel_of(t, member, q) : 0), b);
    }
  }
  // Right operands of the sums over queries: panels of nr columns, nr queries deep, zeros beyond `count`.
  void pack_rows(const Matrix& x, int64_t q, int64_t count, int64_t width, A* out) const {
    for (int64_t e = 0; e < width; e += s_.nr) {
      s_.kernel.pack_b(x.at(q, e), x.col, x.row, std::min(s_.nr, width - e), count, out + e * s_.nr);
      std::fill_n(out + e * s_.nr + count * s_.nr, (s_.nr - count) * s_.nr, A{});
    }
  }

  void tile(const Task& t, const ScoreTile& scores, int64_t j, int64_t all, A* dq, const Buffers& b) const {
    const int64_t rows = round_up(scores.keys, s_.mr);
    const int64_t wide = round_up(s_.width, s_.nr), deep = round_up(s_.depth, s_.nr);
    for (int64_t i = 0; i < rows; i += s_.mr) {
      s_.kernel.tile(b.k + (j + i) * s_.width, b.q, s_.width, b.s + i * s_.nr, s_.nr, false);
      s_.kernel.tile(b.v + (j + i) * s_.depth, b.g, s_.depth, b.dp + i * s_.nr, s_.nr, false);
    }
    scores_.gradient(scores, b.lse, b.delta, rows, b.dp);
    for (int64_t i = 0; t.keys && i < rows; i += s_.mr) {
      for (int64_t e = 0; e < wide; e += s_.nr)
        s_.kernel.tile_after_tile(b.dp + i * s_.nr, b.q_rows + e * s_.nr, b.dk + (j + i) * wide + e, wide);
      for (int64_t e = 0; e < deep; e += s_.nr)
        s_.kernel.tile_after_tile(b.s + i * s_.nr, b.g_rows + e * s_.nr, b.dv + (j + i) * deep + e, deep);
    }
    const A* columns = b.columns + j * round_up(s_.width, s_.mr);
    for (int64_t e = 0; t.queries && e < s_.width; e += s_.mr)
      s_.kernel.tile(columns + e * all, b.dp, scores.keys, dq + e * s_.nr, s_.nr, true);
  }

  Sizes s_;
  AttentionKernel scores_;
  Matrices q_, k_, v_, out_, g_, mask_, dq_, dk_, dv_;
  Extras<A> extras_;
  void (*dots_)(const Matrix&, const Matrix&, int64_t, int64_t, int64_t, A*);
  int64_t key_blocks_, query_blocks_;
  bool one_pass_;
  std::vector<Slots> slots_;
};

}  // namespace
}  // namespace attention

Ref<Plan> attention_backward_cpu(std::span<const Meta> in, std::span<const Meta> out, const AttentionFlags& f) {
  return attention::plan_of<attention::Backward>("attention_backward", in, out, f);
}

}  // namespace flame
