// Barriers, votes, shuffles and reductions: each is a meeting of a block's or a warp's threads. What a lane that is not there
// would have given is all ones: a NaN, or -1.
#pragma once

namespace flame_emulated {

inline unsigned lane() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }
template <class Record, class F>
void each(void* const* records, int count, F fn) {
  for (int i = 0; i < count; ++i)
    if (records[i]) fn(*static_cast<Record*>(records[i]), i);
}
template <class T>
struct Move {
  T value, got;
  unsigned from;
  static void meet(void* const* records, int count) {
    each<Move>(records, count, [&](Move& m, int) {
      if (records[m.from]) m.got = static_cast<const Move*>(records[m.from])->value;
      else memset(&m.got, 0xff, sizeof(T));
    });
  }
};
template <class T>
T moved(unsigned lanes, T value, unsigned from) {
  Move<T> m{value, value, from};
  flame_emulated_context.meet_warp(lanes, &m, Move<T>::meet);
  return m.got;
}
// fn(all, own) over what threads brought, from `start`; the same for all.
template <class T, class F>
struct Reduce {
  T value;
  static void meet(void* const* records, int count) {
    T all = F::start;
    each<Reduce>(records, count, [&](const Reduce& r, int i) { all = F::of(all, r.value, i); });
    each<Reduce>(records, count, [&](Reduce& r, int) { r.value = all; });
  }
};
struct Add {
  static constexpr int start = 0;
  template <class T>
  static T of(T all, T v, int) {
    return all + v;
  }
};
struct Or : Add {
  static unsigned of(unsigned all, unsigned v, int) { return all | v; }
};
struct And {
  static constexpr unsigned start = ~0u;
  static unsigned of(unsigned all, unsigned v, int) { return all & v; }
};
struct Ballot : Add {
  static unsigned of(unsigned all, unsigned v, int i) { return all | (v ? 1u : 0u) << i; }
};
struct Max {
  static constexpr unsigned start = 0;
  static unsigned of(unsigned all, unsigned v, int) { return v > all ? v : all; }
};
struct Min {
  static constexpr unsigned start = ~0u;
  static unsigned of(unsigned all, unsigned v, int) { return v < all ? v : all; }
};
template <class F, class T>
T reduced(unsigned lanes, T v) {
  Reduce<T, F> r{v};
  flame_emulated_context.meet_warp(lanes, &r, Reduce<T, F>::meet);
  return r.value;
}
template <class F>
int reduced_by_block(int v) {
  Reduce<unsigned, F> r{static_cast<unsigned>(v)};
  flame_emulated_context.meet_block(&r, Reduce<unsigned, F>::meet);
  return static_cast<int>(r.value);
}
inline void nothing(void* const*, int) {}

}  // namespace flame_emulated

inline void __syncthreads() {
  char any = 0;
  flame_emulated_context.meet_block(&any, flame_emulated::nothing);
}
inline int __syncthreads_count(int v) { return flame_emulated::reduced_by_block<flame_emulated::Add>(v != 0); }
inline int __syncthreads_or(int v) { return flame_emulated::reduced_by_block<flame_emulated::Or>(v != 0); }
inline int __syncthreads_and(int v) { return flame_emulated::reduced_by_block<flame_emulated::And>(v != 0); }
inline void __syncwarp(unsigned lanes = ~0u) {
  char any = 0;
  flame_emulated_context.meet_warp(lanes, &any, flame_emulated::nothing);
}

template <class T>
T __shfl_sync(unsigned lanes, T v, int from, int width = 32) {
  const unsigned w = static_cast<unsigned>(width);
  return flame_emulated::moved(lanes, v, (flame_emulated::lane() & ~(w - 1)) | (static_cast<unsigned>(from) & (w - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned lanes, T v, int by, int width = 32) {
  const unsigned own = flame_emulated::lane(), from = own ^ static_cast<unsigned>(by);
  return flame_emulated::moved(lanes, v, from > (own | static_cast<unsigned>(width - 1)) ? own : from);
}
template <class T>
T __shfl_up_sync(unsigned lanes, T v, unsigned by, int width = 32) {
  const unsigned own = flame_emulated::lane(), in = own & static_cast<unsigned>(width - 1);
  return flame_emulated::moved(lanes, v, by > in ? own : own - by);
}
template <class T>
T __shfl_down_sync(unsigned lanes, T v, unsigned by, int width = 32) {
  const unsigned own = flame_emulated::lane(), in = own & static_cast<unsigned>(width - 1);
  return flame_emulated::moved(lanes, v, in + by >= static_cast<unsigned>(width) ? own : own + by);
}
inline unsigned __ballot_sync(unsigned lanes, int v) {
  return flame_emulated::reduced<flame_emulated::Ballot>(lanes, static_cast<unsigned>(v));
}
inline int __any_sync(unsigned lanes, int v) { return __ballot_sync(lanes, v) != 0; }
inline int __all_sync(unsigned lanes, int v) { return __ballot_sync(lanes, !v) == 0; }
template <class T>
T __reduce_add_sync(unsigned lanes, T v) {
  return flame_emulated::reduced<flame_emulated::Add>(lanes, v);
}
inline unsigned __reduce_or_sync(unsigned lanes, unsigned v) {
  return flame_emulated::reduced<flame_emulated::Or>(lanes, v);
}
inline unsigned __reduce_and_sync(unsigned lanes, unsigned v) {
  return flame_emulated::reduced<flame_emulated::And>(lanes, v);
}
inline unsigned __reduce_max_sync(unsigned lanes, unsigned v) {
  return flame_emulated::reduced<flame_emulated::Max>(lanes, v);
}
inline unsigned __reduce_min_sync(unsigned lanes, unsigned v) {
  return flame_emulated::reduced<flame_emulated::Min>(lanes, v);
}
