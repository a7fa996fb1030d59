// Pointwise functions and operators, all rows of fuse/pointwise.def. Inputs broadcast as in NumPy and are promoted as
// in PyTorch; at least one must be a tensor. Errors: ShapeError, DTypeError, DeviceError, at the caller's line.
#pragma once
#include <concepts>

#include "flame/tensor/tensor.h"

namespace flame {

// What a pointwise function takes: a tensor, a State or a number.
class Arg {
 public:
  Arg(const Tensor& t) : tensor_(&t) {}
  Arg(const Scalar& s) : scalar_(s) {}
  template <class T>
    requires std::is_arithmetic_v<T>
  Arg(T number) : scalar_(number) {}
  template <std::derived_from<State> S>
  Arg(const S& s) : held_(s.tensor()), tensor_(&held_) {}
  Arg(const Arg& o) : tensor_(o.tensor_), scalar_(o.scalar_) {}  // refers to the same tensor
  Arg& operator=(const Arg&) = delete;

  const Tensor* tensor() const { return tensor_; }  // null for a number
  const Scalar& scalar() const { return scalar_; }

 private:
  Tensor held_;
  const Tensor* tensor_ = nullptr;
  Scalar scalar_ = 0.0;
};
// An operator's first operand: also remembers the line that the operator stands on.
class ArgHere : public Arg {
 public:
  template <class T>
    requires std::constructible_from<Arg, const T&>
  ArgHere(const T& x, Loc loc = Loc::current()) : Arg(x), loc(loc) {}
  const Loc loc;
};

// exp(x), add(a, b), where(condition, a, b), clamp(x, low, high), …: docs/ops.md of the build lists them.
#define FLAME_DECLARE_1(name) Tensor name(const Tensor& a, Loc loc = Loc::current());
#define FLAME_DECLARE_2(name) Tensor name(const Arg& a, const Arg& b, Loc loc = Loc::current());
#define FLAME_DECLARE_3(name) Tensor name(const Arg& a, const Arg& b, const Arg& c, Loc loc = Loc::current());
#define FLAME_POINTWISE(name, arity, ...) FLAME_DECLARE_##arity(name)
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
#undef FLAME_DECLARE_1
#undef FLAME_DECLARE_2
#undef FLAME_DECLARE_3

inline Tensor operator+(const ArgHere& a, const Arg& b) { return add(a, b, a.loc); }
inline Tensor operator-(const ArgHere& a, const Arg& b) { return sub(a, b, a.loc); }
inline Tensor operator*(const ArgHere& a, const Arg& b) { return mul(a, b, a.loc); }
inline Tensor operator/(const ArgHere& a, const Arg& b) { return div(a, b, a.loc); }
inline Tensor operator&(const ArgHere& a, const Arg& b) { return bitwise_and(a, b, a.loc); }
inline Tensor operator|(const ArgHere& a, const Arg& b) { return bitwise_or(a, b, a.loc); }
inline Tensor operator^(const ArgHere& a, const Arg& b) { return bitwise_xor(a, b, a.loc); }
// Comparisons give bool tensors. Both sides of == and != have one type, lest C++20 prefer to swap them.
inline Tensor operator==(const ArgHere& a, const ArgHere& b) { return eq(a, b, a.loc); }
inline Tensor operator!=(const ArgHere& a, const ArgHere& b) { return ne(a, b, a.loc); }
inline Tensor operator<(const ArgHere& a, const Arg& b) { return lt(a, b, a.loc); }
inline Tensor operator<=(const ArgHere& a, const Arg& b) { return le(a, b, a.loc); }
inline Tensor operator>(const ArgHere& a, const Arg& b) { return gt(a, b, a.loc); }
inline Tensor operator>=(const ArgHere& a, const Arg& b) { return ge(a, b, a.loc); }
inline Tensor operator-(const ArgHere& a) { return neg(*a.tensor(), a.loc); }
inline Tensor operator!(const ArgHere& a) { return logical_not(*a.tensor(), a.loc); }
inline Tensor operator~(const ArgHere& a) { return bitwise_not(*a.tensor(), a.loc); }
// These give the handle a new value; other handles of the old one keep it.
inline Tensor& operator+=(Tensor& a, const ArgHere& b) { return a = add(a, b, b.loc); }
inline Tensor& operator-=(Tensor& a, const ArgHere& b) { return a = sub(a, b, b.loc); }
inline Tensor& operator*=(Tensor& a, const ArgHere& b) { return a = mul(a, b, b.loc); }
inline Tensor& operator/=(Tensor& a, const ArgHere& b) { return a = div(a, b, b.loc); }

}  // namespace flame
