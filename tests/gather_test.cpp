// Reading and adding by index against plain loops.
#include "flame/flame.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using test::counting;
using test::each_index;
using test::row_major;

Tensor indices(const std::vector<int64_t>& v, const Shape& s) { return Tensor::from(v, s); }

TEST(Gather, EveryAxisOfAStridedTensor) {
  const Tensor x = counting({5, 4, 3}).t();  // [5, 3, 4]
  const std::vector<float> all = x.to_vector<float>();
  for (int axis = 0; axis < 3; ++axis) {
    Shape s = x.shape();
    s[axis] = 6;
    const Tensor index = randint(0, x.shape()[axis], s);
    const std::vector<int64_t> k = index.to_vector<int64_t>();
    const std::vector<float> v = gather(x, axis, index).to_vector<float>();
    const std::vector<float> w = gather(x, axis - 3, index.to(DType::i32)).to_vector<float>();
    EXPECT_EQ(v, w);
    each_index(s, [&](const Dims& i) {
      Dims j = i;
      j[axis] = k[static_cast<size_t>(row_major(s, i))];
      EXPECT_EQ(v[static_cast<size_t>(row_major(s, i))], all[static_cast<size_t>(row_major(x.shape(), j))]);
    });
  }
}

TEST(Gather, ScatterAddsRepeatedIndicesInOrder) {
  for (DType t : {DType::f32, DType::f64, DType::f16, DType::i64}) {
    const Tensor x = ones({2, 3}, t);
    const Tensor src = counting({4, 3}).to(t);
    const Tensor index = indices({0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1}, {4, 3});
    const Tensor y = scatter_add(x, 0, index, src);
    EXPECT_EQ(y.dtype(), t);
    EXPECT_EQ(y.to(DType::f64).to_vector<double>(),
              (std::vector<double>{1 + 0 + 3 + 6, 1 + 7, 1 + 2, 1 + 9, 1 + 1 + 4 + 10, 1 + 5 + 8 + 11}));
  }
  const int before = num_threads();
  std::vector<float> seen[2];
  Generator g(1);
  const Tensor src = randn({500, 700}, {.generator = &g}),
               rows = randint(0, 9, {500, 1}, {.generator = &g}).expand({500, 700});
  for (int i = 0; i < 2; ++i) {
    set_num_threads(i ? 3 : 1);
    seen[i] = scatter_add(zeros({9, 700}), 0, rows, src).to_vector<float>();
  }
  set_num_threads(before);
  EXPECT_EQ(seen[0], seen[1]);
}

TEST(Gather, IndexSelectAndEmbedding) {
  const Tensor x = counting({3, 4});
  EXPECT_EQ(index_select(x, 1, indices({3, 3, 0}, {3})).to_vector<float>(),
            (std::vector<float>{3, 3, 0, 7, 7, 4, 11, 11, 8}));
  EXPECT_EQ(index_select(x.t(), 0, indices({3, 0}, {2})).to_vector<float>(), (std::vector<float>{3, 7, 11, 0, 4, 8}));
  Tensor w = counting({3, 4});
  w.requires_grad_();
  const Tensor y = embedding(w, indices({2, 0, 2, 2}, {2, 2}));
  EXPECT_EQ(y.shape(), (Shape{2, 2, 4}));
  EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11, 8, 9, 10, 11}));
  backward(y.sum());
  EXPECT_EQ(w.grad().to_vector<float>(), (std::vector<float>{1, 1, 1, 1, 0, 0, 0, 0, 3, 3, 3, 3}));
}

TEST(Gather, DerivativesOfFirstAndSecondOrder) {
  Generator g(6);
  const Tensor x = randn({4, 3}, {.dtype = DType::f64, .generator = &g}),
               src = randn({5, 3}, {.dtype = DType::f64, .generator = &g});
  const Tensor index = randint(0, 4, {5, 3}, {.generator = &g});
  const TensorFn fn = [&](const std::vector<Tensor>& in) {
    return std::vector<Tensor>{square(gather(in[0], 0, index)), square(scatter_add(in[0], 0, index, in[1]))};
  };
  gradcheck(fn, {x, src});
  gradgradcheck(fn, {x, src});
}

TEST(Gather, ErrorsNameTheIndex) {
  const Tensor x = counting({3, 4});
  EXPECT_MESSAGE(IndexError, gather(x, 0, indices({0, 1, 2, 3}, {1, 4})),
                 "gather: index 3 is out of range for axis 0 of size 3");
  EXPECT_MESSAGE(IndexError, embedding(x, indices({-1}, {1})),
                 "embedding: index -1 is out of range for axis 0 of size 3");
  EXPECT_MESSAGE(IndexError, index_select(x, 1, indices({4}, {1})),
                 "index_select: index 4 is out of range for axis 1 of size 4");
  EXPECT_MESSAGE(IndexError, scatter_add(x, 0, indices({9}, {1, 1}), ones({1, 1})), "scatter_add: index 9");
  EXPECT_MESSAGE(DTypeError, gather(x, 0, x), "gather: expected an index of int64 or int32, got float32");
  EXPECT_MESSAGE(ShapeError, gather(x, 0, indices({0}, {1})),
                 "gather: index [1] does not fit into [3, 4] along axis 0");
  EXPECT_MESSAGE(ShapeError, scatter_add(x, 0, indices({0, 1}, {2, 1}), ones({1, 1})),
                 "expected src at least as large as the index [2, 1], got [1, 1]");
}

}  // namespace
}  // namespace flame
