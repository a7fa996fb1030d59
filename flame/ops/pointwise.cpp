// Pointwise ops: checks, promotion and gradients of every row of fuse/pointwise.def. Kernels are in fuse.
#include "flame/ops/pointwise.h"

#include <array>
#include <memory>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/fuse/island.h"
#include "flame/ops/pointwise_internal.h"
#include "flame/ops/reduce.h"

namespace flame {

namespace {
thread_local RuleScope* current_rule = nullptr;
}
RuleScope::RuleScope(const Loc& where, Device& device, DType compute)
    : where(where),
      device(device),
      dtype(compute == DType::f64 ? DType::f64 : DType::f32),
      before_(std::exchange(current_rule, this)) {}
RuleScope::~RuleScope() { current_rule = before_; }
const RuleScope* RuleScope::current() { return current_rule; }

namespace {

// A rule's number as a tensor of rank 0.
Tensor constant(const Scalar& s) {
  return Tensor(pend_iota({}, RuleScope::current()->dtype, 0, s, 0, RuleScope::current()->device));
}

// A saved input, in a rule.
struct RuleArg : Arg {
  using Arg::Arg;
  operator Tensor() const { return tensor() ? *tensor() : constant(scalar()); }
};
struct None {
  operator Tensor() const { return {}; }
} const none;

// Zeros that hang on g, so that they can be differentiated again; g is never multiplied, since it may be infinite.
Tensor zero(const Tensor& g) { return where(g < g, g, 0); }

// Which of a, b, c and y a rule's text names, as bits.
consteval uint8_t names_in(std::string_view rule) {
  uint8_t found = 0;
  for (size_t i = 0; i < rule.size();) {
    const auto word = [&](size_t k) {
      return k < rule.size() && ((rule[k] >= 'a' && rule[k] <= 'z') || (rule[k] >= 'A' && rule[k] <= 'Z') ||
                                 (rule[k] >= '0' && rule[k] <= '9') || rule[k] == '_' || rule[k] == '.');
    };
    size_t end = i;
    while (word(end)) ++end;
    if (end - i == 1)
      for (int k = 0; k < 4; ++k)
        if (rule[i] == "abcy"[k]) found = static_cast<uint8_t>(found | 1 << k);
    i = end > i ? end : i + 1;
  }
  return found;
}
static_assert(names_in("g * (b * pow(a, b - 1))") == 3 && names_in("zero(g)") == 0 &&
              names_in("where(y <= 0, 0, g)") == 8);

// The gradient towards input i.
using Rule = Tensor (*)(int i, const Tensor& g, const RuleArg& a, const RuleArg& b, const RuleArg& c, const Tensor& y);
#define FLAME_POINTWISE(name, arity, in, out, lanes, scalar, vector, da, db, dc, ...)                                 \
  Tensor gradient_##name([[maybe_unused]] int i, [[maybe_unused]] const Tensor& g, [[maybe_unused]] const RuleArg& a, \
                         [[maybe_unused]] const RuleArg& b, [[maybe_unused]] const RuleArg& c,                        \
                         [[maybe_unused]] const Tensor& y) {                                                          \
    if (i == 0) return da;                                                                                            \
    if (i == 1) return db;                                                                                            \
    return dc;                                                                                                        \
  }
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE

enum class In : uint8_t { any, number, floating, integral, select };
enum class Out : uint8_t { same, boolean };
struct Row {
  const char* name;
  In in;
  Out out;
  uint8_t saves[3];
  Rule rule;
  bool wide;  // autocast computes it in float32
};
constexpr Row rows[] = {
#define FLAME_POINTWISE(name, arity, in, out, lanes, scalar, vector, da, db, dc, ...) \
  {#name,                                                                             \
   In::in,                                                                            \
   Out::out,                                                                          \
   {names_in(#da), names_in(#db), names_in(#dc)},                                     \
   &gradient_##name,                                                                  \
   precision_of(#name) == Precision::wide},
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
};
const Row& row_of(Code code) { return rows[static_cast<size_t>(code)]; }

class PointwiseNode final : public Node {
 public:
  PointwiseNode(const Row& row, Loc where, Device& device, DType compute)
      : Node(row.name, where, 1), row_(row), device_(device), compute_(compute) {}

  template <size_t n>
  void save(const std::array<const Arg*, n>& in, const Ref<Value>& y, const Shape& shape) {
    next.resize(n);
    uint8_t saved = 0;
    for (size_t i = 0; i < n; ++i) {
      const Tensor* t = in[i]->tensor();
      if (!t || !t->edge()) continue;
      next[i] = t->edge();
      saved |= row_.saves[i];
      if (t->dtype() != compute_ || t->shape() != shape) {
        if (!origins_) origins_ = std::make_unique<std::array<Origin, 3>>();
        (*origins_)[i] = {true, t->dtype(), t->shape()};
      }
    }
    for (size_t i = 0; i < n; ++i) {
      if (const Tensor* t = in[i]->tensor()) {
        if (saved >> i & 1) values_[i].save(t->value_ref());
      } else {
        scalars_[i] = in[i]->scalar();
      }
    }
    if (saved >> 3 & 1) values_[3].save(y);
    saved_ = saved;
    note_values(true);
  }
  ~PointwiseNode() override { note_values(false); }

  void backward(BackwardContext& v) override {
    const Tensor& g = v.grads[0];
    if (!g.defined()) return;
    if (released_ && saved_)
      fail<AutogradError>(
          where, "backward of {}: its saved tensors were freed by an earlier backward; pass retain_graph to that one",
          name);
    RuleScope scope(where, device_, compute_);
    const std::array<Tensor, 3> t = {input(0, v.create_graph), input(1, v.create_graph), input(2, v.create_graph)};
    const RuleArg a = arg(t, 0), b = arg(t, 1), c = arg(t, 2);
    // Its own output hangs on this node only by value, so that there is no cycle.
    const Tensor y =
        values_[3] ? Tensor(values_[3].get(*this), v.create_graph ? GradEdge(this, 0) : GradEdge()) : Tensor();
    for (size_t i = 0; i < next.size(); ++i)
      if (v.needs(*this, i)) v.given[i] = to_origin(row_.rule(static_cast<int>(i), g, a, b, c, y), i);
  }
  void release_saved() override {
    note_values(false);
    for (SavedValue& v : values_) v.reset();
    released_ = true;
  }

 private:
  void note_values(bool kept) const {
    if (device_.kind() != Device::Kind::cuda) return;
    for (const SavedValue& v : values_)
      if (v && !v.is_packed()) note_kept(*v.get(*this), kept);
  }
  const Row& row_;
  Device& device_;
  std::array<SavedValue, 4> values_;  // a, b, c, y
  std::array<Scalar, 3> scalars_{0.0, 0.0, 0.0};
  struct Origin {
    bool noted = false;
    DType dtype{};
    Shape shape;
  };
  std::unique_ptr<std::array<Origin, 3>> origins_;  // of inputs that were broadcast or cast
  DType compute_;
  uint8_t saved_ = 0;
  bool released_ = false;

  Tensor input(size_t i, bool with_edge) const {
    if (!values_[i]) return {};
    Tensor t(values_[i].get(*this), with_edge ? next[i] : GradEdge());
    return t.dtype() == compute_ || (row_.in == In::select && i == 0) ? t : t.to(compute_, where);
  }
  RuleArg arg(const std::array<Tensor, 3>& t, size_t i) const {
    if (t[i].defined()) return RuleArg(t[i]);
    return RuleArg(scalars_[i]);
  }
  // Undoes broadcasting and the cast of input i.
  Tensor to_origin(Tensor g, size_t i) const {
    if (!g.defined()) return g;
    const Origin* o = origins_ && (*origins_)[i].noted ? &(*origins_)[i] : nullptr;
    if (o && g.shape() != o->shape) g = sum_to(g, o->shape, where);
    const DType t = o ? o->dtype : compute_;  // a rule's numbers may have widened what is of rank 0
    return g.dtype() == t ? g : g.to(t, where);
  }
};

// PyTorch's result type: tensors with axes, tensors of rank 0 and plain numbers count less and less, and a lower class
// matters only if it is of a higher category.
class ResultType {
 public:
  void join(const Arg& a) {
    if (const Tensor* t = a.tensor()) merge(t->rank() > 0 ? axes_ : rank0_, t->dtype());
    else
      merge(number_, a.scalar().kind == Scalar::Kind::floating  ? DType::f32
                     : a.scalar().kind == Scalar::Kind::integer ? DType::i64
                                                                : DType::boolean);
  }
  DType get() const { return *combine(axes_, combine(rank0_, number_)); }

 private:
  std::optional<DType> axes_, rank0_, number_;
  static void merge(std::optional<DType>& c, DType t) { c = c ? promote(*c, t) : t; }
  static std::optional<DType> combine(std::optional<DType> high, std::optional<DType> low) {
    if (!high || !low) return high ? high : low;
    if (is_float(*high)) return high;
    return *high == DType::boolean || is_float(*low) ? promote(*high, *low) : high;
  }
};

bool takes(In in, DType t) {
  if (in == In::number) return t != DType::boolean;
  return in != In::integral || !is_float(t);
}
constexpr const char* expected_dtypes[] = {"any dtype", "a number dtype", "a floating dtype",
                                           "bool or an integer dtype", "any dtype"};

// What a call comes down to: the dtype it is computed in, and the broadcast shape.
struct Call {
  DType compute;
  Shape shape;
  Device* device = nullptr;
};
template <size_t n>
Call check(const Row& row, const std::array<const Arg*, n>& in, const Loc& loc) {
  Call call;
  ResultType type;
  for (size_t i = 0; i < n; ++i) {
    const Arg& a = *in[i];
    if (row.in != In::select || i > 0) type.join(a);
    const Tensor* t = a.tensor();
    if (!t) continue;
    const Value& v = *t->value_ref();
    if (!call.device) {
      call.device = v.device;
      call.shape = v.shape;
      continue;
    }
    if (v.device != call.device)
      fail<DeviceError>(loc, "{}: inputs are on {} and {}; move one with to()", row.name, call.device->name(),
                        v.device->name());
    if (v.shape == call.shape) continue;
    Shape joined;
    if (!broadcast_shapes(call.shape, v.shape, joined))
      fail<ShapeError>(loc, "{}: shapes {} and {} do not broadcast", row.name, call.shape, v.shape);
    call.shape = joined;
  }
  if (!call.device) fail<ValueError>(loc, "{}: expected at least one tensor, got numbers alone", row.name);
  call.compute = type.get();
  if (row.in == In::floating && !is_float(call.compute)) call.compute = DType::f32;
  if (!takes(row.in, call.compute))
    fail<DTypeError>(loc, "{}: expected {}, got {}", row.name, expected_dtypes[static_cast<int>(row.in)], call.compute);
  if (row.in == In::select) {
    const Tensor* c = in[0]->tensor();
    if (!c || c->dtype() != DType::boolean)
      fail<DTypeError>(loc, "{}: expected a bool condition, got {}", row.name, c ? name_of(c->dtype()) : "a number");
  }
  return call;
}

template <size_t n>
void check_defined(const Row& row, const std::array<const Arg*, n>& in, const Loc& loc) {
  for (size_t i = 0; i < n; ++i)
    if (in[i]->tensor() && !in[i]->tensor()->defined()) fail<ValueError>(loc, "{}: input {} is undefined", row.name, i);
}

// x^2 is so common that it gets the one multiplication it needs.
bool is_two(const Arg& a) {
  return !a.tensor() && (a.scalar().kind == Scalar::Kind::floating ? a.scalar().value == 2 : a.scalar().integral == 2);
}

template <size_t n>
Tensor pointwise(Code code, const std::array<const Arg*, n>& in, const Loc& loc, bool wide) {
  if constexpr (n == 2)
    if (code == Code::pow && is_two(*in[1]) && in[0]->tensor()) return pointwise<1>(Code::square, {in[0]}, loc, wide);
  const Row& row = row_of(code);
  check_defined(row, in, loc);
  if (RuleScope::current()) {  // numbers alone, inside a gradient rule
    bool tensors = false;
    for (const Arg* a : in) tensors |= a->tensor() != nullptr;
    if (!tensors) {
      const Tensor first = constant(in[0]->scalar());
      const Arg arg = first;
      std::array<const Arg*, n> with_tensor = in;
      with_tensor[0] = &arg;
      return pointwise<n>(code, with_tensor, loc, wide);
    }
  }
  Call call = check(row, in, loc);
  if (wide && size_of(call.compute) == 2 && autocasts()) call.compute = DType::f32;
  std::array<Ref<Value>, n> cast;
  const auto operand = [&](size_t i) {
    const Tensor* t = in[i]->tensor();
    if (!t) return Operand(in[i]->scalar());
    if (t->dtype() == call.compute || (row.in == In::select && i == 0)) return Operand(*t);
    const Strides dense = dense_strides_like(t->shape(), t->strides());
    cast[i] = pend_copy(t->value_ref(), call.compute, &dense);
    return Operand(cast[i]);
  };
  const DType out = row.out == Out::boolean ? DType::boolean : call.compute;
  Ref<Value> y;
  if constexpr (n == 1) y = pend_pointwise(code, out, call.shape, {operand(0)}, *call.device, RuleScope::line(loc));
  else if constexpr (n == 2)
    y = pend_pointwise(code, out, call.shape, {operand(0), operand(1)}, *call.device, RuleScope::line(loc));
  else
    y = pend_pointwise(code, out, call.shape, {operand(0), operand(1), operand(2)}, *call.device, RuleScope::line(loc));

  if (!is_float(out) || !grad_enabled()) return Tensor(std::move(y));
  bool wanted = false;
  for (const Arg* a : in) wanted |= a->tensor() && a->tensor()->requires_grad();
  if (!wanted) return Tensor(std::move(y));
  PointwiseNode* node = new PointwiseNode(row, RuleScope::line(loc), *call.device, call.compute);
  const Ref<Node> keep(node);
  node->save(in, y, call.shape);
  return Tensor(std::move(y), GradEdge(node, 0));
}

template <size_t n>
Tensor pointwise(Code code, const std::array<const Arg*, n>& in, const Loc& loc) {
  return pointwise<n>(code, in, loc, row_of(code).wide);
}

}  // namespace

#define FLAME_DEFINE_1(name)                    \
  Tensor name(const Tensor& x, Loc loc) {       \
    const Arg a(x);                             \
    return pointwise<1>(Code::name, {&a}, loc); \
  }
#define FLAME_DEFINE_2(name) \
  Tensor name(const Arg& a, const Arg& b, Loc loc) { return pointwise<2>(Code::name, {&a, &b}, loc); }
#define FLAME_DEFINE_3(name) \
  Tensor name(const Arg& a, const Arg& b, const Arg& c, Loc loc) { return pointwise<3>(Code::name, {&a, &b, &c}, loc); }
#define FLAME_POINTWISE(name, arity, ...) FLAME_DEFINE_##arity(name)
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE

// For the engine, which knows of no Arg.
Tensor add(const Tensor& a, const Tensor& b, Loc loc) { return add(Arg(a), Arg(b), loc); }

Tensor call_pointwise(Code code, std::span<const Arg> in, Loc loc) {
  if (in.size() == 1) return pointwise<1>(code, {&in[0]}, loc);
  if (in.size() == 2) return pointwise<2>(code, {&in[0], &in[1]}, loc);
  return pointwise<3>(code, {&in[0], &in[1], &in[2]}, loc);
}

}  // namespace flame
