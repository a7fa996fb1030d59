// Mistakes of x.index and x.set, of masks, and of reading and writing by index along an axis.
#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

using Inputs = std::vector<Tensor>;

Tensor f(const Shape& s, DType t = DType::f32) { return full(s, 0.5, t); }
Tensor ints(const Shape& s, int64_t value = 1) { return full(s, value, DType::i64); }
Tensor mask(const Shape& s) { return full(s, true, DType::boolean); }

// Each input undefined in turn, and each on another device.
void each_input(const std::string& op, const Inputs& in, const std::function<void(const Inputs&)>& call) {
  for (size_t i = 0; i < in.size(); ++i) {
    expect_error<ValueError>(op, Mistake::option, "expected a defined tensor", [=] {
      Inputs with = in;
      with[i] = Tensor();
      call(with);
    });
    if (in.size() == 1) continue;
    expect_error<DeviceError>(op, Mistake::device, "on one device", [=] {
      Inputs with = in;
      with[i] = Tensor::empty(in[i].shape(), in[i].dtype(), trace_device());
      call(with);
    });
  }
}

const AddErrors inputs([] {
  each_input("index", {f({2, 3}), ints({2})}, [](const Inputs& in) { in[0].index({in[1]}); });
  each_input("index", {f({2, 3}), mask({2})}, [](const Inputs& in) { in[0].index({in[1]}); });
  each_input("set", {f({2, 3}), ints({2}), f({})}, [](const Inputs& in) { in[0].set({in[1]}, in[2]); });
  each_input("set", {f({2, 3}), f({})}, [](const Inputs& in) { in[0].set({0}, in[1]); });
  each_input("nonzero", {f({2, 3})}, [](const Inputs& in) { nonzero(in[0]); });
  each_input("masked_select", {f({2, 3}), mask({3})}, [](const Inputs& in) { masked_select(in[0], in[1]); });
  each_input("masked_fill", {f({2, 3}), mask({3}), f({})}, [](const Inputs& in) { masked_fill(in[0], in[1], in[2]); });
  each_input("gather", {f({2, 3}), ints({1, 1})}, [](const Inputs& in) { gather(in[0], 0, in[1]); });
  each_input("take_along_dim", {f({2, 3}), ints({1, 1})}, [](const Inputs& in) { take_along_dim(in[0], in[1], 0); });
  each_input("index_select", {f({2, 3}), ints({1})}, [](const Inputs& in) { index_select(in[0], 0, in[1]); });
  each_input("embedding", {f({2, 3}), ints({1})}, [](const Inputs& in) { embedding(in[0], in[1]); });
  each_input("scatter", {f({2, 3}), ints({1, 1}), f({1, 1})},
             [](const Inputs& in) { scatter(in[0], 0, in[1], in[2]); });
  each_input("scatter_add", {f({2, 3}), ints({1, 1}), f({1, 1})},
             [](const Inputs& in) { scatter_add(in[0], 0, in[1], in[2]); });
  each_input("scatter_reduce", {f({2, 3}), ints({1, 1}), f({1, 1})},
             [](const Inputs& in) { scatter_reduce(in[0], 0, in[1], in[2], ScatterReduce::prod); });
  each_input("index_add", {f({2, 3}), ints({1}), f({1, 3})},
             [](const Inputs& in) { index_add(in[0], 0, in[1], in[2]); });
  each_input("index_copy", {f({2, 3}), ints({1}), f({1, 3})},
             [](const Inputs& in) { index_copy(in[0], 0, in[1], in[2]); });
  each_input("index_fill", {f({2, 3}), ints({1}), f({})}, [](const Inputs& in) { index_fill(in[0], 0, in[1], in[2]); });
});

// What x.index and x.set have in common.
const AddErrors entries([] {
  const std::pair<const char*, void (*)(const Tensor&, const std::vector<Index>&)> both[] = {
      {"index", [](const Tensor& x, const std::vector<Index>& at) { x.index(at); }},
      {"set", [](const Tensor& x, const std::vector<Index>& at) { x.set(at, 0.5); }},
  };
  for (const auto& [name, fn] : both) {
    const auto row = [&, fn = fn]<class E>(E*, Mistake m, const char* text, const Shape& s,
                                           const std::vector<Index>& at) {
      expect_error<E>(name, m, text, [=] { fn(f(s), at); });
    };
    constexpr IndexError* index_error = nullptr;
    constexpr ShapeError* shape_error = nullptr;
    row(index_error, Mistake::index, "index 3 is out of range for axis 1 of size 3", {2, 3}, {0, 3});
    row(index_error, Mistake::index, "index -4 is out of range for axis 1 of size 3", {2, 3}, {ellipsis, -4});
    row(index_error, Mistake::index, "index 2 is out of range for axis 0 of size 2", {2, 3}, {ints({2}, 2)});
    row(index_error, Mistake::index, "index -4 is out of range for axis 1 of size 3", {2, 3}, {0, ints({1}, -4)});
    row(index_error, Mistake::index, "index 9 is out of range for axis 0 of size 2", {2, 3}, {ints({}, 9)});
    row(index_error, Mistake::empty, "index 0 is out of range for axis 0 of size 0", {0, 3}, {0});
    row(index_error, Mistake::empty, "index 1 is out of range for axis 0 of size 0", {0, 3}, {ints({2})});
    row(index_error, Mistake::rank, "at most 2 axes for shape [2, 3], got 3", {2, 3}, {0, 0, 0});
    row(index_error, Mistake::rank, "at most 1 axes", {2}, {mask({2, 3})});
    row(index_error, Mistake::rank, "at most 0 axes", {}, {Slice{}});
    row(index_error, Mistake::axis, "an ellipsis comes twice", {2, 3}, {ellipsis, 0, ellipsis});
    row(shape_error, Mistake::rank, "limit of 8", {1, 1, 1, 1, 1, 1, 1, 1}, {new_axis});
    row(shape_error, Mistake::rank, "limit of 8", {2, 1, 1, 1, 1, 1, 1, 1}, {ints({1, 1})});
    row(shape_error, Mistake::shape, "a mask of [3] does not fit axis 0 of size 2", {2, 3}, {mask({3})});
    row(shape_error, Mistake::shape, "a mask of [3, 3] does not fit axis 1 of size 2", {3, 2, 3},
        {Slice{}, mask({3, 3})});
    row(shape_error, Mistake::shape, "index tensors of [2] and [3] do not broadcast", {2, 3}, {ints({2}), ints({3})});
    expect_error<DTypeError>(name, Mistake::dtype, "int64 or int32, got float32", [fn = fn] {
      fn(f({2, 3}), {f({2})});
    });
    expect_error<DTypeError>(name, Mistake::dtype, "int64 or int32, got uint8", [fn = fn] {
      fn(f({2, 3}), {full({2}, 1, DType::u8)});
    });
    expect_error<ValueError>(name, Mistake::option, "a step other than 0", [fn = fn] {
      fn(f({2, 3}), {Slice{.step = 0}});
    });
  }
  expect_error<ShapeError>("set", Mistake::shape, "a value of [2] does not broadcast to [3]", [] {
    f({2, 3}).set({0}, f({2}));
  });
  expect_error<ShapeError>("set", Mistake::shape, "a value of [2, 2] does not broadcast to [2, 3]", [] {
    f({2, 3}).set({ints({2})}, f({2, 2}));
  });
  expect_error<ShapeError>("set", Mistake::rank, "a value of [2, 3] does not broadcast to [3]", [] {
    f({2, 3}).set({0}, f({2, 3}));
  });
  expect_error<ShapeError>("set", Mistake::shape, "a value of [4] does not broadcast to [6]", [] {
    f({2, 3}).set({mask({2, 3})}, f({4}));
  });
  expect_error<DTypeError>("set", Mistake::dtype, "numbers to accumulate, got bool",
                           [] { mask({2}).set({0}, true, {.accumulate = true}); });
});

const AddErrors masks([] {
  expect_error<DTypeError>("masked_select", Mistake::dtype, "a bool mask, got float32",
                           [] { masked_select(f({2}), f({2})); });
  expect_error<DTypeError>("masked_fill", Mistake::dtype, "a bool mask, got int64",
                           [] { masked_fill(f({2}), ints({2}), 0); });
  expect_error<ShapeError>("masked_select", Mistake::shape, "[2, 3] and [2] do not broadcast", [] {
    masked_select(f({2, 3}), mask({2}));
  });
  expect_error<ShapeError>("masked_fill", Mistake::shape, "[2, 3] and [2] do not broadcast", [] {
    masked_fill(f({2, 3}), mask({2}), 0);
  });
  expect_error<ShapeError>("masked_fill", Mistake::rank, "a number or a tensor of rank 0, got [1]",
                           [] { masked_fill(f({2}), mask({2}), f({1})); });
});

const AddErrors along([] {
  using Fn = std::function<void(const Tensor& x, int64_t axis, const Tensor& index)>;
  const auto src = [](const Tensor& x, const Tensor& index) { return f(index.shape(), x.dtype()); };
  const auto slices = [](const Tensor& x, int64_t axis, const Tensor& index) {
    Shape s = x.shape();
    const int64_t a = axis < 0 ? axis + x.rank() : axis;
    if (a >= 0 && a < x.rank()) s[static_cast<int>(a)] = index.numel();
    return f(s, x.dtype());
  };
  const auto reduce = [src](ScatterReduce r, bool self) {
    return [=](const Tensor& x, int64_t a, const Tensor& i) {
      scatter_reduce(x, a, i, src(x, i), r, {.include_self = self});
    };
  };
  const std::pair<const char*, Fn> elementwise[] = {
      {"gather", [](const Tensor& x, int64_t a, const Tensor& i) { gather(x, a, i); }},
      {"take_along_dim", [](const Tensor& x, int64_t a, const Tensor& i) { take_along_dim(x, i, a); }},
      {"scatter", [=](const Tensor& x, int64_t a, const Tensor& i) { scatter(x, a, i, src(x, i)); }},
      {"scatter", [=](const Tensor& x, int64_t a, const Tensor& i) { scatter(x, a, i, 1); }},
      {"scatter_add", [=](const Tensor& x, int64_t a, const Tensor& i) { scatter_add(x, a, i, src(x, i)); }},
      {"scatter_reduce", reduce(ScatterReduce::sum, true)},
      {"scatter_reduce", reduce(ScatterReduce::mean, true)},
      {"scatter_reduce", reduce(ScatterReduce::prod, false)},
      {"scatter_reduce", reduce(ScatterReduce::amax, true)},
  };
  const std::pair<const char*, Fn> slicewise[] = {
      {"index_select", [](const Tensor& x, int64_t a, const Tensor& i) { index_select(x, a, i); }},
      {"index_add", [=](const Tensor& x, int64_t a, const Tensor& i) { index_add(x, a, i, slices(x, a, i)); }},
      {"index_copy", [=](const Tensor& x, int64_t a, const Tensor& i) { index_copy(x, a, i, slices(x, a, i)); }},
      {"index_fill", [](const Tensor& x, int64_t a, const Tensor& i) { index_fill(x, a, i, 1); }},
  };
  const auto common = [](const std::string& op, const Fn& fn, const Shape& index) {
    for (int64_t a : {2, -3})
      expect_error<IndexError>(op, Mistake::axis, "axis " + std::to_string(a) + " is out of range for rank 2", [=] {
        fn(f({2, 3}), a, ints(index));
      });
    expect_error<DTypeError>(op, Mistake::dtype, "int64 or int32, got float32", [=] { fn(f({2, 3}), 0, f(index)); });
    expect_error<DTypeError>(op, Mistake::dtype, "int64 or int32, got bool", [=] { fn(f({2, 3}), 0, mask(index)); });
    for (int64_t i : {3, op == "index_fill" ? -4 : -1})
      expect_error<IndexError>(op, Mistake::index,
                               "index " + std::to_string(i) + " is out of range for axis 1 of size 3", [=] {
                                 fn(f({2, 3}), -1, ints(index, i));
                               });
    expect_error<IndexError>(op, Mistake::empty, "index 0 is out of range for axis 0 of size 0", [=] {
      fn(f({0, 3}), 0, ints(index, 0));
    });
  };
  for (const auto& [name, fn] : elementwise) {
    const bool broadcasts = name == std::string("take_along_dim");
    common(name, fn, {1, 1});
    expect_error<ShapeError>(name, Mistake::rank, broadcasts ? "x's rank 2, got [1]" : "index [1] does not fit",
                             [fn = fn] {
                               fn(f({2, 3}), 0, ints({1}));
                             });
    expect_error<ShapeError>(name, Mistake::shape,
                             broadcasts ? "do not broadcast beside axis 0" : "index [1, 4] does not fit into [2, 3]",
                             [fn = fn] {
                               fn(f({2, 3}), 0, ints({1, 4}));
                             });
  }
  for (const auto& [name, fn] : slicewise) {
    common(name, fn, {1});
    expect_error<ShapeError>(name, Mistake::rank, "an index of rank 1, got [1, 1]", [fn = fn] {
      fn(f({2, 3}), 0, ints({1, 1}));
    });
  }
});

const AddErrors values([] {
  using Fn = std::function<void(const Tensor& x, const Tensor& index, const Tensor& src)>;
  const std::pair<const char*, Fn> elementwise[] = {
      {"scatter", [](const Tensor& x, const Tensor& i, const Tensor& s) { scatter(x, 0, i, s); }},
      {"scatter_add", [](const Tensor& x, const Tensor& i, const Tensor& s) { scatter_add(x, 0, i, s); }},
      {"scatter_reduce",
       [](const Tensor& x, const Tensor& i, const Tensor& s) { scatter_reduce(x, 0, i, s, ScatterReduce::amin); }},
  };
  for (const auto& [name, fn] : elementwise) {
    expect_error<ShapeError>(name, Mistake::shape, "at least as large as the index [2, 3], got [1, 3]", [fn = fn] {
      fn(f({2, 3}), ints({2, 3}), f({1, 3}));
    });
    expect_error<ShapeError>(name, Mistake::rank, "got [3]", [fn = fn] { fn(f({2, 3}), ints({1, 3}), f({3})); });
    expect_error<DTypeError>(name, Mistake::dtype, "one dtype, got float32 and float64", [fn = fn] {
      fn(f({2, 3}), ints({1, 3}), f({1, 3}, DType::f64));
    });
    if (name != std::string("scatter"))
      expect_error<DTypeError>(name, Mistake::dtype, "numbers, got bool", [fn = fn] {
        fn(mask({2, 3}), ints({1, 3}), mask({1, 3}));
      });
  }
  expect_error<DTypeError>("scatter_reduce", Mistake::dtype, "a floating dtype for the mean, got int64",
                           [] { scatter_reduce(ints({2}), 0, ints({1}), ints({1}), ScatterReduce::mean); });
  const std::pair<const char*, Fn> slicewise[] = {
      {"index_add", [](const Tensor& x, const Tensor& i, const Tensor& s) { index_add(x, 0, i, s); }},
      {"index_copy", [](const Tensor& x, const Tensor& i, const Tensor& s) { index_copy(x, 0, i, s); }},
  };
  for (const auto& [name, fn] : slicewise) {
    expect_error<ShapeError>(name, Mistake::shape,
                             "expected src of [2, 3] for an index of [2] along axis 0, got [1, 3]", [fn = fn] {
                               fn(f({2, 3}), ints({2}), f({1, 3}));
                             });
    expect_error<ShapeError>(name, Mistake::rank, "got [3]", [fn = fn] { fn(f({2, 3}), ints({1}), f({3})); });
    expect_error<DTypeError>(name, Mistake::dtype, "one dtype, got float32 and float64", [fn = fn] {
      fn(f({2, 3}), ints({1}), f({1, 3}, DType::f64));
    });
  }
  expect_error<DTypeError>("index_add", Mistake::dtype, "numbers, got bool",
                           [] { index_add(mask({2}), 0, ints({1}), mask({1})); });
  expect_error<DTypeError>("index_add", Mistake::option, "a whole alpha for int64, got 0.5",
                           [] { index_add(ints({2}), 0, ints({1}), ints({1}), {.alpha = 0.5}); });
  expect_error<ShapeError>("index_fill", Mistake::rank, "a number or a tensor of rank 0, got [1]",
                           [] { index_fill(f({2}), 0, ints({1}), f({1})); });
  expect_error<ShapeError>("embedding", Mistake::rank, "a weight of rank 2, got [3]",
                           [] { embedding(f({3}), ints({1})); });
  expect_error<IndexError>("embedding", Mistake::index, "index 2 is out of range for axis 0 of size 2", [] {
    embedding(f({2, 3}), ints({4}, 2));
  });
  for (int64_t p : {2, -3})
    expect_error<IndexError>("embedding", Mistake::option,
                             "padding_idx " + std::to_string(p) + " is out of range for 2 rows", [p] {
                               embedding(f({2, 3}), ints({1}), {.padding_idx = p});
                             });
  expect_error<DTypeError>("embedding", Mistake::dtype, "int64 or int32, got float32", [] {
    embedding(f({2, 3}), f({1}));
  });
  expect_error<ShapeError>("embedding", Mistake::rank, "rank 7 at most", [] {
    embedding(f({2, 3}), ints({1, 1, 1, 1, 1, 1, 1, 1}));
  });
});

}  // namespace
}  // namespace flame::test
