// Internal: how a view or a copy is made whose gradient is a function of the incoming gradient alone, and how the
// elements that a slice names are counted.
#pragma once
#include "flame/autograd/node.h"

namespace flame {

template <class F>
class ViewNode final : public Node {
 public:
  ViewNode(const char* name, Loc where, F opposite) : Node(name, where, 1), opposite_(std::move(opposite)) {}
  void backward(BackwardContext& v) override {
    if (v.grads[0].defined() && v.needs(*this, 0)) v.given[0] = opposite_(v.grads[0]);
  }

 private:
  F opposite_;
};

template <class F>
Tensor with_opposite(const char* name, const Tensor& x, Ref<Value> out, F opposite, Loc loc) {
  if (!any_requires_grad({&x, 1})) return Tensor(std::move(out));
  const Ref<Node> node(new ViewNode<F>(name, loc, std::move(opposite)));
  node->next = {x.edge()};
  return Tensor(std::move(out), GradEdge(node.get(), 0));
}

// `skip`: elements between x's first one and the view's.
inline Ref<Value> strided_view(const Tensor& x, const Shape& shape, const Strides& strides, int64_t skip = 0) {
  materialize(x.value());
  return Value::view(x.value(), shape, strides, x.value().offset + skip);
}

// What `parts` are one after the other along `axis`, a view, if they lie so in one storage that is no State's; else null.
Ref<Value> adjoining(std::span<const Tensor> parts, int axis);

// Elements start, start + step, ... of an axis, `count` of them.
struct Span {
  int64_t start = 0, count = 0, step = 1;
};
// NumPy's rule for start:stop:step on an axis of size n: from the end if negative, then clamped to where a walk in this
// direction may start or stop.
Span resolved_slice(int64_t n, int64_t start, int64_t stop, int64_t step);
// That part of `axis`, as a view. The span lies within the axis.
Tensor sliced(const char* name, const Tensor& x, int axis, const Span& s, Loc loc);

}  // namespace flame
