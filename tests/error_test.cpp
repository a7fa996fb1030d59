// A user's mistake is a typed error that says op, expected, got and the caller's line, and changes nothing.
#include "flame/flame.h"

#include <gtest/gtest.h>

#include <typeinfo>

#include "flame/autograd/node.h"
#include "tests/support/compare.h"

namespace flame {
namespace {

using namespace test;

Tensor f(const Shape& s) { return full(s, 0.5); }
Tensor ints(const std::vector<int64_t>& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); }
State state(const Shape& s, double value = 0) { return State(full(s, value)); }

// fn must throw exactly E, with these words, at the line of this call.
template <class E, class F>
void expect(F fn, const std::vector<std::string>& words, Loc loc = Loc::current()) {
  try {
    fn();
    ADD_FAILURE() << "line " << loc.line() << ": nothing was thrown";
  } catch (const Error& e) {
    const std::string m = e.what();
    EXPECT_TRUE(typeid(e) == typeid(E)) << "line " << loc.line() << ": another type: " << m;
    for (const std::string& w : words)
      EXPECT_NE(m.find(w), std::string::npos) << "line " << loc.line() << ": no '" << w << "' in: " << m;
    EXPECT_EQ(e.where().line(), loc.line()) << m;
    EXPECT_NE(m.find("error_test.cpp:" + std::to_string(loc.line())), std::string::npos)
        << "line " << loc.line() << ": " << m;
  }
}

// The line of a call is what is tested, so each stays on one.
// clang-format off
TEST(Errors, ShapesThatDoNotFit) {
  const Tensor a = f({2, 3}), x = f({2, 4, 6, 6});
  expect<ShapeError>([&] { add(a, f({4})); }, {"add", "[2, 3]", "[4]"});
  expect<ShapeError>([&] { a* f({2, 2}); }, {"mul", "[2, 3]", "[2, 2]"});
  expect<ShapeError>([&] { where(a > 0, a, f({5})); }, {"where", "[5]"});
  expect<ShapeError>([&] { matmul(a, a); }, {"matmul", "3", "2"});
  expect<ShapeError>([&] { matmul(a, f({})); }, {"matmul"});
  expect<ShapeError>([&] { matmul(f({3, 2, 3}), f({2, 3, 4})); }, {"matmul", "[3, 2, 3]", "[2, 3, 4]"});
  expect<ShapeError>([&] { linear(a, f({4, 5})); }, {"linear", "3", "5"});
  expect<ShapeError>([&] { linear(a, f({4, 3}), f({3})); }, {"linear", "bias", "[3]"});
  expect<ShapeError>([&] { conv2d(a, f({4, 3, 3, 3})); }, {"conv2d", "[2, 3]"});
  expect<ShapeError>([&] { conv2d(x, f({4, 3, 3, 3})); }, {"conv2d", "4", "3"});
  expect<ShapeError>([&] { conv2d(x, f({4, 4, 9, 3})); }, {"conv2d", "9"});
  expect<ShapeError>([&] { conv2d(x, f({4, 4, 3, 3}), f({5})); }, {"conv2d", "bias", "[5]"});
  expect<ShapeError>([&] { max_pool2d(a, {.kernel = 2}); }, {"max_pool2d", "[2, 3]"});
  expect<ShapeError>([&] { avg_pool2d(x, {.kernel = 9}); }, {"avg_pool2d", "9"});
  expect<ShapeError>([&] { cat({a, f({2, 3, 1})}); }, {"cat"});
  expect<ShapeError>([&] { cat({a, f({3, 4})}, 0); }, {"cat", "[3, 4]"});
  expect<ShapeError>([&] { stack({a, f({3, 2})}); }, {"stack", "[2, 3]", "[3, 2]"});
  expect<ShapeError>([&] { a.reshape({4, 2}); }, {"reshape", "[2, 3]", "6", "8"});
  expect<ShapeError>([&] { a.reshape({-1, 4}); }, {"reshape", "-1"});
  expect<ShapeError>([&] { a.reshape({-1, -1}); }, {"reshape", "at most one -1"});
  expect<ShapeError>([&] { a.expand({3, 3}); }, {"expand", "[2, 3]", "[3, 3]"});
  expect<ShapeError>([&] { a.permute({0}); }, {"permute", "2", "[0]"});
  expect<ShapeError>([&] { amax(f({0, 3}), 0); }, {"amax"});
  expect<ShapeError>([&] { argmax(f({0, 3}), 0); }, {"argmax"});
  expect<ShapeError>([&] { layer_norm(a, {2}); }, {"layer_norm", "[2]", "[2, 3]"});
  expect<ShapeError>([&] { layer_norm(a, {3}, f({2})); }, {"layer_norm", "weight", "[2]"});
  expect<ShapeError>([&] { batch_norm(a, state({2}), state({3})); }, {"batch_norm", "running_mean", "[3]", "[2]"});
  expect<ShapeError>([&] { batch_norm(f({3}), {}, {}); }, {"batch_norm", "[3]"});
  expect<ShapeError>([&] { cross_entropy(a, ints({0, 1, 2})); }, {"cross_entropy", "[2]", "[3]"});
  expect<ShapeError>([&] { cross_entropy(a, ints({0, 1}), {.weight = f({2})}); }, {"cross_entropy", "weight", "[2]"});
  expect<ShapeError>([&] { mse_loss(a, f({3, 2})); }, {"mse_loss", "[3, 2]"});
  expect<ShapeError>([&] { gather(a, 0, ints({1})); }, {"gather", "[1]"});
  expect<ShapeError>([&] { a.item(); }, {"item", "[2, 3]"});
  expect<ShapeError>([&] { Tensor::from(std::vector<float>{1, 2}, {3}); }, {"from", "[3]", "3", "2"});
  expect<ShapeError>([&] { zeros({2, -1}); }, {"-1"});
  expect<ShapeError>([&] { backward(Tensor(a).requires_grad_() * 2); }, {"backward", "[2, 3]"});
  expect<ShapeError>([&] { state({2}).assign(a); }, {"assign", "[2]", "[2, 3]"});
}

TEST(Errors, DTypesThatDoNotFit) {
  const Tensor i = ints({1, 2}), b = i > 1, x = f({2, 3});
  expect<DTypeError>([&] { matmul(b, b); }, {"matmul", "bool"});
  expect<DTypeError>([&] { neg(b); }, {"neg", "bool"});
  expect<DTypeError>([&] { bitwise_and(x, 1); }, {"bitwise_and", "float32"});
  expect<DTypeError>([&] { where(x, x, x); }, {"where", "float32"});
  expect<DTypeError>([&] { mean(i); }, {"mean", "int64"});
  expect<DTypeError>([&] { var(i); }, {"var", "int64"});
  expect<DTypeError>([&] { softmax(i); }, {"softmax", "int64"});
  expect<DTypeError>([&] { dropout(i); }, {"dropout", "int64"});
  expect<DTypeError>([&] { conv2d(Tensor::empty({1, 1, 3, 3}, DType::i64), f({1, 1, 3, 3}).to(DType::i64)); }, {"conv2d", "int64"});
  expect<DTypeError>([&] { max_pool2d(Tensor::empty({1, 1, 3, 3}, DType::i64), {.kernel = 2}); }, {"max_pool2d", "int64"});
  expect<DTypeError>([&] { layer_norm(i, {2}); }, {"layer_norm", "int64"});
  expect<DTypeError>([&] { batch_norm(Tensor::empty({2, 2}, DType::i64), {}, {}); }, {"batch_norm", "int64"});
  expect<DTypeError>([&] { cross_entropy(x, b); }, {"cross_entropy", "bool"});
  expect<DTypeError>([&] { gather(x, 0, x); }, {"gather", "float32"});
  expect<DTypeError>([&] { embedding(x, x); }, {"embedding", "float32"});
  expect<DTypeError>([&] { one_hot(x, 3); }, {"one_hot", "float32"});
  expect<DTypeError>([&] { x.to_vector<double>(); }, {"float64", "float32"});
  expect<DTypeError>([&] { Tensor(i).requires_grad_(); }, {"requires_grad_", "int64"});
  expect<DTypeError>([&] { Parameter p(i); }, {"parameter", "int64"});
  expect<DTypeError>([&] { rand({2}, {.dtype = DType::i32}); }, {"rand", "int32"});
}

TEST(Errors, AxesAndIndices) {
  const Tensor x = f({2, 3});
  expect<IndexError>([&] { sum(x, 2); }, {"sum", "2", "rank 2"});
  expect<IndexError>([&] { mean(x, {0, -3}); }, {"mean", "-3"});
  expect<ValueError>([&] { sum(x, {1, -1}); }, {"sum", "1"});
  expect<IndexError>([&] { x.transpose(0, 2); }, {"transpose", "2"});
  expect<IndexError>([&] { x.permute({0, 0}); }, {"permute", "twice"});
  expect<IndexError>([&] { x.select(0, 2); }, {"select", "2", "size 2"});
  expect<IndexError>([&] { x.narrow(1, 2, 2); }, {"narrow", "2", "size 3"});
  expect<IndexError>([&] { x.unsqueeze(4); }, {"unsqueeze", "4"});
  expect<IndexError>([&] { x.squeeze(-3); }, {"squeeze", "-3"});
  expect<IndexError>([&] { x.flatten(0, 2); }, {"flatten", "2"});
  expect<IndexError>([&] { x.size(5); }, {"size", "5"});
  expect<IndexError>([&] { cat({x, x}, 2); }, {"cat", "2"});
  expect<IndexError>([&] { softmax(x, 2); }, {"softmax", "2"});
  expect<IndexError>([&] { argmax(x, 3); }, {"argmax", "3"});
  expect<IndexError>([&] { gather(x, 0, Tensor::from(std::vector<int64_t>{5}, {1, 1})); }, {"gather", "5", "size 2"});
  expect<IndexError>([&] { index_select(x, 1, ints({-1})); }, {"index_select", "-1"});
  expect<IndexError>([&] { embedding(x, ints({0, 2})); }, {"embedding", "2"});
  expect<IndexError>([&] { cross_entropy(x, ints({0, 3})); }, {"cross_entropy", "target 3", "3 classes"});
}

TEST(Errors, OptionsOutOfRange) {
  const Tensor x = f({1, 4, 6, 6}), w = f({4, 4, 3, 3});
  expect<ValueError>([&] { dropout(x, 1.5); }, {"dropout", "1.5"});
  expect<ValueError>([&] { conv2d(x, w, {}, {.stride = 0}); }, {"conv2d", "stride"});
  expect<ValueError>([&] { conv2d(x, w, {}, {.padding = -1}); }, {"conv2d", "padding"});
  expect<ValueError>([&] { conv2d(x, w, {}, {.groups = 0}); }, {"conv2d", "group", "0"});
  expect<ShapeError>([&] { conv2d(x, w, {}, {.groups = 3}); }, {"conv2d", "3 groups"});
  expect<ValueError>([&] { max_pool2d(x, {.kernel = 0}); }, {"max_pool2d", "kernel"});
  expect<ValueError>([&] { max_pool2d(x, {.kernel = 2, .padding = 2}); }, {"max_pool2d", "padding"});
  expect<ValueError>([&] { batch_norm(f({1, 3}), {}, {}); }, {"batch_norm", "more than 1 value"});
  expect<ValueError>([&] { batch_norm(f({2, 3}), {}, {}, {}, {}, {.training = false}); }, {"batch_norm", "running"});
  expect<ValueError>([&] { f({3}).slice(0, 0, 3, 0); }, {"slice", "step"});
  expect<ValueError>([&] { arange(0, 3, -1); }, {"arange", "-1"});
  expect<ValueError>([&] { arange(0, 3, 0); }, {"arange"});
  expect<ValueError>([&] { cat({}); }, {"cat"});
  expect<ValueError>([&] { add(1, 2); }, {"add", "tensor"});
  expect<ValueError>([&] { exp(Tensor()); }, {"exp", "undefined"});
  expect<ValueError>([&] { uniform({2}, 1, 0); }, {"uniform"});
  expect<ValueError>([&] { randint(3, 3, {2}); }, {"randint", "3"});
  expect<ValueError>([&] { optim::AdamW({Parameter(f({2}))}, {.lr = -1}); }, {"AdamW", "-1"});
}
// clang-format on

TEST(Errors, Devices) {
  try {
    device("tpu:7");
    FAIL();
  } catch (const DeviceError& e) {
    EXPECT_NE(std::string(e.what()).find("tpu:7"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("cpu"), std::string::npos);
  }
}

class NoKernel final : public Op {
 public:
  const char* name() const override { return "no_kernel"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), in[0].shape())};
  }
};
class NoGradient final : public Op {
 public:
  const char* name() const override { return "no_gradient"; }
  bool differentiable() const override { return false; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), in[0].shape())};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta>, std::span<const Meta>) const override {
    return make_ref<Plan>("no_gradient", [](const Run&) {});
  }
};
TEST(Errors, MissingKernelsAndGradients) {
  const Tensor x = f({2}), wanted = Tensor(f({2})).requires_grad_();
  try {
    dispatch(make_ref<NoKernel>(), {x}, Loc::current());
    FAIL();
  } catch (const NotImplemented& e) {
    for (const char* w : {"no_kernel", "float32", "cpu"})
      EXPECT_NE(std::string(e.what()).find(w), std::string::npos) << e.what();
  }
  EXPECT_NO_THROW(dispatch(make_ref<NoGradient>(), {x}, Loc::current()));
  expect<NotDifferentiable>([&] { dispatch(make_ref<NoGradient>(), {wanted}, Loc::current()); }, {"no_gradient"});
  EXPECT_NO_THROW(no_grad([&] { return dispatch(make_ref<NoGradient>(), {wanted}, Loc::current()); }));
  // Results that are no numbers of a gradient's kind need none.
  EXPECT_FALSE(argmax(wanted).requires_grad());
  EXPECT_FALSE((wanted > 0).requires_grad());
}

TEST(Errors, OutOfMemoryReports) {
  const size_t before = memory_stats().allocated;
  expect<OutOfMemory>([&] { Tensor::empty({int64_t{1} << 46, 8}); }, {"cpu", "requested"});
  EXPECT_EQ(memory_stats().allocated, before);
}

TEST(Errors, ChangeNothing) {
  const State mean = state({3}, 1), var = state({3}, 2);
  EXPECT_THROW(batch_norm(f({4, 3}), mean, var, f({3}), f({2})), ShapeError);
  EXPECT_THROW(batch_norm(f({1, 3}), mean, var), ValueError);
  EXPECT_EQ(numbers(mean.tensor()), (std::vector<double>{1, 1, 1}));
  EXPECT_EQ(numbers(var.tensor()), (std::vector<double>{2, 2, 2}));

  Generator g(3);
  const GeneratorState drawn = g.state();
  EXPECT_THROW(dropout(f({3}), 2, true, &g), ValueError);
  EXPECT_THROW(rand({-1}, {.generator = &g}), ShapeError);
  EXPECT_THROW(rand({2}, {.dtype = DType::i64, .generator = &g}), DTypeError);
  EXPECT_EQ(g.state(), drawn);

  Tensor x = f({2});
  EXPECT_THROW(x += f({3}), ShapeError);
  EXPECT_EQ(numbers(x), (std::vector<double>{0.5, 0.5}));

  const Tensor leaf = Tensor(f({2})).requires_grad_();
  EXPECT_THROW(leaf.set_grad(f({3})), ShapeError);
  EXPECT_THROW(backward(leaf * 2), ShapeError);
  EXPECT_FALSE(leaf.grad().defined());

  // An error inside an island's op leaves the pending values as they were.
  const Tensor pending = x * 4;
  EXPECT_THROW(matmul(pending, f({3, 3})), ShapeError);
  EXPECT_EQ(numbers(pending), (std::vector<double>{2, 2}));

  nn::Linear layer({.in = 2, .out = 2});
  const std::vector<double> weights = numbers(layer.weight.tensor());
  EXPECT_THROW(layer.load_state({{"weight", f({2, 2})}, {"bias", f({3})}}), ShapeError);
  EXPECT_THROW(layer.load_state({{"weight", f({2, 2})}, {"bais", f({2})}}), ValueError);
  EXPECT_EQ(numbers(layer.weight.tensor()), weights);
}

// Promotion follows PyTorch's table.
TEST(Promotion, IsPyTorchs) {
  using enum DType;
  const DType expected[num_dtypes][num_dtypes] = {
      {boolean, u8, i8, i32, i64, f16, bf16, f32, f64},    {u8, u8, i32, i32, i64, f16, bf16, f32, f64},
      {i8, i32, i8, i32, i64, f16, bf16, f32, f64},        {i32, i32, i32, i32, i64, f16, bf16, f32, f64},
      {i64, i64, i64, i64, i64, f16, bf16, f32, f64},      {f16, f16, f16, f16, f16, f16, f32, f32, f64},
      {bf16, bf16, bf16, bf16, bf16, f32, bf16, f32, f64}, {f32, f32, f32, f32, f32, f32, f32, f32, f64},
      {f64, f64, f64, f64, f64, f64, f64, f64, f64}};
  for (int a = 0; a < num_dtypes; ++a)
    for (int b = 0; b < num_dtypes; ++b)
      EXPECT_EQ(maximum(zeros({2}, all_dtypes[a]), zeros({2}, all_dtypes[b])).dtype(), expected[a][b])
          << name_of(all_dtypes[a]) << " with " << name_of(all_dtypes[b]);
  EXPECT_EQ((zeros({2}, i32) + 1.5).dtype(), f32);
  EXPECT_EQ((zeros({2}, bf16) + 1.5).dtype(), bf16);
  EXPECT_EQ((zeros({2}, u8) + 1).dtype(), u8);
  EXPECT_EQ((zeros({2}, boolean) + 1).dtype(), i64);
  EXPECT_EQ((zeros({2}, i64) / 2).dtype(), f32);
}

}  // namespace
}  // namespace flame
