// Mistakes with attention, rope and the norms beside layer and batch norm.
#include "tests/support/error_table.h"

namespace flame::test {
namespace {

Tensor f(const Shape& s) { return full(s, 0.5); }
Tensor i(const Shape& s) { return full(s, 1, DType::i64); }

const AddErrors attention([] {
  const char* op = "scaled_dot_product_attention";
  const auto call = [](const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o = {}) {
    return [=] { scaled_dot_product_attention(q, k, v, o); };
  };
  const Tensor x = f({2, 3, 4});
  expect_error<ShapeError>(op, Mistake::rank, "rank 2 or more, got shapes [4]", call(f({4}), x, x));
  expect_error<ShapeError>(op, Mistake::shape, "q and k of one width", call(x, f({2, 3, 5}), x));
  expect_error<ShapeError>(op, Mistake::shape, "as many values as keys", call(x, x, f({2, 5, 4})));
  expect_error<ShapeError>(op, Mistake::shape, "query heads are as many as, got 3",
                           call(f({6, 3, 4}), f({3, 3, 4}), f({3, 3, 4})));
  expect_error<ShapeError>(op, Mistake::shape, "query heads are a multiple of, got 4",
                           call(f({6, 3, 4}), f({4, 3, 4}), f({4, 3, 4}), {.grouped_query = true}));
  expect_error<ShapeError>(op, Mistake::shape, "the batch axes of shapes",
                           call(f({2, 2, 3, 4}), f({3, 2, 3, 4}), f({3, 2, 3, 4})));
  expect_error<ShapeError>(op, Mistake::shape, "expected a mask that broadcasts to [2, 3, 3], got [2]",
                           call(x, x, x, {.mask = f({2})}));
  expect_error<ShapeError>(op, Mistake::rank, "expected a mask that broadcasts to [2, 3, 3], got [1, 1, 3, 3]",
                           call(x, x, x, {.mask = f({1, 1, 3, 3})}));
  expect_error<DTypeError>(op, Mistake::dtype, "expected floating dtypes, got int64", call(i({2, 3, 4}), x, x));
  expect_error<DTypeError>(op, Mistake::dtype, "a mask of bool or a floating dtype, got int64",
                           call(x, x, x, {.mask = i({3, 3})}));
  expect_error<ValueError>(op, Mistake::option, "a dropout probability in [0, 1], got 1.5",
                           call(x, x, x, {.dropout = 1.5}));
});

const AddErrors others([] {
  expect_error<ShapeError>("rope", Mistake::rank, "expected x [..., T, D], got [4]", [] { rope(f({4})); });
  expect_error<DTypeError>("rope", Mistake::dtype, "a floating dtype, got int64", [] { rope(i({3, 4})); });
  expect_error<DTypeError>("rope", Mistake::dtype, "positions of numbers", [] {
    rope(f({3, 4}), {.positions = i({3}) == 1});
  });
  expect_error<ShapeError>("rope", Mistake::shape, "positions that broadcast to [3], got [2]", [] {
    rope(f({3, 4}), {.positions = i({2})});
  });
  expect_error<ValueError>("rope", Mistake::option, "an even number of features to turn, at most 5, got 5", [] {
    rope(f({3, 5}));
  });
  expect_error<ValueError>("rope", Mistake::option, "at most 4, got 6", [] { rope(f({3, 4}), {.dims = 6}); });
  expect_error<ValueError>("rope", Mistake::option, "a base above 0, got 0", [] { rope(f({3, 4}), {.base = 0}); });

  expect_error<ShapeError>("rms_norm", Mistake::shape, "last sizes are [3], got [2, 4]", [] {
    rms_norm(f({2, 4}), {3});
  });
  expect_error<ShapeError>("rms_norm", Mistake::rank, "last sizes are [2, 4], got [4]", [] {
    rms_norm(f({4}), {2, 4});
  });
  expect_error<ShapeError>("rms_norm", Mistake::shape, "a weight of shape [4], got [1]", [] {
    rms_norm(f({2, 4}), {4}, f({1}));
  });
  expect_error<DTypeError>("rms_norm", Mistake::dtype, "a floating dtype, got int64", [] { rms_norm(i({2, 4}), {4}); });

  expect_error<ShapeError>("layer_norm", Mistake::shape, "last sizes are [3], got [2, 4]", [] {
    layer_norm(f({2, 4}), {3});
  });
  expect_error<ShapeError>("layer_norm", Mistake::rank, "last sizes are [2, 4], got [4]", [] {
    layer_norm(f({4}), {2, 4});
  });
  expect_error<ShapeError>("layer_norm", Mistake::shape, "a bias of shape [4], got [1]", [] {
    layer_norm(f({2, 4}), {4}, {}, f({1}));
  });
  expect_error<DTypeError>("layer_norm", Mistake::dtype, "a floating dtype, got int64", [] {
    layer_norm(i({2, 4}), {4});
  });

  expect_error<ShapeError>("group_norm", Mistake::rank, "an input [N, C, ...], got [4]", [] { group_norm(f({4}), 2); });
  expect_error<ShapeError>("group_norm", Mistake::shape, "a weight of shape [4], got [2]", [] {
    group_norm(f({2, 4}), 2, f({2}));
  });
  expect_error<DTypeError>("group_norm", Mistake::dtype, "a floating dtype, got int64", [] {
    group_norm(i({2, 4}), 2);
  });
  expect_error<ValueError>("group_norm", Mistake::option, "groups that divide 4 channels, got 3", [] {
    group_norm(f({2, 4}), 3);
  });
  expect_error<ValueError>("group_norm", Mistake::shape, "more than 1 value a group", [] { group_norm(f({1, 4}), 4); });

  expect_error<ShapeError>("instance_norm", Mistake::rank, "with positions, got [2, 3]", [] {
    instance_norm(f({2, 3}));
  });
  expect_error<ShapeError>("instance_norm", Mistake::shape, "a bias of shape [3], got [2]", [] {
    instance_norm(f({2, 3, 4}), {}, {}, {}, f({2}));
  });
  expect_error<DTypeError>("instance_norm", Mistake::dtype, "a floating dtype, got int64", [] {
    instance_norm(i({2, 3, 4}));
  });
  expect_error<ValueError>("instance_norm", Mistake::shape, "more than 1 position", [] {
    instance_norm(f({2, 3, 1}));
  });
  expect_error<ValueError>("instance_norm", Mistake::option, "it needs running ones", [] {
    instance_norm(f({2, 3, 4}), {}, {}, {}, {}, {.use_input_stats = false});
  });

  expect_error<DTypeError>("normalize", Mistake::dtype, "a floating dtype, got int64", [] { normalize(i({2, 4})); });
  expect_error<IndexError>("normalize", Mistake::axis, "2", [] { normalize(f({2, 4}), {.axis = 2}); });
  expect_error<DTypeError>("local_response_norm", Mistake::dtype, "a floating dtype, got int64", [] {
    local_response_norm(i({2, 4, 3}), {.size = 3});
  });
  expect_error<ShapeError>("local_response_norm", Mistake::rank, "rank 3 or more, got [2, 4]", [] {
    local_response_norm(f({2, 4}), {.size = 3});
  });
  expect_error<ValueError>("local_response_norm", Mistake::option, "a size of 1 or more, got 0", [] {
    local_response_norm(f({2, 4, 3}), {.size = 0});
  });
  expect_error<ValueError>("batch_norm", Mistake::option, "a momentum, or a state that counts batches", [] {
    batch_norm(f({2, 4}), {}, {}, {}, {}, {.momentum = std::nullopt});
  });
});

}  // namespace
}  // namespace flame::test
