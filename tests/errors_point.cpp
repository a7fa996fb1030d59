// Mistakes of composed elementwise functions, activations, losses and distances. The rows of the table have their own.
#include <cmath>

#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

Tensor f(const Shape& s, DType t = DType::f32) { return full(s, 0.5, t); }
Tensor ints(const Shape& s, int64_t value = 1) { return full(s, value, DType::i64); }

// What an op says of each of its inputs: undefined, or on another device than the rest.
using Inputs = std::vector<Tensor>;
void each_input(const std::string& op, const Inputs& good, const std::function<void(const Inputs&)>& call) {
  for (size_t i = 0; i < good.size(); ++i) {
    const auto with = [=](const Tensor& x) {
      Inputs in = good;
      in[i] = x;
      return in;
    };
    expect_error<ValueError>(op, Mistake::option, op + ": expected a defined tensor", [=] { call(with(Tensor())); });
    if (good.size() > 1)
      expect_error<DeviceError>(
          op, Mistake::device, "all tensors on one device, got",
          [=, shape = good[i].shape(), t = good[i].dtype()] { call(with(full(shape, 1, t, trace_device()))); });
  }
}

const AddErrors elementwise([] {
  const std::pair<const char*, std::function<void(const Tensor&, const Tensor&, const Tensor&)>> threes[] = {
      {"addcmul", [](const Tensor& x, const Tensor& a, const Tensor& b) { addcmul(x, a, b); }},
      {"addcdiv", [](const Tensor& x, const Tensor& a, const Tensor& b) { addcdiv(x, a, b); }}};
  for (const auto& [name, fn] : threes) {
    each_input(name, {f({2, 3}), f({2, 3}), f({3})}, [fn = fn](const Inputs& in) { fn(in[0], in[1], in[2]); });
    expect_error<ShapeError>(name, Mistake::shape, "shapes [2, 3] and [4] do not broadcast", [fn = fn] {
      fn(f({2, 3}), f({4}), f({3}));
    });
    expect_error<ShapeError>(name, Mistake::rank, "shapes [2, 3] and [5, 2, 2] do not broadcast", [fn = fn] {
      fn(f({2, 3}), f({3}), f({5, 2, 2}));
    });
    expect_error<ShapeError>(name, Mistake::empty, "shapes [2, 3] and [0] do not broadcast", [fn = fn] {
      fn(f({2, 3}), f({3}), f({0}));
    });
  }
  each_input("nan_to_num", {f({2})}, [](const Inputs& in) { nan_to_num(in[0]); });
  for (double eps : {-0.1, 0.6, static_cast<double>(NAN)})
    expect_error<ValueError>("logit", Mistake::option, "an eps in [0, 1/2]", [eps] { logit(f({2}), eps); });
  each_input("isclose", {f({2, 3}), f({3})}, [](const Inputs& in) { isclose(in[0], in[1]); });
  expect_error<ShapeError>("isclose", Mistake::shape, "shapes [2, 3] and [2] do not broadcast", [] {
    isclose(f({2, 3}), f({2}));
  });
  expect_error<ValueError>("isclose", Mistake::option, "rtol and atol of 0 or more, got -1",
                           [] { isclose(f({2}), f({2}), {.rtol = -1}); });
});

const AddErrors activations([] {
  expect_error<ValueError>("softplus", Mistake::option, "a beta other than 0", [] { softplus(f({2}), {.beta = 0}); });
  each_input("prelu", {f({2, 3}), f({3})}, [](const Inputs& in) { prelu(in[0], in[1]); });
  expect_error<ShapeError>("prelu", Mistake::shape, "a weight of 1 or 3 elements for an input [2, 3], got [2]", [] {
    prelu(f({2, 3}), f({2}));
  });
  expect_error<ShapeError>("prelu", Mistake::rank, "got [1, 3]", [] { prelu(f({2, 3}), f({1, 3})); });
  expect_error<ShapeError>("prelu", Mistake::rank, "a weight of 1 or 1 elements for an input [3], got [3]",
                           [] { prelu(f({3}), f({3})); });
  expect_error<ShapeError>("prelu", Mistake::empty, "got [0]", [] { prelu(f({2, 3}), f({0})); });
  expect_error<DTypeError>("prelu", Mistake::dtype, "a floating dtype, got int64", [] { prelu(ints({2, 3}), f({3})); });
  expect_error<DTypeError>("prelu", Mistake::dtype, "a floating dtype, got int64", [] { prelu(f({2, 3}), ints({3})); });
  const std::pair<const char*, std::function<void(const Tensor&, int64_t)>> gated[] = {
      {"glu", [](const Tensor& x, int64_t axis) { glu(x, axis); }},
      {"swiglu", [](const Tensor& x, int64_t axis) { swiglu(x, axis); }},
      {"geglu", [](const Tensor& x, int64_t axis) { geglu(x, axis); }}};
  for (const auto& [name, fn] : gated) {
    each_input(name, {f({2, 4})}, [fn = fn](const Inputs& in) { fn(in[0], -1); });
    expect_error<ShapeError>(name, Mistake::shape, "an even size along axis -1, got 3 of [2, 3]", [fn = fn] {
      fn(f({2, 3}), -1);
    });
    expect_error<ShapeError>(name, Mistake::rank, "rank 1 or more", [fn = fn] { fn(f({}), -1); });
    for (int64_t axis : {2, -3})
      expect_error<IndexError>(name, Mistake::axis, "axis " + std::to_string(axis) + " is out of range for rank 2",
                               [fn = fn, axis] {
                                 fn(f({2, 4}), axis);
                               });
  }
});

const AddErrors losses([] {
  const std::pair<const char*, std::function<void(const Tensor&, const Tensor&, Reduction)>> pairs[] = {
      {"mse_loss", [](const Tensor& a, const Tensor& b, Reduction r) { mse_loss(a, b, r); }},
      {"l1_loss", [](const Tensor& a, const Tensor& b, Reduction r) { l1_loss(a, b, r); }},
      {"smooth_l1_loss", [](const Tensor& a, const Tensor& b, Reduction r) { smooth_l1_loss(a, b, {.reduction = r}); }},
      {"huber_loss", [](const Tensor& a, const Tensor& b, Reduction r) { huber_loss(a, b, {.reduction = r}); }},
      {"bce_with_logits",
       [](const Tensor& a, const Tensor& b, Reduction r) { bce_with_logits(a, b, {.reduction = r}); }},
      {"bce", [](const Tensor& a, const Tensor& b, Reduction r) { bce(a, b, {.reduction = r}); }},
      {"kl_div", [](const Tensor& a, const Tensor& b, Reduction r) { kl_div(a, b, {.reduction = r}); }},
      {"poisson_nll_loss",
       [](const Tensor& a, const Tensor& b, Reduction r) { poisson_nll_loss(a, b, {.reduction = r}); }},
      {"gaussian_nll_loss",
       [](const Tensor& a, const Tensor& b, Reduction r) { gaussian_nll_loss(a, b, f({}), {.reduction = r}); }}};
  for (const auto& [name, fn] : pairs) {
    each_input(name, {f({2, 3}), f({2, 3})}, [fn = fn](const Inputs& in) { fn(in[0], in[1], Reduction::mean); });
    expect_error<ShapeError>(name, Mistake::shape, "equal shapes, got [2, 3] and [3, 2]", [fn = fn] {
      fn(f({2, 3}), f({3, 2}), Reduction::mean);
    });
    expect_error<ShapeError>(name, Mistake::rank, "equal shapes, got [2, 3] and [3]", [fn = fn] {
      fn(f({2, 3}), f({3}), Reduction::mean);
    });
    expect_error<ShapeError>(name, Mistake::empty, "equal shapes, got [0, 3] and [3]", [fn = fn] {
      fn(f({0, 3}), f({3}), Reduction::mean);
    });
    expect_error<DTypeError>(name, Mistake::dtype, "a floating dtype, got int64", [fn = fn] {
      fn(ints({2, 3}), f({2, 3}), Reduction::mean);
    });
    if (name != std::string("kl_div"))
      expect_error<ValueError>(name, Mistake::option, "batch_mean is kl_div's", [fn = fn] {
        fn(f({2, 3}), f({2, 3}), Reduction::batch_mean);
      });
  }
  for (const char* name : {"bce", "bce_with_logits"}) {
    const auto call = [logits = name == std::string("bce_with_logits")](const Tensor& w) {
      if (logits) bce_with_logits(f({2, 3}), f({2, 3}), {.weight = w});
      else bce(f({2, 3}), f({2, 3}), {.weight = w});
    };
    expect_error<ShapeError>(name, Mistake::shape, "a weight that broadcasts to [2, 3], got [4]",
                             [=] { call(f({4})); });
    expect_error<ShapeError>(name, Mistake::rank, "got [5, 2, 3]", [=] { call(f({5, 2, 3})); });
    expect_error<DeviceError>(name, Mistake::device, "cpu and trace",
                              [=] { call(full({3}, 1, DType::f32, trace_device())); });
  }
  expect_error<ValueError>("bce", Mistake::option, "no pos_weight",
                           [] { bce(f({2}), f({2}), {.pos_weight = f({2})}); });
  expect_error<ShapeError>("bce_with_logits", Mistake::shape, "a pos_weight that broadcasts to [2], got [3]",
                           [] { bce_with_logits(f({2}), f({2}), {.pos_weight = f({3})}); });
  expect_error<ValueError>("smooth_l1_loss", Mistake::option, "a beta of 0 or more, got -1",
                           [] { smooth_l1_loss(f({2}), f({2}), {.beta = -1}); });
  expect_error<ValueError>("huber_loss", Mistake::option, "a delta above 0, got 0",
                           [] { huber_loss(f({2}), f({2}), {.delta = 0}); });
  expect_error<ShapeError>("gaussian_nll_loss", Mistake::shape, "a variance that broadcasts to [2], got [3]",
                           [] { gaussian_nll_loss(f({2}), f({2}), f({3})); });
  expect_error<ValueError>("gaussian_nll_loss", Mistake::option, "an eps above 0, got 0",
                           [] { gaussian_nll_loss(f({2}), f({2}), f({2}), {.eps = 0}); });
  const char* head = "linear_cross_entropy";
  each_input(head, {f({2, 3}), f({4, 3}), ints({2})},
             [](const Inputs& in) { linear_cross_entropy(in[0], in[1], in[2]); });
  expect_error<ShapeError>(head, Mistake::rank, "a weight [classes, in]", [] {
    linear_cross_entropy(f({2, 3}), f({3}), ints({2}));
  });
  expect_error<ShapeError>(head, Mistake::empty, "at least one class", [] {
    linear_cross_entropy(f({2, 3}), f({0, 3}), ints({2}));
  });
  expect_error<ShapeError>(head, Mistake::shape, "x [..., 5] for weight [4, 5], got [2, 3]", [] {
    linear_cross_entropy(f({2, 3}), f({4, 5}), ints({2}));
  });
  expect_error<ShapeError>(head, Mistake::shape, "targets of shape [2], got [3]", [] {
    linear_cross_entropy(f({2, 3}), f({4, 3}), ints({3}));
  });
  expect_error<DTypeError>(head, Mistake::dtype, "int64 or int32, got float32", [] {
    linear_cross_entropy(f({2, 3}), f({4, 3}), f({2}));
  });
  expect_error<DTypeError>(head, Mistake::dtype, "got int64", [] {
    linear_cross_entropy(ints({2, 3}), f({4, 3}), ints({2}));
  });
  expect_error<ValueError>(head, Mistake::option, "a reduction by mean or sum", [] {
    linear_cross_entropy(f({2, 3}), f({4, 3}), ints({2}), {.reduction = Reduction::none});
  });
  expect_error<ValueError>(head, Mistake::option, "a label smoothing in [0, 1]", [] {
    linear_cross_entropy(f({2, 3}), f({4, 3}), ints({2}), {.label_smoothing = 2});
  });
  expect_error<ValueError>(head, Mistake::option, "0 or more rows", [] {
    linear_cross_entropy(f({2, 3}), f({4, 3}), ints({2}), {.rows = -1});
  });
  expect_error<IndexError>(head, Mistake::index, "target 4 is out of range for 4 classes", [] {
    linear_cross_entropy(f({2, 3}), f({4, 3}), ints({2}, 4));
  });
  expect_error<ValueError>("cross_entropy", Mistake::option, "batch_mean is kl_div's", [] {
    cross_entropy(f({2, 3}), ints({2}), {.reduction = Reduction::batch_mean});
  });
  expect_error<ValueError>("nll_loss", Mistake::option, "batch_mean is kl_div's", [] {
    nll_loss(f({2, 3}), ints({2}), {.reduction = Reduction::batch_mean});
  });
});

const AddErrors distances([] {
  const std::pair<const char*, std::function<void(const Tensor&, const Tensor&)>> pairs[] = {
      {"cosine_similarity", [](const Tensor& a, const Tensor& b) { cosine_similarity(a, b, -1); }},
      {"pairwise_distance", [](const Tensor& a, const Tensor& b) { pairwise_distance(a, b); }},
      {"triplet_margin_loss", [](const Tensor& a, const Tensor& b) { triplet_margin_loss(a, b, a); }}};
  for (const auto& [name, fn] : pairs) {
    each_input(name, {f({2, 3}), f({2, 3})}, [fn = fn](const Inputs& in) { fn(in[0], in[1]); });
    expect_error<ShapeError>(name, Mistake::shape, "shapes [2, 3] and [2, 4] do not broadcast", [fn = fn] {
      fn(f({2, 3}), f({2, 4}));
    });
    expect_error<ShapeError>(name, Mistake::empty, "do not broadcast", [fn = fn] { fn(f({2, 3}), f({2, 0})); });
    expect_error<DTypeError>(name, Mistake::dtype, "a floating dtype, got int64", [fn = fn] {
      fn(f({2, 3}), ints({2, 3}));
    });
  }
  for (int64_t axis : {2, -3})
    expect_error<IndexError>("cosine_similarity", Mistake::axis,
                             "axis " + std::to_string(axis) + " is out of range for rank 2", [axis] {
                               cosine_similarity(f({2, 3}), f({3}), axis);
                             });
  expect_error<ShapeError>("pairwise_distance", Mistake::rank, "rank 1 or more",
                           [] { pairwise_distance(f({}), f({})); });
  for (double p : {0.0, -1.0, static_cast<double>(NAN)})
    expect_error<ValueError>("pairwise_distance", Mistake::option, "a p above 0",
                             [p] { pairwise_distance(f({2}), f({2}), {.p = p}); });
  expect_error<ShapeError>("pairwise_distance", Mistake::empty, "not empty, got [2, 0]", [] {
    pairwise_distance(f({2, 0}), f({2, 0}), {.p = INFINITY});
  });
  expect_error<ShapeError>("triplet_margin_loss", Mistake::rank, "equal ranks, got [2, 3], [3] and [3]", [] {
    triplet_margin_loss(f({2, 3}), f({3}), f({3}));
  });
  expect_error<ValueError>("triplet_margin_loss", Mistake::option, "a margin above 0, got 0",
                           [] { triplet_margin_loss(f({2}), f({2}), f({2}), {.margin = 0}); });

  const auto cosine = [](const Tensor& a, const Tensor& b, const Tensor& t) { cosine_embedding_loss(a, b, t); };
  const char* name = "cosine_embedding_loss";
  each_input(name, {f({2, 3}), f({2, 3}), ints({2})}, [=](const Inputs& in) { cosine(in[0], in[1], in[2]); });
  expect_error<ShapeError>(name, Mistake::shape, "got [2, 3] and [2, 4]", [=] {
    cosine(f({2, 3}), f({2, 4}), ints({2}));
  });
  expect_error<ShapeError>(name, Mistake::shape, "targets of shape [2], got [3]", [=] {
    cosine(f({2, 3}), f({2, 3}), ints({3}));
  });
  expect_error<ShapeError>(name, Mistake::rank, "[N, D] or [D], got [1, 2, 3]", [=] {
    cosine(f({1, 2, 3}), f({1, 2, 3}), ints({1, 2}));
  });
  expect_error<ShapeError>(name, Mistake::rank, "targets of shape [], got [1]",
                           [=] { cosine(f({3}), f({3}), ints({1})); });
  expect_error<DTypeError>(name, Mistake::dtype, "a floating dtype, got int64", [=] {
    cosine(f({2, 3}), ints({2, 3}), ints({2}));
  });
});

}  // namespace
}  // namespace flame::test
