// Mistakes of what networks are made of: products, convolution, pooling, norms, dropout, indexing, losses.
#include <cmath>

#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

Tensor f(const Shape& s, DType t = DType::f32) { return full(s, 0.5, t); }
Tensor elsewhere(const Shape& s, DType t = DType::f32) { return full(s, 1, t, trace_device()); }
Tensor ints(const Shape& s, int64_t value = 1) { return full(s, value, DType::i64); }
State state(const Shape& s, Device& d = cpu()) { return State(full(s, 1, DType::f32, d)); }

// What an op says of each of its inputs: undefined where it is needed, on another device where it is given.
using Inputs = std::vector<Tensor>;
void each_input(const char* op, const Inputs& good, size_t needed, const std::function<void(const Inputs&)>& call) {
  for (size_t i = 0; i < good.size(); ++i) {
    const auto with = [=](const Tensor& x) {
      Inputs in = good;
      in[i] = x;
      return in;
    };
    if (i < needed)
      expect_error<ValueError>(op, Mistake::option, std::string(op) + ": expected a defined tensor",
                               [=] { call(with(Tensor())); });
    if (good.size() > 1)
      expect_error<DeviceError>(op, Mistake::device, std::string(op) + ": expected all tensors on one device",
                                [=, shape = good[i].shape(), t = good[i].dtype()] { call(with(elsewhere(shape, t))); });
  }
}

const AddErrors products([] {
  each_input("matmul", {f({2, 3}), f({3, 4})}, 2, [](const Inputs& in) { matmul(in[0], in[1]); });
  expect_error<ShapeError>("matmul", Mistake::shape, "inner sizes 3 and 2 differ", [] {
    matmul(f({2, 3}), f({2, 3}));
  });
  expect_error<ShapeError>("matmul", Mistake::shape, "batch axes of shapes [3, 2, 3] and [2, 3, 4]", [] {
    matmul(f({3, 2, 3}), f({2, 3, 4}));
  });
  expect_error<ShapeError>("matmul", Mistake::rank, "rank 1 or more", [] { matmul(f({}), f({3})); });
  expect_error<ShapeError>("matmul", Mistake::rank, "rank 1 or more", [] { matmul(f({3}), f({})); });
  expect_error<ShapeError>("matmul", Mistake::empty, "inner sizes 0 and 3", [] { matmul(f({2, 0}), f({3, 2})); });
  expect_error<DTypeError>("matmul", Mistake::dtype, "two bool tensors", [] {
    const Tensor b = full({2, 2}, true, DType::boolean);
    matmul(b, b);
  });

  each_input("linear", {f({2, 3}), f({4, 3}), f({4})}, 2, [](const Inputs& in) { linear(in[0], in[1], in[2]); });
  expect_error<ShapeError>("linear", Mistake::shape, "x [..., 5]", [] { linear(f({2, 3}), f({4, 5})); });
  expect_error<ShapeError>("linear", Mistake::shape, "a bias of shape [4], got [3]", [] {
    linear(f({2, 3}), f({4, 3}), f({3}));
  });
  expect_error<ShapeError>("linear", Mistake::rank, "a weight of rank 2, got [3]", [] { linear(f({2, 3}), f({3})); });
  expect_error<ShapeError>("linear", Mistake::rank, "got []", [] { linear(f({}), f({4, 3})); });
  expect_error<ShapeError>("linear", Mistake::empty, "got [2, 0]", [] { linear(f({2, 0}), f({4, 3})); });
  expect_error<DTypeError>("linear", Mistake::dtype, "got bool", [] {
    const Tensor b = full({2, 2}, true, DType::boolean);
    linear(b, b);
  });
  expect_error<DTypeError>("linear", Mistake::dtype, "a floating dtype for an activation, got int64", [] {
    linear(ints({2, 3}), ints({4, 3}), {}, {.activation = Activation::relu});
  });

  each_input("feed_forward", {f({2, 3}), f({4, 3}), f({5, 4}), f({4}), f({5})}, 3,
             [](const Inputs& in) { feed_forward(in[0], in[1], in[3], in[2], in[4]); });
  expect_error<ShapeError>("feed_forward", Mistake::shape, "x [..., 5]", [] {
    feed_forward(f({2, 3}), f({4, 5}), {}, f({2, 4}), {});
  });
  expect_error<ShapeError>("feed_forward", Mistake::shape, "a second weight [out, 4]", [] {
    feed_forward(f({2, 3}), f({4, 3}), {}, f({2, 5}), {});
  });
  expect_error<ShapeError>("feed_forward", Mistake::shape, "a bias of shape [4], got [3]", [] {
    feed_forward(f({2, 3}), f({4, 3}), f({3}), f({2, 4}), {});
  });
  expect_error<ShapeError>("feed_forward", Mistake::shape, "a second bias of shape [2], got [4]", [] {
    feed_forward(f({2, 3}), f({4, 3}), {}, f({2, 4}), f({4}));
  });
  expect_error<ShapeError>("feed_forward", Mistake::rank, "a weight of rank 2, got [3]", [] {
    feed_forward(f({2, 3}), f({3}), {}, f({2, 4}), {});
  });
  expect_error<ShapeError>("feed_forward", Mistake::empty, "got [2, 0]", [] {
    feed_forward(f({2, 0}), f({4, 3}), {}, f({2, 4}), {});
  });
  expect_error<DTypeError>("feed_forward", Mistake::dtype, "a floating dtype, got int64", [] {
    feed_forward(ints({2, 3}), ints({4, 3}), {}, ints({2, 4}), {});
  });
});

const AddErrors pictures([] {
  const Shape x{2, 4, 6, 6}, w{4, 4, 3, 3};
  each_input("conv2d", {f(x), f(w), f({4})}, 2, [](const Inputs& in) { conv2d(in[0], in[1], in[2]); });
  expect_error<ShapeError>("conv2d", Mistake::rank, "x [N, C, H, W] or [C, H, W], got [2, 3]", [=] {
    conv2d(f({2, 3}), f(w));
  });
  expect_error<ShapeError>("conv2d", Mistake::rank, "a weight [O, C / groups, R, S], got [4]",
                           [=] { conv2d(f(x), f({4})); });
  expect_error<ShapeError>("conv2d", Mistake::shape, "3 channels", [=] { conv2d(f(x), f({4, 3, 3, 3})); });
  expect_error<ShapeError>("conv2d", Mistake::shape, "a window of 9", [=] { conv2d(f(x), f({4, 4, 9, 3})); });
  expect_error<ShapeError>("conv2d", Mistake::shape, "a bias of shape [4], got [5]",
                           [=] { conv2d(f(x), f(w), f({5})); });
  expect_error<ShapeError>("conv2d", Mistake::empty, "does not fit", [=] { conv2d(f({2, 4, 0, 6}), f(w)); });
  expect_error<ShapeError>("conv2d", Mistake::empty, "a window of 0", [=] { conv2d(f(x), f({4, 4, 0, 3})); });
  expect_error<ShapeError>("conv2d", Mistake::option, "3 groups", [=] { conv2d(f(x), f(w), {}, {.groups = 3}); });
  expect_error<ShapeError>("conv2d", Mistake::option, "2 groups do not divide the 3 filters", [=] {
    conv2d(f(x), f({3, 2, 3, 3}), {}, {.groups = 2});
  });
  expect_error<DTypeError>("conv2d", Mistake::dtype, "floating dtype, got int64", [=] { conv2d(ints(x), ints(w)); });
  expect_error<ValueError>("conv2d", Mistake::option, "stride [0, 0]", [=] { conv2d(f(x), f(w), {}, {.stride = 0}); });
  expect_error<ValueError>("conv2d", Mistake::option, "padding [1, -1]", [=] {
    conv2d(f(x), f(w), {}, {.padding = {1, -1}});
  });
  expect_error<ValueError>("conv2d", Mistake::option, "dilation [0, 1]", [=] {
    conv2d(f(x), f(w), {}, {.dilation = {0, 1}});
  });
  expect_error<ValueError>("conv2d", Mistake::option, "1 group or more, got 0",
                           [=] { conv2d(f(x), f(w), {}, {.groups = 0}); });

  struct Pool {
    const char* name;
    Tensor (*fn)(const Tensor& x, Pair kernel, Pair stride, Pair padding);
  };
  for (const Pool& p :
       {Pool{"max_pool2d", [](const Tensor& x, Pair k, Pair s,
                              Pair pad) { return max_pool2d(x, {.kernel = k, .stride = s, .padding = pad}); }},
        Pool{"avg_pool2d", [](const Tensor& x, Pair k, Pair s, Pair pad) {
               return avg_pool2d(x, {.kernel = k, .stride = s, .padding = pad});
             }}}) {
    const auto fn = p.fn;
    each_input(p.name, {f(x)}, 1, [=](const Inputs& in) { fn(in[0], 2, 0, 0); });
    expect_error<ShapeError>(p.name, Mistake::rank, "x [N, C, H, W] or [C, H, W], got [2, 3]", [=] {
      fn(f({2, 3}), 2, 0, 0);
    });
    expect_error<ShapeError>(p.name, Mistake::shape, "a window of 9 does not fit", [=] { fn(f(x), 9, 0, 0); });
    expect_error<ShapeError>(p.name, Mistake::empty, "expected elements to pool, got x [2, 4, 0, 6]", [=] {
      fn(f({2, 4, 0, 6}), 2, 0, 0);
    });
    expect_error<DTypeError>(p.name, Mistake::dtype, "got int64", [=] { fn(ints(x), 2, 0, 0); });
    expect_error<ValueError>(p.name, Mistake::option, "kernel [0, 2]", [=] { fn(f(x), {0, 2}, 1, 0); });
    expect_error<ValueError>(p.name, Mistake::option, "stride [1, -1]", [=] { fn(f(x), 2, {1, -1}, 0); });
    expect_error<ValueError>(p.name, Mistake::option, "half the window of 2, got 2", [=] { fn(f(x), 2, 2, 2); });
    expect_error<ValueError>(p.name, Mistake::option, "got -1", [=] { fn(f(x), 2, 2, -1); });
  }
  expect_error<ValueError>("max_pool2d", Mistake::option, "dilation [0, 0]",
                           [=] { max_pool2d(f(x), {.kernel = 2, .dilation = 0}); });
});

const AddErrors norms([] {
  each_input("layer_norm", {f({2, 3}), f({3}), f({3})}, 1,
             [](const Inputs& in) { layer_norm(in[0], {3}, in[1], in[2]); });
  expect_error<ShapeError>("layer_norm", Mistake::shape, "last sizes are [2], got [2, 3]", [] {
    layer_norm(f({2, 3}), {2});
  });
  expect_error<ShapeError>("layer_norm", Mistake::rank, "[1, 2, 3]", [] { layer_norm(f({2, 3}), {1, 2, 3}); });
  expect_error<ShapeError>("layer_norm", Mistake::empty, "last sizes are []", [] { layer_norm(f({2, 3}), {}); });
  expect_error<ShapeError>("layer_norm", Mistake::shape, "a weight of shape [3], got [2]", [] {
    layer_norm(f({2, 3}), {3}, f({2}));
  });
  expect_error<ShapeError>("layer_norm", Mistake::shape, "a bias of shape [3], got [1, 3]", [] {
    layer_norm(f({2, 3}), {3}, {}, f({1, 3}));
  });
  expect_error<DTypeError>("layer_norm", Mistake::dtype, "got int64", [] { layer_norm(ints({2, 3}), {3}); });

  each_input("batch_norm", {f({4, 3}), f({3}), f({3})}, 1,
             [](const Inputs& in) { batch_norm(in[0], {}, {}, in[1], in[2]); });
  for (bool first : {true, false}) {
    const auto call = [first](const Tensor& x, const State& wrong, const BatchNormOptions& o = {}) {
      const State right = state({3});
      batch_norm(x, first ? wrong : right, first ? right : wrong, {}, {}, o);
    };
    const std::string name = first ? "running_mean" : "running_var";
    expect_error<ShapeError>("batch_norm", Mistake::shape, "a " + name + " of shape [3], got [2]", [=] {
      call(f({4, 3}), state({2}));
    });
    expect_error<ShapeError>("batch_norm", Mistake::rank, "a " + name + " of shape [3], got [1, 3]", [=] {
      call(f({4, 3}), state({1, 3}));
    });
    expect_error<DeviceError>("batch_norm", Mistake::device, "running statistics on cpu, got them on trace", [=] {
      call(f({4, 3}), state({3}, trace_device()));
    });
    expect_error<ValueError>("batch_norm", Mistake::option, "evaluation needs running statistics", [=] {
      call(f({4, 3}), State(), {.training = false});
    });
  }
  expect_error<ShapeError>("batch_norm", Mistake::shape, "a weight of shape [3], got [4]", [] {
    batch_norm(f({4, 3}), {}, {}, f({4}));
  });
  expect_error<ShapeError>("batch_norm", Mistake::shape, "a bias of shape [3], got [4]", [] {
    batch_norm(f({4, 3}), {}, {}, {}, f({4}));
  });
  expect_error<ShapeError>("batch_norm", Mistake::rank, "[N, C, ...], got [3]", [] { batch_norm(f({3}), {}, {}); });
  expect_error<ValueError>("batch_norm", Mistake::empty, "more than 1 value per channel", [] {
    batch_norm(f({1, 3}), {}, {});
  });
  expect_error<DTypeError>("batch_norm", Mistake::dtype, "got int64", [] { batch_norm(ints({4, 3}), {}, {}); });

  each_input("dropout", {f({3})}, 1, [](const Inputs& in) { dropout(in[0]); });
  expect_error<DTypeError>("dropout", Mistake::dtype, "got int64", [] { dropout(ints({3})); });
  for (double p : {-0.1, 1.5, static_cast<double>(NAN)})
    expect_error<ValueError>("dropout", Mistake::option, "a probability in [0, 1]", [p] { dropout(f({3}), p); });
});

const AddErrors indexing([] {
  const auto one = [](int64_t i) { return ints({1, 3}, i); };
  each_input("gather", {f({2, 3}), one(1)}, 2, [](const Inputs& in) { gather(in[0], 0, in[1]); });
  each_input("scatter_add", {f({2, 3}), one(1), f({1, 3})}, 3,
             [](const Inputs& in) { scatter_add(in[0], 0, in[1], in[2]); });
  each_input("index_select", {f({2, 3}), ints({2})}, 2, [](const Inputs& in) { index_select(in[0], 0, in[1]); });
  each_input("embedding", {f({2, 3}), ints({2})}, 2, [](const Inputs& in) { embedding(in[0], in[1]); });

  for (int64_t i : {2, -1}) {
    const std::string bad = "index " + std::to_string(i) + " is out of range for axis 0 of size 2";
    expect_error<IndexError>("gather", Mistake::index, bad, [=] { gather(f({2, 3}), 0, one(i)); });
    expect_error<IndexError>("scatter_add", Mistake::index, bad, [=] { scatter_add(f({2, 3}), 0, one(i), f({1, 3})); });
    expect_error<IndexError>("index_select", Mistake::index, bad, [=] { index_select(f({2, 3}), 0, ints({2}, i)); });
    expect_error<IndexError>("embedding", Mistake::index, bad, [=] { embedding(f({2, 3}), ints({2}, i)); });
    expect_error<IndexError>("gather", Mistake::axis, "axis " + std::to_string(2 * i) + " is out of range for rank 1",
                             [=] { gather(f({2}), 2 * i, ints({1})); });
    expect_error<IndexError>("scatter_add", Mistake::axis, "axis " + std::to_string(3 * i), [=] {
      scatter_add(f({2, 3}), 3 * i, one(0), f({1, 3}));
    });
    expect_error<IndexError>("index_select", Mistake::axis, "axis " + std::to_string(3 * i), [=] {
      index_select(f({2, 3}), 3 * i, ints({1}));
    });
  }
  expect_error<IndexError>("gather", Mistake::empty, "size 0", [=] { gather(f({0, 3}), 0, one(0)); });
  expect_error<IndexError>("embedding", Mistake::empty, "size 0", [] { embedding(f({0, 3}), ints({1}, 0)); });
  expect_error<ShapeError>("gather", Mistake::rank, "index [1] does not fit into [2, 3]", [] {
    gather(f({2, 3}), 0, ints({1}));
  });
  expect_error<ShapeError>("gather", Mistake::shape, "index [1, 4]", [] { gather(f({2, 3}), 0, ints({1, 4})); });
  expect_error<ShapeError>("scatter_add", Mistake::rank, "index [1]", [] {
    scatter_add(f({2, 3}), 0, ints({1}), f({1}));
  });
  expect_error<ShapeError>("index_select", Mistake::rank, "an index of rank 1, got [1, 3]", [=] {
    index_select(f({2, 3}), 0, one(0));
  });
  expect_error<ShapeError>("embedding", Mistake::rank, "a weight of rank 2, got [3]",
                           [] { embedding(f({3}), ints({2})); });
  expect_error<ShapeError>("embedding", Mistake::rank, "rank 7 at most", [] {
    embedding(f({2, 3}), ints({1, 1, 1, 1, 1, 1, 1, 1}));
  });
  expect_error<DTypeError>("gather", Mistake::dtype, "int64 or int32, got float32", [] {
    gather(f({2, 3}), 0, f({1, 3}));
  });
  expect_error<DTypeError>("scatter_add", Mistake::dtype, "int64 or int32, got float32", [] {
    scatter_add(f({2, 3}), 0, f({1, 3}), f({1, 3}));
  });
  expect_error<DTypeError>("scatter_add", Mistake::dtype, "numbers of one dtype, got float32 and float64", [=] {
    scatter_add(f({2, 3}), 0, one(0), f({1, 3}, DType::f64));
  });
  expect_error<DTypeError>("index_select", Mistake::dtype, "int64 or int32, got bool", [] {
    index_select(f({2, 3}), 0, full({2}, true, DType::boolean));
  });
  expect_error<DTypeError>("embedding", Mistake::dtype, "int64 or int32, got float32", [] {
    embedding(f({2, 3}), f({2}));
  });
});

const AddErrors losses([] {
  each_input("cross_entropy", {f({2, 3}), ints({2}), f({3})}, 2,
             [](const Inputs& in) { cross_entropy(in[0], in[1], {.weight = in[2]}); });
  each_input("cross_entropy", {f({2, 3}), f({2, 3}), f({3})}, 2,
             [](const Inputs& in) { cross_entropy(in[0], in[1], {.weight = in[2]}); });
  each_input("nll_loss", {f({2, 3}), ints({2}), f({3})}, 2,
             [](const Inputs& in) { nll_loss(in[0], in[1], {.weight = in[2]}); });
  const std::pair<const char*, std::function<void(const Tensor&, const Tensor&, const Tensor&)>> classes[] = {
      {"cross_entropy", [](const Tensor& x, const Tensor& t, const Tensor& w) { cross_entropy(x, t, {.weight = w}); }},
      {"nll_loss", [](const Tensor& x, const Tensor& t, const Tensor& w) { nll_loss(x, t, {.weight = w}); }}};
  for (const auto& [name, fn] : classes) {
    expect_error<ShapeError>(name, Mistake::shape, "targets of shape [2], got [3]", [fn = fn] {
      fn(f({2, 3}), ints({3}), {});
    });
    expect_error<ShapeError>(name, Mistake::rank, "targets of shape [2], got [2, 3]", [fn = fn] {
      fn(f({2, 3}), ints({2, 3}), {});
    });
    expect_error<ShapeError>(name, Mistake::rank, "rank 1 or more", [fn = fn] { fn(f({}), ints({}), {}); });
    expect_error<ShapeError>(name, Mistake::empty, "at least one class", [fn = fn] { fn(f({2, 0}), ints({2}), {}); });
    expect_error<ShapeError>(name, Mistake::shape, "a weight of shape [3], got [2]", [fn = fn] {
      fn(f({2, 3}), ints({2}), f({2}));
    });
    expect_error<DTypeError>(name, Mistake::dtype, "got int64", [fn = fn] { fn(ints({2, 3}), ints({2}), {}); });
    expect_error<DTypeError>(name, Mistake::dtype, "got bool", [fn = fn] {
      fn(f({2, 3}), full({2}, true, DType::boolean), {});
    });
    for (int64_t i : {3, -1})
      expect_error<IndexError>(name, Mistake::index, "target " + std::to_string(i) + " is out of range for 3 classes",
                               [fn = fn, i] {
                                 fn(f({2, 3}), ints({2}, i), {});
                               });
  }
  expect_error<ShapeError>("cross_entropy", Mistake::shape, "probabilities of the logits' shape [2, 3], got [2]", [] {
    cross_entropy(f({2, 3}), f({2}));
  });
  expect_error<ShapeError>("cross_entropy", Mistake::shape, "a weight of shape [3], got [2]", [] {
    cross_entropy(f({2, 3}), f({2, 3}), {.weight = f({2})});
  });
  expect_error<ShapeError>("cross_entropy", Mistake::empty, "at least one class", [] {
    cross_entropy(f({2, 0}), f({2, 0}));
  });
  for (double s : {-0.1, 1.1, static_cast<double>(NAN)})
    expect_error<ValueError>("cross_entropy", Mistake::option, "a label smoothing in [0, 1]", [s] {
      cross_entropy(f({2, 3}), ints({2}), {.label_smoothing = s});
    });

  const std::pair<const char*, std::function<void(const Tensor&, const Tensor&)>> pairs[] = {
      {"mse_loss", [](const Tensor& a, const Tensor& b) { mse_loss(a, b); }},
      {"l1_loss", [](const Tensor& a, const Tensor& b) { l1_loss(a, b); }},
      {"bce_with_logits", [](const Tensor& a, const Tensor& b) { bce_with_logits(a, b); }}};
  for (const auto& [name, fn] : pairs) {
    each_input(name, {f({2, 3}), f({2, 3})}, 2, [fn = fn](const Inputs& in) { fn(in[0], in[1]); });
    expect_error<ShapeError>(name, Mistake::shape, "equal shapes, got [2, 3] and [3, 2]", [fn = fn] {
      fn(f({2, 3}), f({3, 2}));
    });
    expect_error<ShapeError>(name, Mistake::rank, "equal shapes, got [2, 3] and [3]", [fn = fn] {
      fn(f({2, 3}), f({3}));
    });
    expect_error<ShapeError>(name, Mistake::empty, "[0, 3]", [fn = fn] { fn(f({0, 3}), f({3})); });
    expect_error<DTypeError>(name, Mistake::dtype, "a floating dtype, got int64", [fn = fn] {
      fn(ints({2, 3}), ints({2, 3}));
    });
  }
  for (bool weight : {true, false}) {
    const auto call = [weight](const Tensor& w) {
      bce_with_logits(f({2, 3}), f({2, 3}), {.weight = weight ? w : Tensor(), .pos_weight = weight ? Tensor() : w});
    };
    expect_error<ShapeError>("bce_with_logits", Mistake::shape,
                             std::string(weight ? "a weight" : "a pos_weight") + " that broadcasts to [2, 3], got [4]",
                             [=] { call(f({4})); });
    expect_error<ShapeError>("bce_with_logits", Mistake::rank, "got [5, 2, 3]", [=] { call(f({5, 2, 3})); });
    expect_error<DeviceError>("bce_with_logits", Mistake::device, "cpu and trace", [=] { call(elsewhere({3})); });
  }
});

}  // namespace
}  // namespace flame::test
