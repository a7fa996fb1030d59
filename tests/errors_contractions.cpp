// Mistakes of einsum, the named products and diagonals.
#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

Tensor f(const Shape& s) { return full(s, 0.5); }

using Pair = Tensor (*)(const Tensor&, const Tensor&, Loc);
Tensor tensordot_one(const Tensor& a, const Tensor& b, Loc loc) { return tensordot(a, b, 1, loc); }
Tensor cross_last(const Tensor& a, const Tensor& b, Loc loc) { return cross(a, b, -1, loc); }
Tensor einsum_pair(const Tensor& a, const Tensor& b, Loc loc) { return einsum("...i,i...->...", {a, b}, loc); }
struct Row {
  const char* name;
  Pair call;
  Shape a, b;  // that fit
};
const Row rows[] = {
    {"dot", dot, {3}, {3}},
    {"vdot", vdot, {3}, {3}},
    {"inner", inner, {2, 3}, {3}},
    {"outer", outer, {2}, {3}},
    {"mv", mv, {2, 3}, {3}},
    {"mm", mm, {2, 3}, {3, 2}},
    {"kron", kron, {2}, {3}},
    {"bmm", bmm, {2, 3, 4}, {2, 4, 3}},
    {"cross", cross_last, {3}, {3}},
    {"tensordot", tensordot_one, {2, 3}, {3, 2}},
    {"einsum", einsum_pair, {2, 3}, {3, 2}},
};
using Added = Tensor (*)(const Tensor&, const Tensor&, const Tensor&, const AddProductOptions&, Loc);
struct AddedRow {
  const char* name;
  Added call;
  Shape input, a, b;
};
const AddedRow added[] = {
    {"addmm", addmm, {2, 4}, {2, 3}, {3, 4}},
    {"addmv", addmv, {2}, {2, 3}, {3}},
    {"addr", addr, {2, 3}, {2}, {3}},
    {"baddbmm", baddbmm, {5, 2, 4}, {5, 2, 3}, {5, 3, 4}},
    {"addbmm", addbmm, {2, 4}, {5, 2, 3}, {5, 3, 4}},
};

const AddErrors products([] {
  for (const Row& row : rows) {
    const std::string name = row.name;
    expect_error<ValueError>(name, Mistake::option, name + ": input 1 is undefined",
                             [&row] { row.call(f(row.a), {}, Loc::current()); });
    expect_error<DTypeError>(name, Mistake::dtype, name + ": expected numbers, got bool tensors alone", [&row] {
      row.call(full(row.a, 1, DType::boolean), full(row.b, 1, DType::boolean), Loc::current());
    });
    expect_error<DeviceError>(name, Mistake::device, name + ": inputs are on cpu and trace", [&row] {
      row.call(f(row.a), full(row.b, 1, DType::f32, trace_device()), Loc::current());
    });
  }
  for (const AddedRow& row : added) {
    const std::string name = row.name;
    expect_error<ValueError>(name, Mistake::option, name + ": the input to add to is undefined",
                             [&row] { row.call({}, f(row.a), f(row.b), {}, Loc::current()); });
    expect_error<ShapeError>(name, Mistake::rank, name + ": expected ranks",
                             [&row] { row.call(f(row.input), f({}), f(row.b), {}, Loc::current()); });
    expect_error<ShapeError>(name, Mistake::shape, name + ": an input of [7, 7] does not broadcast to", [&row] {
      row.call(f({7, 7}), f(row.a), f(row.b), {}, Loc::current());
    });
    expect_error<DTypeError>(name, Mistake::dtype, name + ": expected numbers", [&row] {
      row.call(f(row.input), full(row.a, 1, DType::boolean), full(row.b, 1, DType::boolean), {}, Loc::current());
    });
    expect_error<DeviceError>(name, Mistake::device, name + ": inputs are on trace and cpu", [&row] {
      row.call(f(row.input), full(row.a, 1, DType::f32, trace_device()), f(row.b), {}, Loc::current());
    });
    expect_error<DeviceError>(name, Mistake::device, name + ": the input is on trace", [&row] {
      row.call(full(row.input, 1, DType::f32, trace_device()), f(row.a), f(row.b), {}, Loc::current());
    });
  }
  for (const char* name : {"dot", "vdot"}) {
    const Pair fn = std::string_view(name) == "dot" ? dot : vdot;
    expect_error<ShapeError>(name, Mistake::rank, "expected ranks 1 and 1, got shapes [2, 3] and [3]", [fn] {
      fn(f({2, 3}), f({3}), Loc::current());
    });
    expect_error<ShapeError>(name, Mistake::shape, "vector sizes 3 and 4 differ",
                             [fn] { fn(f({3}), f({4}), Loc::current()); });
  }
  expect_error<ShapeError>("inner", Mistake::shape, "inner: last sizes 3 and 4 differ", [] {
    inner(f({2, 3}), f({2, 4}));
  });
  expect_error<ShapeError>("outer", Mistake::rank, "outer: expected ranks 1 and 1", [] { outer(f({2, 3}), f({3})); });
  expect_error<ShapeError>("mv", Mistake::rank, "mv: expected ranks 2 and 1", [] { mv(f({3}), f({3})); });
  expect_error<ShapeError>("mv", Mistake::shape, "mv: inner sizes 3 and 4 differ", [] { mv(f({2, 3}), f({4})); });
  expect_error<ShapeError>("mm", Mistake::rank, "mm: expected ranks 2 and 2", [] { mm(f({2, 2, 3}), f({3, 2})); });
  expect_error<ShapeError>("mm", Mistake::shape, "mm: inner sizes 3 and 2 differ", [] { mm(f({2, 3}), f({2, 3})); });
  expect_error<ShapeError>("bmm", Mistake::rank, "bmm: expected ranks 3 and 3", [] { bmm(f({2, 3}), f({3, 2})); });
  expect_error<ShapeError>("bmm", Mistake::shape, "bmm: batch sizes 1 and 2 differ", [] {
    bmm(f({1, 3, 4}), f({2, 4, 3}));
  });
  expect_error<ShapeError>("bmm", Mistake::shape, "bmm: inner sizes 4 and 3 differ", [] {
    bmm(f({2, 3, 4}), f({2, 3, 4}));
  });
  expect_error<ShapeError>("addmm", Mistake::shape, "addmm: inner sizes 3 and 2 differ", [] {
    addmm(f({2}), f({2, 3}), f({2, 3}));
  });
  expect_error<ShapeError>("addbmm", Mistake::shape, "addbmm: batch sizes 2 and 3 differ", [] {
    addbmm(f({2}), f({2, 3, 4}), f({3, 4, 2}));
  });
  expect_error<ShapeError>("kron", Mistake::rank, "kron: expected at most 4 axes", [] {
    kron(f({1, 1, 1, 1, 1}), f({2}));
  });
  expect_error<ShapeError>("cross", Mistake::rank, "cross: expected tensors of one rank", [] {
    cross(f({2, 3}), f({3}));
  });
  expect_error<IndexError>("cross", Mistake::axis, "cross: axis 2 is out of range", [] {
    cross(f({2, 3}), f({2, 3}), 2);
  });
  expect_error<ShapeError>("cross", Mistake::shape, "cross: expected three components along axis 0", [] {
    cross(f({2, 3}), f({2, 3}), 0);
  });
  expect_error<ShapeError>("cross", Mistake::shape, "cross: shapes [2, 3] and [4, 3] do not broadcast", [] {
    cross(f({2, 3}), f({4, 3}));
  });
});

const AddErrors contractions([] {
  expect_error<ValueError>("tensordot", Mistake::option, "tensordot: expected 0 to 1 axes", [] {
    tensordot(f({2, 3}), f({3}), 2);
  });
  expect_error<ShapeError>("tensordot", Mistake::shape, "tensordot: axis 1 of [2, 3] and axis 0 of [4, 2] differ", [] {
    tensordot(f({2, 3}), f({4, 2}), 1);
  });
  expect_error<IndexError>("tensordot", Mistake::axis, "tensordot: axis 2 is out of range for rank 2", [] {
    tensordot(f({2, 3}), f({3, 2}), {2}, {0});
  });
  expect_error<ValueError>("tensordot", Mistake::axis, "tensordot: an axis is named twice in [1, 1]", [] {
    tensordot(f({2, 3}), f({3, 3}), {1, 1}, {0, 1});
  });
  expect_error<ShapeError>("tensordot", Mistake::axis, "tensordot: expected as many axes of each, got [1] and [0, 1]",
                           [] {
                             tensordot(f({2, 3}), f({3, 2}), {1}, {0, 1});
                           });

  const auto wrong = [](const char* equation, const char* message) {
    expect_error<ValueError>("einsum", Mistake::option, message, [equation] {
      einsum(equation, {f({2, 2}), f({2, 2})});
    });
  };
  wrong("ij,jk,kl->il", "names 3 operands, got 2");
  wrong("ij->ij", "names 1 operands, got 2");
  wrong("ij,j1->i", "got '1' in \"ij,j1->i\"");
  wrong("ij,jk->i.", "expected one \"...\" a term and no other dots");
  wrong("...i...,jk->i", "expected one \"...\" a term");
  wrong("ij,jk->ii", "the output of \"ij,jk->ii\" names i twice");
  wrong("ij,jk->im", "names m, which no operand has");
  wrong("ij,jk->i->k", "got '-'");
  expect_error<ValueError>("einsum", Mistake::empty, "einsum: expected at least one operand",
                           [] { einsum("i->i", {}); });
  expect_error<ShapeError>("einsum", Mistake::rank, "operand 1 of \"ij,jk\" expected 2 axes, got shape [2]", [] {
    einsum("ij,jk", {f({2, 2}), f({2})});
  });
  expect_error<ShapeError>("einsum", Mistake::rank, "expected 2 axes or more, got shape [2]",
                           [] { einsum("ij...->i", {f({2})}); });
  expect_error<ShapeError>("einsum", Mistake::shape, "axis j of \"ij,jk\" has sizes 3 and 4", [] {
    einsum("ij,jk", {f({2, 3}), f({4, 2})});
  });
  expect_error<ShapeError>("einsum", Mistake::shape, "axis i of \"ii\" has sizes 1 and 3 in one operand", [] {
    einsum("ii", {f({1, 3})});
  });
  expect_error<ShapeError>("einsum", Mistake::rank, "an intermediate result has 9 axes", [] {
    einsum("abc,def,ghi->abcdefghi", {f({1, 2, 1}), f({1, 1, 1}), f({1, 1, 2})});
  });
});

const AddErrors diagonals([] {
  expect_error<ValueError>("diagonal", Mistake::option, "diagonal: expected a defined tensor", [] { diagonal({}); });
  expect_error<ShapeError>("diagonal", Mistake::rank, "diagonal: expected rank 2 or more, got shape [3]",
                           [] { diagonal(f({3})); });
  expect_error<IndexError>("diagonal", Mistake::axis, "diagonal: axis 2 is out of range", [] {
    diagonal(f({3, 3}), {.axis2 = 2});
  });
  expect_error<ValueError>("diagonal", Mistake::axis, "diagonal: expected two different axes, got 0 and -2", [] {
    diagonal(f({3, 3}), {.axis2 = -2});
  });
  expect_error<ValueError>("diag_embed", Mistake::option, "diag_embed: expected a defined tensor",
                           [] { diag_embed({}); });
  expect_error<ShapeError>("diag_embed", Mistake::rank, "diag_embed: expected rank 1 or more",
                           [] { diag_embed(f({})); });
  expect_error<ShapeError>("diag_embed", Mistake::rank, "diag_embed: expected a rank below 8", [] {
    diag_embed(f({1, 1, 1, 1, 1, 1, 1, 1}));
  });
  expect_error<IndexError>("diag_embed", Mistake::axis, "diag_embed: axis 3 is out of range", [] {
    diag_embed(f({2, 3}), {.axis1 = 3});
  });
  expect_error<ValueError>("diag_embed", Mistake::axis, "diag_embed: expected two different axes", [] {
    diag_embed(f({2, 3}), {.axis1 = 2});
  });
  expect_error<ValueError>("diag", Mistake::option, "diag: expected a defined tensor", [] { diag({}); });
  expect_error<ShapeError>("diag", Mistake::rank, "diag: expected rank 1 or 2, got shape [1, 2, 3]", [] {
    diag(f({1, 2, 3}));
  });
  expect_error<ValueError>("trace", Mistake::option, "trace: expected a defined tensor", [] { trace({}); });
  expect_error<ShapeError>("trace", Mistake::rank, "trace: expected a matrix, got shape [3]", [] { trace(f({3})); });
});

}  // namespace
}  // namespace flame::test
