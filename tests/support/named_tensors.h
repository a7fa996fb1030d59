// Tensors of every dtype and many shapes for the tests of file formats, and their comparison by name.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "flame/io/safetensors.h"
#include "tests/support/compare.h"

namespace flame_test {

inline std::vector<flame::io::NamedTensor> samples() {
  using namespace flame;
  std::vector<io::NamedTensor> out;
  std::mt19937 random(3);
  for (const DType t : all_dtypes) {
    for (const Shape& s : {Shape{}, Shape{0}, Shape{3}, Shape{2, 0, 4}, Shape{5, 7}, Shape{1, 2, 1, 3, 1, 2, 1, 2}}) {
      std::string bytes(static_cast<size_t>(numel(s)) * size_of(t), '\0');
      for (char& c : bytes) c = static_cast<char>(t == DType::boolean ? random() % 2 : random());
      const auto count = static_cast<size_t>(numel(s));
      out.emplace_back("layer." + std::string(name_of(t)) + to_string(s), Tensor::from_host(bytes.data(), count, t, s));
    }
  }
  out.emplace_back("quote \" backslash newline \n \xc3\xa4", Tensor::from<float>({1.5f}, {1}));
  return out;
}

inline void expect_equal(const std::vector<flame::io::NamedTensor>& a, const std::vector<flame::io::NamedTensor>& b) {
  using flame::io::NamedTensor;
  ASSERT_EQ(a.size(), b.size());
  for (const NamedTensor& x : a) {
    const auto it = std::find_if(b.begin(), b.end(), [&](const NamedTensor& y) { return x.first == y.first; });
    ASSERT_NE(it, b.end()) << x.first;
    EXPECT_EQ(x.second.shape(), it->second.shape()) << x.first;
    ASSERT_EQ(x.second.dtype(), it->second.dtype()) << x.first;
    const flame::Tensor &got = it->second, &want = x.second;
    EXPECT_EQ(flame::test::difference(want, got), "") << x.first;
    if (is_contiguous(got.shape(), got.strides())) {  // a 16-bit copy to another layout may make NaN quiet
      EXPECT_EQ(flame::test::bytes(want), flame::test::bytes(got)) << x.first;
    }
  }
}

}  // namespace flame_test
