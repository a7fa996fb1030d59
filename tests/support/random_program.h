// A random program over every pointwise row, casts, reductions, broadcasts, views and a few opaque ops, on all dtypes and odd
// shapes, and what a run of it gave.
#pragma once
#include <functional>
#include <set>

#include "flame/flame.h"
#include "flame/fuse/island.h"
#include "flame/ops/pointwise_internal.h"
#include "tests/support/compare.h"

namespace flame::test {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  bool chance(int percent) { return below(100) < percent; }
  template <class T>
  const T& of(const std::vector<T>& v) {
    return v[static_cast<size_t>(below(static_cast<int64_t>(v.size())))];
  }

 private:
  uint64_t state_;
};

enum class In : uint8_t { any, number, floating, integral, select };
struct Row {
  const char* name;
  int arity;
  In in;
};
inline const std::vector<Row> rows = {
#define FLAME_POINTWISE(name, arity, in, ...) {#name, arity, In::in},
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
};

// Rows whose results every device rounds alike.
inline std::vector<size_t> exact_rows() {
  const std::set<std::string_view> names = {"add",     "sub", "mul",    "div",   "sqrt", "fma", "maximum",
                                            "minimum", "eq",  "ne",     "lt",    "le",   "gt",  "ge",
                                            "neg",     "abs", "square", "where", "relu", "sign"};
  std::vector<size_t> found;
  for (size_t i = 0; i < rows.size(); ++i)
    if (names.contains(rows[i].name)) found.push_back(i);
  return found;
}

// One program. Choices depend on the seed and on metadata alone, so every run makes the same ones.
class Program {
 public:
  // exact: nothing but arithmetic, comparison, selection, casts and views.
  explicit Program(uint64_t seed, bool exact = false) : seed_(seed), exact_(exact), random_(seed), values_(seed) {}
  std::string text;
  size_t steps = 0;

  // Inputs of the program's shapes, dtypes and layouts; another `salt` gives other numbers in them.
  std::vector<Tensor> inputs(uint64_t salt = 0) {
    random_ = Random(seed_);
    values_ = Random(seed_ + 977 * salt);
    space_ = {};
    choose_space();
    std::vector<Tensor> made;
    for (int64_t n = 2 + random_.below(4); n > 0; --n) made.push_back(input());
    return made;
  }
  std::vector<Tensor> operator()(const std::vector<Tensor>& inputs) {
    random_ = Random(seed_ ^ 0x5bd1e995);
    pool_.clear();
    leaves_.clear();
    results_.clear();
    text.clear();
    steps = 0;
    for (const Tensor& x : inputs) {
      if (x.requires_grad()) leaves_.push_back(x);
      keep("input", x);
    }
    const int64_t length = 3 + random_.below(quick() ? 30 : 70);
    for (int64_t i = 0; i < length; ++i) step();
    if (!exact_) differentiate();
    for (const Tensor& t : pool_) results_.push_back(t);
    for (const Tensor& t : results_) t.data();
    pool_.clear();
    return std::move(results_);
  }

 private:
  uint64_t seed_;
  bool exact_;
  Random random_, values_;
  Shape space_;
  std::vector<Tensor> pool_, leaves_, results_;

  void say(const std::string& line, const Tensor& t) {
    text += line + " -> " + std::string(name_of(t.dtype())) + " " + to_string(t.shape()) + " " +
            to_string(t.strides()) + "\n";
  }
  void keep(const std::string& line, Tensor t) {
    say(line, t);
    if (t.numel() > 40000) return;
    if (pool_.size() >= 14)
      pool_[static_cast<size_t>(random_.below(static_cast<int64_t>(pool_.size())))] = std::move(t);
    else pool_.push_back(std::move(t));
  }

  void choose_space() {
    static const std::vector<int64_t> sizes = {1, 1, 2, 3, 4, 5, 7, 8, 16, 17, 33, 64, 130, 300};
    const int64_t rank = random_.below(5);
    int64_t total = 1;
    for (int64_t i = 0; i < rank; ++i) {
      int64_t n = random_.of(sizes);
      if (total * n > 6000) n = 2;
      if (random_.chance(3)) n = 0;
      total *= std::max<int64_t>(n, 1);
      space_.push_back(n);
    }
  }
  // The space with some axes of size 1 and leading ones left out.
  Shape broadcastable() {
    Shape s;
    const int64_t skipped = random_.chance(30) ? random_.below(space_.rank() + 1) : 0;
    for (int i = static_cast<int>(skipped); i < space_.rank(); ++i) s.push_back(random_.chance(25) ? 1 : space_[i]);
    return s;
  }

  double number(DType t) {
    if (!is_float(t))
      return t == DType::boolean ? static_cast<double>(values_.below(2))
             : t == DType::u8    ? static_cast<double>(values_.below(12))
                                 : static_cast<double>(values_.below(25) - 12);
    switch (values_.below(12)) {
      case 0: return values_.chance(50) ? 0.0 : -0.0;
      case 1:
        return values_.chance(70) ? 1 : values_.chance(50) ? std::nan("") : values_.chance(50) ? HUGE_VAL : -HUGE_VAL;
      case 2: return static_cast<double>(values_.below(7) - 3);
      case 3:
        return std::ldexp(static_cast<double>(values_.below(2000) - 1000), static_cast<int>(values_.below(40)) - 25);
      default: return (static_cast<double>(values_.below(1 << 20)) / (1 << 18)) - 2;
    }
  }
  Tensor filled(const Shape& s, DType t) {
    std::vector<double> v(static_cast<size_t>(numel(s)));
    for (double& x : v) x = number(t);
    Tensor x = Tensor::from(v, s).to(t);
    x.data();  // made before the program, in both modes alike
    return x;
  }
  Tensor input() {
    static const std::vector<DType> dtypes = {DType::f32, DType::f32, DType::f32, DType::f64, DType::bf16,   DType::f16,
                                              DType::i32, DType::i64, DType::u8,  DType::i8,  DType::boolean};
    const DType t = random_.of(dtypes);
    Shape s = broadcastable();
    const int last = s.rank() - 1;
    Tensor x;
    if (last < 0) x = filled(s, t);
    else switch (random_.below(6)) {
        case 0: {  // transposed
          Shape turned;
          Dims order;
          for (int i = last; i >= 0; --i) {
            turned.push_back(s[i]);
            order.push_back(i);
          }
          x = filled(turned, t).permute(order);
          break;
        }
        case 1: {  // every second element, from an offset
          Shape wide = s;
          wide[last] = 2 * s[last] + 3;
          x = filled(wide, t).slice(last, 1, 1 + 2 * s[last], 2);
          break;
        }
        case 2: x = flip(filled(s, t), {random_.below(s.rank())}); break;
        case 3: {
          Shape one = s;
          one[static_cast<int>(random_.below(s.rank()))] = 1;
          x = filled(one, t).expand(s);
          break;
        }
        default: x = filled(s, t);
      }
    if (is_float(t) && random_.chance(60)) x.requires_grad_();
    return x;
  }

  Tensor pick() { return random_.of(pool_); }
  // A float tensor whose values fit any integer dtype.
  static Tensor tamed(const Tensor& x) { return where(isfinite(x), clamp(x, 0.0, 100.0), 0.0); }
  Tensor cast(const Tensor& x, DType t) { return is_float(x.dtype()) && is_integer(t) ? tamed(x).to(t) : x.to(t); }

  void step() {
    ++steps;
    switch (random_.below(20)) {
      case 0:
      case 1:
      case 2: return exact_ ? pointwise() : reduce();
      case 3:
      case 4: return view();
      case 5: {
        const Tensor x = pick();
        const DType t = all_dtypes[random_.below(num_dtypes)];
        return keep("cast", cast(x, t));
      }
      case 6: return exact_ ? pointwise() : opaque();
      case 7:
        if (pool_.size() > 3 && random_.chance(50))
          pool_.erase(pool_.begin() + random_.below(static_cast<int64_t>(pool_.size())));
        else if (random_.chance(20)) pick().data();  // something reads it now
        return;
      default: return pointwise();
    }
  }

  void pointwise() {
    static const std::vector<size_t> exact = exact_rows();
    const size_t code =
        exact_ ? random_.of(exact) : static_cast<size_t>(random_.below(static_cast<int64_t>(rows.size())));
    const Row& row = rows[code];
    std::vector<Tensor> in;
    std::vector<Arg> args;
    args.reserve(3);
    in.reserve(3);
    Shape shape;
    bool floating = false, tensors = false;
    for (int i = 0; i < row.arity; ++i) {
      const bool condition = row.in == In::select && i == 0;
      if (!condition && i > 0 && random_.chance(25) && (tensors || i < row.arity - 1) &&
          (row.in != In::select || i > 1)) {
        in.emplace_back();
        continue;
      }
      Tensor x = pick();
      Shape joint;
      for (int tries = 0; tries < 6 && !broadcast_shapes(shape, x.shape(), joint); ++tries) x = pick();
      if (!broadcast_shapes(shape, x.shape(), joint)) return;
      if (numel(joint) > 40000) return;
      shape = joint;
      if (condition) x = x.dtype() == DType::boolean ? x : x != 0;
      else if (row.in == In::integral && is_float(x.dtype())) x = cast(x, DType::i32);
      else if (row.in == In::number && x.dtype() == DType::boolean) x = x.to(DType::i32);
      floating |= is_float(x.dtype());
      tensors = true;
      in.push_back(x);
    }
    std::string line = row.name;
    for (const Tensor& x : in) {
      if (x.defined()) args.emplace_back(x);
      else if (row.in == In::integral || (!floating && row.in != In::floating))
        args.emplace_back(random_.below(9) + (random_.chance(20) ? 0 : 1));
      else args.emplace_back(static_cast<double>(random_.below(65) - 32) / 8);
      line += x.defined() ? " " + to_string(x.shape()) : " number";
    }
    keep(line, call_pointwise(static_cast<Code>(code), args));
  }

  void reduce() {
    Tensor x = pick();
    Dims axes;
    int64_t reduced = 1;
    for (int i = 0; i < x.rank(); ++i)
      if (random_.chance(50)) {
        axes.push_back(random_.chance(30) ? i - x.rank() : i);
        reduced *= x.shape()[i];
      }
    if (axes.empty()) reduced = x.numel();
    const bool keepdim = random_.chance(60);
    const auto kind = random_.below(12);
    if (reduced == 0 && kind >= 4 && kind <= 8) return;
    if (!is_float(x.dtype()) && kind >= 7) x = x.to(DType::f32);
    switch (kind) {
      case 0:
      case 1: return keep("sum " + to_string(axes), sum(x, axes, keepdim));
      case 2: return keep("prod " + to_string(axes), prod(x, axes, keepdim));
      case 3: return keep("any " + to_string(axes), random_.chance(50) ? any(x, axes, keepdim) : all(x, axes, keepdim));
      case 4: return keep("amax " + to_string(axes), amax(x, axes, keepdim));
      case 5: return keep("amin " + to_string(axes), amin(x, axes, keepdim));
      case 6:
        return keep("argmax " + to_string(axes),
                    random_.chance(50) ? argmax(x, axes, keepdim) : argmin(x, axes, keepdim));
      case 7: return keep("logsumexp " + to_string(axes), logsumexp(x, axes, keepdim));
      case 8: return keep("var " + to_string(axes), var(x, axes, {.correction = 0, .keepdim = keepdim}));
      case 9: return keep("norm " + to_string(axes), norm(x, axes, keepdim));
      default: return keep("mean " + to_string(axes), mean(x, axes, keepdim));
    }
  }

  void view() {
    const Tensor x = pick();
    if (x.rank() == 0) return keep("unsqueeze", x.unsqueeze(0));
    const int64_t axis = random_.below(x.rank());
    const int64_t n = x.shape()[static_cast<int>(axis)];
    switch (random_.below(8)) {
      case 0: return keep("transpose", x.transpose(axis, random_.below(x.rank())));
      case 1: return keep("flatten", x.flatten());
      case 2: return keep("narrow", x.narrow(axis, n / 3, n - n / 3));
      case 3: return keep("slice", x.slice(axis, -1, -n - 1, -1 - random_.below(2)));
      case 4: return keep("contiguous", x.contiguous());
      case 5:
        return n == 1         ? keep("expand", expanded(x, static_cast<int>(axis)))
               : x.rank() < 6 ? keep("unsqueeze", x.unsqueeze(axis))
                              : void();
      case 6: return keep("squeeze", x.squeeze(axis));
      default: return keep("select", n ? x.select(axis, random_.below(n)) : x);
    }
  }
  static Tensor expanded(const Tensor& x, int axis) {
    Shape s = x.shape();
    s[axis] = 3;
    return x.expand(s);
  }

  void opaque() {
    const Tensor x = pick();
    if (x.rank() == 0) return;
    switch (random_.below(3)) {
      case 0: return keep("cat", cat({x, x.slice(0, 0, 2)}, 0));
      case 1: return is_float(x.dtype()) ? keep("softmax", softmax(x, random_.below(x.rank()))) : void();
      default:
        if (!is_float(x.dtype()) || x.rank() < 2 || x.numel() > 3000) return;
        return keep("matmul", matmul(x, x.transpose(-1, -2)));
    }
  }

  void differentiate() {
    if (leaves_.empty()) return;
    for (size_t i = 0; i < pool_.size(); ++i) {
      const Tensor y = pool_[i];
      if (!y.requires_grad()) continue;
      const Tensor seed = full(y.shape(), 0.5, y.dtype());
      for (const Tensor& g : grad({y}, leaves_, {.grad_outputs = {seed}, .allow_unused = true}))
        if (g.defined()) results_.push_back(g);
      text += "gradients of result " + std::to_string(i) + "\n";
      return;
    }
  }
};

struct Outcome {
  std::vector<Tensor> results;
  std::string text, error;
  size_t steps = 0;
};
template <class F>
Outcome outcome_of(Program& p, F&& run) {
  Outcome o;
  try {
    o.results = run();
  } catch (const Error& e) { o.error = e.what(); }
  o.text = p.text;
  o.steps = p.steps;
  return o;
}
inline Outcome run_program(uint64_t seed, bool fused, bool exact = false) {
  Program p(seed, exact);
  const std::vector<Tensor> in = p.inputs();
  set_fusion(fused);
  Outcome o = outcome_of(p, [&] { return p(in); });
  set_fusion(true);
  return o;
}
inline std::string difference(const Outcome& a, const Outcome& b) {
  if (a.error != b.error) return "errors '" + a.error + "' and '" + b.error + "'";
  if (!a.error.empty()) return a.error;
  if (a.results.size() != b.results.size()) return "another number of results";
  for (size_t i = 0; i < a.results.size(); ++i)
    if (const std::string d = test::difference(a.results[i], b.results[i]); !d.empty())
      return "result " + std::to_string(i) + ", " + d;
  return {};
}

}  // namespace flame::test
