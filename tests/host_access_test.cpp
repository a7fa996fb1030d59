// Host access: spans in place, copies into spans, single numbers, and tensors over somebody else's memory.
#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <numeric>

#include "flame/flame.h"
#include "tests/support/error.h"
#include "tests/trace_device.h"

namespace flame {
namespace {

using namespace test;

// Without the place at its end.
template <class E, class F>
std::string text_of(F&& fn) {
  const std::string m = message_of<E>(std::forward<F>(fn));
  return m.substr(0, m.find(" (at "));
}

TEST(HostAccess, FromTakesSpans) {
  const std::array<int32_t, 4> numbers{1, 2, 3, 4};
  const Tensor t = Tensor::from(std::span<const int32_t>(numbers), {2, 2});
  EXPECT_EQ(t.dtype(), DType::i32);
  EXPECT_EQ(t.to_vector<int32_t>(), (std::vector<int32_t>{1, 2, 3, 4}));
  EXPECT_THROW(Tensor::from(std::span<const int32_t>(numbers).first(3), {2, 2}), ShapeError);
}

TEST(HostAccess, SpanReadsInPlace) {
  const Tensor x = arange(0, 12, 1, DType::f32).reshape({3, 4});
  const std::span<const float> all = (x + 0).span<float>();
  EXPECT_EQ(x.span<float>().data(), x.data());
  EXPECT_EQ(all.size(), 12u);
  const std::span<const float> middle = x.narrow(0, 1, 1).span<float>();
  EXPECT_EQ(std::vector<float>(middle.begin(), middle.end()), (std::vector<float>{4, 5, 6, 7}));
  EXPECT_EQ(zeros({3, 0}).span<float>().size(), 0u);
  EXPECT_EQ(text_of<DTypeError>([&] { x.span<double>(); }), "span: expected float64, the tensor is float32");
  EXPECT_EQ(text_of<ValueError>([&] { x.t().span<float>(); }),
            "span: expected a contiguous tensor, got shape [4, 3] with strides [1, 4]; use contiguous()");
  const Tensor far = zeros({2}).to(trace_device());
  EXPECT_NE(text_of<DeviceError>([&] { far.span<float>(); }).find("use copy_to or to_vector"), std::string::npos);
}

TEST(HostAccess, CopyToFillsASpan) {
  std::array<int64_t, 6> out{};
  arange(0, 6, 1, DType::i64).reshape({2, 3}).t().copy_to(std::span<int64_t>(out));
  EXPECT_EQ(out, (std::array<int64_t, 6>{0, 3, 1, 4, 2, 5}));
  const Tensor x = zeros({7}, DType::i64);
  EXPECT_EQ(text_of<ShapeError>([&] { x.copy_to(std::span<int64_t>(out)); }),
            "copy_to: shape [7] has 7 elements, the span 6");
}

TEST(HostAccess, ItemOfAType) {
  const int64_t large = (int64_t{1} << 53) + 1;  // no double
  EXPECT_EQ(full({}, large, DType::i64).item<int64_t>(), large);
  EXPECT_EQ(full({1, 1}, 2.5, DType::bf16).item<float>(), 2.5f);
  EXPECT_EQ(full({}, 7, DType::u8).item(), 7.0);
  EXPECT_EQ(full({}, -7, DType::i8).item<int32_t>(), -7);
  EXPECT_TRUE((ones({}) > 0.5).item<bool>());
  EXPECT_EQ(text_of<ValueError>([&] { full({}, 300, DType::i32).item<uint8_t>(); }), "item: 300 does not fit uint8");
  EXPECT_EQ(text_of<DTypeError>([&] { ones({}).item<int32_t>(); }),
            "item: expected an integer or bool for int32, the tensor is float32");
  EXPECT_THROW(ones({2}).item<float>(), ShapeError);
}

TEST(FromBlob, ReadsInPlaceAndCallsTheDeleterOnce) {
  std::vector<float> numbers(12);
  std::iota(numbers.begin(), numbers.end(), 0.0f);
  int deleted = 0;
  Tensor kept;
  {
    const Tensor t = Tensor::from_blob(numbers.data(), {3, 4}, [&](float* p) {
      EXPECT_EQ(p, numbers.data());
      ++deleted;
    });
    EXPECT_EQ(t.data(), numbers.data());
    EXPECT_EQ((t * 2).sum().item(), 132);
    kept = t.narrow(0, 2, 1);
  }
  EXPECT_EQ(deleted, 0) << "a view still reads the memory";
  EXPECT_EQ(kept.to_vector<float>(), (std::vector<float>{8, 9, 10, 11}));
  kept = Tensor();
  EXPECT_EQ(deleted, 1);
}

TEST(FromBlob, PendingReadersKeepTheMemory) {
  auto* numbers = new std::vector<float>(1000, 3.0f);
  Tensor sum;
  {
    const Tensor t = Tensor::from_blob(numbers->data(), {1000}, [numbers](float*) { delete numbers; });
    sum = (t + 1).sum();
  }
  EXPECT_EQ(sum.item(), 4000);
}

TEST(FromBlob, StridesGradientsAndStates) {
  std::vector<double> numbers{1, 2, 3, 4, 5, 6};
  Tensor t = Tensor::from_blob(numbers.data(), {3, 2}, [](double*) {}, {1, 3});
  EXPECT_EQ(t.to_vector<double>(), (std::vector<double>{1, 4, 2, 5, 3, 6}));
  t.requires_grad_();
  backward((t * t).sum());
  EXPECT_EQ(t.grad().to_vector<double>(), (std::vector<double>{2, 8, 4, 10, 6, 12}));
  const State s{t};  // copies the bytes
  s.assign(zeros({3, 2}, DType::f64));
  EXPECT_EQ(numbers, (std::vector<double>{1, 2, 3, 4, 5, 6}));
}

TEST(FromBlob, Mistakes) {
  std::vector<float> numbers(4);
  const auto nothing = [](float*) {};
  EXPECT_EQ(text_of<ValueError>([&] { Tensor::from_blob(static_cast<float*>(nullptr), {1}, nothing); }),
            "from_blob: expected an address, got null");
  EXPECT_EQ(text_of<ShapeError>([&] {
              Tensor::from_blob(numbers.data(), {2, 2}, nothing, {1});
            }),
            "from_blob: shape [2, 2] needs 2 strides, got [1]");
  auto* odd = reinterpret_cast<float*>(reinterpret_cast<char*>(numbers.data()) + 1);
  EXPECT_EQ(text_of<ValueError>([&] { Tensor::from_blob(odd, {1}, nothing); }),
            "from_blob: the address is not aligned to the 4 bytes of float32");
  EXPECT_EQ(Tensor::from_blob(static_cast<float*>(nullptr), {0}, nothing).numel(), 0);
}

}  // namespace
}  // namespace flame
