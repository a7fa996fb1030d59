// The element loops of the optimizers over many tensors in one launch: the CPU's arithmetic in its order, uncontracted.
// FLAME_P, FLAME_G: dtypes of parameter and gradient; FLAME_C: computed in, and the moments' dtype; FLAME_RULE: one below;
// FLAME_S, if defined: the dtype of the shadows that parameters may have.
#include "flame/fuse/device.cuh"

namespace flame {
using P = FLAME_P;
using G = FLAME_G;
using C = FLAME_C;

struct Item {
  P* p;
  const G* g;
  C* m[3];
  void* s;               // the parameter in 16 bits, or null
  int64_t count, first;  // elements, and its first block
  const double* skip;    // null, or NaN there skips the step
  const double* from;    // where the numbers are, if not here
  double k[10];
};
struct Items {
  int64_t count;
  Item item[FLAME_ITEMS];
};

inline C mix(C from, C to, C weight, bool near_to) {
  const C change = to - from;
  return near_to ? to - change * (1 - weight) : from + weight * change;
}
inline C mix_square(C v, C g, C keep, C add) { return v * keep + add * g * g; }
inline C root(C x) { return std::sqrt(x); }

struct Numbers {
  C k[10];
  bool near3, near5, copies, rectified;
};
template <bool amsgrad>
struct adam_of {
  static C step(const Numbers& n, C x, C g, C* const* m, int64_t i) {
    const C m1 = mix(m[0][i], g, n.k[3], n.near3), v1 = mix_square(m[1][i], g, n.k[4], n.k[5]);
    m[0][i] = m1;
    m[1][i] = v1;
    C second = v1;
    if constexpr (amsgrad) {
      const C before = m[2][i];
      second = v1 <= before ? before : v1;
      m[2][i] = second;
    }
    return x - n.k[8] * m1 / (root(second) / n.k[6] + n.k[7]);
  }
};
using adam = adam_of<false>;
using amsgrad = adam_of<true>;
struct nadam {
  static C step(const Numbers& n, C x, C g, C* const* m, int64_t i) {
    const C m1 = mix(m[0][i], g, n.k[3], n.near3), v1 = mix_square(m[1][i], g, n.k[4], n.k[5]);
    m[0][i] = m1;
    m[1][i] = v1;
    const C by = root(v1 / n.k[6]) + n.k[7];
    return x - n.k[8] * g / by - n.k[9] * m1 / by;
  }
};
struct radam {
  static C step(const Numbers& n, C x, C g, C* const* m, int64_t i) {
    const C m1 = mix(m[0][i], g, n.k[3], n.near3), v1 = mix_square(m[1][i], g, n.k[4], n.k[5]);
    m[0][i] = m1;
    m[1][i] = v1;
    const C step = m1 * n.k[8];
    return n.rectified ? x - step * (n.k[6] / (root(v1) + n.k[7])) : x - step;
  }
};
struct adamax {
  static C step(const Numbers& n, C x, C g, C* const* m, int64_t i) {
    const C m1 = mix(m[0][i], g, n.k[3], n.near3), before = m[1][i] * n.k[4], now = std::fabs(g) + n.k[5];
    const C u = now <= before ? before : now;
    m[0][i] = m1;
    m[1][i] = u;
    return x - n.k[6] * m1 / u;
  }
};
struct sgd {
  static C step(const Numbers& n, C x, C g, C* const*, int64_t) { return x - n.k[3] * g; }
};
struct sgd_momentum {
  static C step(const Numbers& n, C x, C g, C* const* m, int64_t i) {
    const C m1 = m[0][i] * n.k[4] + n.k[5] * g;
    m[0][i] = m1;
    return x - n.k[3] * (n.k[6] * g + n.k[7] * m1);
  }
};
template <bool buffered, bool centered>
struct rmsprop_of {
  static C step(const Numbers& n, C x, C g, C* const* m, int64_t i) {
    const C v1 = mix_square(m[0][i], g, n.k[4], n.k[5]);
    m[0][i] = v1;
    C spread = v1;
    if constexpr (centered) {
      C* mean = m[buffered ? 2 : 1];
      const C mean1 = mix(mean[i], g, n.k[5], n.near5);
      mean[i] = mean1;
      spread = v1 - mean1 * mean1;
    }
    const C by = root(spread) + n.k[6];
    if constexpr (buffered) {
      const C b1 = m[1][i] * n.k[7] + g / by;
      m[1][i] = b1;
      return x - n.k[3] * b1;
    } else {
      return x - n.k[3] * g / by;
    }
  }
};
using rmsprop0 = rmsprop_of<false, false>;
using rmsprop1 = rmsprop_of<true, false>;
using rmsprop2 = rmsprop_of<false, true>;
using rmsprop3 = rmsprop_of<true, true>;
struct adagrad {
  static C step(const Numbers& n, C x, C g, C* const* m, int64_t i) {
    const C s1 = m[0][i] + g * g;
    m[0][i] = s1;
    return x - n.k[3] * g / (root(s1) + n.k[4]);
  }
};
struct lion {
  static C step(const Numbers& n, C x, C g, C* const* m, int64_t i) {
    const C m0 = m[0][i], direction = m0 * n.k[4] + n.k[5] * g;
    m[0][i] = m0 * n.k[6] + n.k[7] * g;
    const C down = direction > 0 ? n.k[3] : C(0);
    return x - (direction < 0 ? -n.k[3] : down);
  }
};
struct average {
  static C step(const Numbers& n, C x, C source, C* const*, int64_t) {
    return n.copies ? source : mix(x, source, n.k[3], n.near3);
  }
};

// As clipping scales a gradient before the step; one that is held in fewer bits than the parameter counts for all of them.
inline C scaled(G g, double factor) {
  const auto v = widen(g);
  const auto by = v * static_cast<decltype(v + v)>(factor);
  if constexpr (std::is_same_v<G, P>) return static_cast<C>(widen(convert<G>(by)));
  else return static_cast<C>(by);
}

// factor: of every gradient, or null.
extern "C" __global__ void __launch_bounds__(256)
    update(const __grid_constant__ Items all, const double* factor, int32_t elements_a_block) {
  int64_t low = 0, high = all.count - 1;  // the last item that begins at or before this block
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (all.item[middle].first <= blockIdx.x) low = middle;
    else high = middle - 1;
  }
  const Item& t = all.item[low];
  if (t.skip && *t.skip != *t.skip) return;
  double k[10];
  for (int i = 0; i < 10; ++i) k[i] = t.from ? t.from[i] : t.k[i];
  Numbers n;
  for (int i = 0; i < 10; ++i) n.k[i] = static_cast<C>(k[i]);
  n.near3 = k[3] >= 0.5;
  n.near5 = k[5] >= 0.5;
  n.copies = k[3] == 1;
  n.rectified = k[6] != 0;
  C* const m[3] = {t.m[0], t.m[1], t.m[2]};
  const int64_t begin = (blockIdx.x - t.first) * elements_a_block;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x; i < begin + elements_a_block; i += 256) {
    if (i >= t.count) break;
    const C x = widen(t.p[i]), given = factor ? scaled(t.g[i], *factor) : static_cast<C>(widen(t.g[i]));
    constexpr bool plain = std::is_same_v<FLAME_RULE, average>;  // no sign, no decay
    const C g = plain ? given : n.k[0] * given + n.k[2] * x;
    const P updated = convert<P>(FLAME_RULE::step(n, plain ? x : x * n.k[1], g, m, i));
    t.p[i] = updated;
#ifdef FLAME_S
    if (t.s) static_cast<FLAME_S*>(t.s)[i] = convert<FLAME_S>(widen(updated));
#endif
  }
}

}  // namespace flame
