// The PTX that the project's texts write: asm("..." : out : in) is translated to flame_emulated::ptx<"...">(out, in).
// Approximations (rcp, rsqrt, ex2) are the C library's numbers rounded; sums of mma are in float64, rounded once.
#pragma once

namespace flame_emulated {

template <size_t n>
struct Text {
  char v[n]{};
  constexpr Text(const char (&s)[n]) {
    for (size_t i = 0; i < n; ++i) v[i] = s[i];
  }
  constexpr bool starts(const char* s) const {
    for (size_t i = 0; s[i]; ++i)
      if (i >= n || v[i] != s[i]) return false;
    return true;
  }
};

inline float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }
inline float of_half(unsigned short bits) { return static_cast<float>(flame_bits<_Float16>(bits)); }
inline float of_brain(unsigned short bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
inline unsigned short to_half(float x) {
  return x != x ? 0x7fff : flame_bits<unsigned short>(static_cast<_Float16>(x));
}
inline unsigned short to_brain(float x) {
  const unsigned u = __float_as_uint(x);
  return static_cast<unsigned short>(x != x ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16);
}
template <bool brain>
float widened(unsigned pair, int which) {
  const auto bits = static_cast<unsigned short>(pair >> 16 * which);
  return brain ? of_brain(bits) : of_half(bits);
}

// Ones in the halves of a word where `holds`.
template <bool brain, class F>
unsigned compared(unsigned a, unsigned b, F holds) {
  unsigned out = 0;
  for (int i = 0; i < 2; ++i)
    if (holds(widened<brain>(a, i), widened<brain>(b, i))) out |= 0xffffu << 16 * i;
  return out;
}
struct GreaterOrNan {
  bool operator()(float a, float b) const { return !(a <= b); }
};
struct BothNumbers {
  bool operator()(float a, float b) const { return a == a && b == b; }
};

// Copies to shared memory are made when their thread waits for them; before, nothing is there. They lie in shared memory themselves,
// which is all ones when a block begins, so numbers are kept inverted.
struct Copy {
  const void* from;
  unsigned to, group;
  unsigned short bytes, there;
};
template <int most>
struct Copies {
  unsigned count_left, groups_left;
  Copy waiting[most];
  static Copies& own() {
    __shared__ Copies all[1024];
    return all[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)];
  }
  void ask(unsigned to, const void* from, int bytes, int there) {
    if ((reinterpret_cast<size_t>(from) | to) % static_cast<unsigned>(bytes) != 0) __builtin_trap();
    memset(flame_shared_at(to), 0xff, static_cast<size_t>(bytes));
    waiting[~count_left] = {from, to, ~groups_left, static_cast<unsigned short>(bytes),
                            static_cast<unsigned short>(there)};
    --count_left;
  }
  void commit() { --groups_left; }
  void wait(unsigned latest) {
    unsigned kept = 0;
    for (unsigned i = 0; i < ~count_left; ++i) {
      const Copy c = waiting[i];
      if (c.group + latest >= ~groups_left) {
        waiting[kept++] = c;
        continue;
      }
      unsigned char* p = flame_shared_at(c.to);
      memcpy(p, c.from, c.there);
      memset(p + c.there, 0, static_cast<size_t>(c.bytes - c.there));
    }
    count_left = ~kept;
  }
};
using OwnCopies = Copies<64>;

// ldmatrix: lane i names row i % 8 of matrix i / 8; lane l gets elements 2 (l % 4) and the next of row l / 4, or of column l / 4.
template <bool transposed>
struct Matrices {
  const unsigned char* row;
  unsigned got[4];
  static void meet(void* const* records, int count) {
    each<Matrices>(records, count, [&](Matrices& m, int lane) {
      for (int j = 0; j < 4; ++j) {
        m.got[j] = 0;
        for (int e = 0; e < 2; ++e) {
          const int near = lane / 4, far = lane % 4 * 2 + e;
          const int row = transposed ? far : near, column = transposed ? near : far;
          unsigned short bits = 0xffff;
          if (records[8 * j + row]) memcpy(&bits, static_cast<Matrices*>(records[8 * j + row])->row + 2 * column, 2);
          m.got[j] |= static_cast<unsigned>(bits) << 16 * e;
        }
      }
    });
  }
};
template <bool transposed>
void matrices(unsigned& r0, unsigned& r1, unsigned& r2, unsigned& r3, unsigned row) {
  Matrices<transposed> m{flame_shared_at(row), {}};
  if (row % 16 != 0) __builtin_trap();
  flame_emulated_context.meet_warp(~0u, &m, Matrices<transposed>::meet);
  r0 = m.got[0], r1 = m.got[1], r2 = m.got[2], r3 = m.got[3];
}

// mma m16n8k16: with g = lane / 4, t = lane % 4, a holds rows g and g + 8, columns 2t and 2t + 8; b rows 2t and 2t + 8 of column g;
// d rows g and g + 8 of columns 2t and 2t + 1 (PTX ISA, "Matrix fragments for mma.m16n8k16").
template <bool brain>
struct Multiply {
  unsigned a[4], b[2];
  float d[4];
  static void meet(void* const* records, int count) {
    float a[16][16], b[16][8];
    each<Multiply>(records, count, [&](const Multiply& m, int lane) {
      const int g = lane / 4, t = lane % 4;
      for (int r = 0; r < 4; ++r)
        for (int e = 0; e < 2; ++e) a[g + r % 2 * 8][2 * t + r / 2 * 8 + e] = widened<brain>(m.a[r], e);
      for (int r = 0; r < 2; ++r)
        for (int e = 0; e < 2; ++e) b[2 * t + r * 8 + e][g] = widened<brain>(m.b[r], e);
    });
    each<Multiply>(records, count, [&](Multiply& m, int lane) {
      for (int r = 0; r < 4; ++r) {
        const int row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
        double sum = m.d[r];
        for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
        m.d[r] = static_cast<float>(sum);
      }
    });
  }
};
template <bool brain>
void multiply(float& d0, float& d1, float& d2, float& d3, unsigned a0, unsigned a1, unsigned a2, unsigned a3,
              unsigned b0, unsigned b1) {
  Multiply<brain> m{{a0, a1, a2, a3}, {b0, b1}, {d0, d1, d2, d3}};
  flame_emulated_context.meet_warp(~0u, &m, Multiply<brain>::meet);
  d0 = m.d[0], d1 = m.d[1], d2 = m.d[2], d3 = m.d[3];
}

// mma m16n8k8 of TF32: a holds rows g and g + 8 of columns t and t + 4, b rows t and t + 4 of column g, d as above.
struct MultiplyTf32 {
  unsigned a[4], b[2];
  float d[4];
  static float taken(unsigned bits) { return __uint_as_float(bits & ~0x1fffu); }
  static void meet(void* const* records, int count) {
    float a[16][8], b[8][8];
    each<MultiplyTf32>(records, count, [&](const MultiplyTf32& m, int lane) {
      const int g = lane / 4, t = lane % 4;
      for (int r = 0; r < 4; ++r) a[g + r % 2 * 8][t + r / 2 * 4] = taken(m.a[r]);
      for (int r = 0; r < 2; ++r) b[t + r * 4][g] = taken(m.b[r]);
    });
    each<MultiplyTf32>(records, count, [&](MultiplyTf32& m, int lane) {
      for (int r = 0; r < 4; ++r) {
        const int row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
        double sum = m.d[r];
        for (int k = 0; k < 8; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
        m.d[r] = static_cast<float>(sum);
      }
    });
  }
};
inline void multiply_tf32(float& d0, float& d1, float& d2, float& d3, unsigned a0, unsigned a1, unsigned a2,
                          unsigned a3, unsigned b0, unsigned b1) {
  MultiplyTf32 m{{a0, a1, a2, a3}, {b0, b1}, {d0, d1, d2, d3}};
  flame_emulated_context.meet_warp(~0u, &m, MultiplyTf32::meet);
  d0 = m.d[0], d1 = m.d[1], d2 = m.d[2], d3 = m.d[3];
}
// Rounded to 10 bits of mantissa, ties away from 0; what is not finite stays.
inline unsigned to_tf32(float x) {
  const unsigned u = __float_as_uint(x);
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & ~0x1fffu;
}

template <class T>
void load(T& out, const void* p) {
  out = *static_cast<const T*>(p);
}
template <Text text, class... Operands>
void ptx(Operands&&... all) {
  const auto set = [&](auto fn) {  // the first operand becomes fn(others)
    [&](auto& out, const auto&... in) { out = fn(in...); }(all...);
  };
  if constexpr (text.starts("cvt.f32.f16 ")) set(of_half);
  else if constexpr (text.starts("cvt.rn.f16.f32 ")) set(to_half);
  else if constexpr (text.starts("cvt.rn.bf16.f32 ")) set(to_brain);
  else if constexpr (text.starts("cvt.rn.f16x2.f32 "))
    set([](float high, float low) { return static_cast<unsigned>(to_half(high)) << 16 | to_half(low); });
  else if constexpr (text.starts("cvt.rn.bf16x2.f32 "))
    set([](float high, float low) { return static_cast<unsigned>(to_brain(high)) << 16 | to_brain(low); });
  else if constexpr (text.starts("not.b32 ")) set([](unsigned x) { return ~x; });
  else if constexpr (text.starts("ld.global.nc.")) load(all...);
  else if constexpr (text.starts("prefetch.global.L2 ")) return;
  else if constexpr (text.starts("rcp.approx.ftz.f32 ")) set([](float x) { return flushed(1 / flushed(x)); });
  else if constexpr (text.starts("rsqrt.approx.ftz.f32 ")) set([](float x) { return flushed(1 / sqrtf(flushed(x))); });
  else if constexpr (text.starts("ex2.approx.ftz.f32 ")) set([](float x) { return flushed(exp2f(flushed(x))); });
  else if constexpr (text.starts("set.gtu.u32.f16x2 "))
    set([](unsigned a, unsigned b) { return compared<false>(a, b, GreaterOrNan()); });
  else if constexpr (text.starts("set.gtu.u32.bf16x2 "))
    set([](unsigned a, unsigned b) { return compared<true>(a, b, GreaterOrNan()); });
  else if constexpr (text.starts("set.num.u32.f16x2 "))
    set([](unsigned a, unsigned b) { return compared<false>(a, b, BothNumbers()); });
  else if constexpr (text.starts("set.num.u32.bf16x2 "))
    set([](unsigned a, unsigned b) { return compared<true>(a, b, BothNumbers()); });
  else if constexpr (text.starts("cp.async.cg.shared.global [%0], [%1], 16, %2;"))
    [](unsigned to, const void* from, int there) { OwnCopies::own().ask(to, from, 16, there); }(all...);
  else if constexpr (text.starts("cp.async.ca.shared.global [%0], [%1], 4, %2;"))
    [](unsigned to, const void* from, int there) { OwnCopies::own().ask(to, from, 4, there); }(all...);
  else if constexpr (text.starts("cp.async.commit_group;")) OwnCopies::own().commit();
  else if constexpr (text.starts("cp.async.wait_group "))
    [](int latest) { OwnCopies::own().wait(static_cast<unsigned>(latest)); }(all...);
  else if constexpr (text.starts("ldmatrix.sync.aligned.m8n8.x4.shared.b16 ")) matrices<false>(all...);
  else if constexpr (text.starts("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 ")) matrices<true>(all...);
  else if constexpr (text.starts("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 ")) multiply<true>(all...);
  else if constexpr (text.starts("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 ")) multiply<false>(all...);
  else if constexpr (text.starts("cvt.rna.tf32.f32 ")) set(to_tf32);
  else if constexpr (text.starts("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 ")) multiply_tf32(all...);
  else static_assert(text.v[0] == 0, "PTX that the emulator does not know (tests/emulator/ptx.h)");
}

}  // namespace flame_emulated
