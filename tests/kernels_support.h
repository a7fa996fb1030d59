// Shared by the kernel tests: runs each test for every instruction set of this machine.
#pragma once
#include <gtest/gtest.h>

#include <vector>

#include "flame/core/dtype.h"
#include "hwy/targets.h"

namespace flame::test {

template <class T>
constexpr DType dt = dtype_of<T>();

class Kernels : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    hwy::SetSupportedTargetsForTest(GetParam());
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  void TearDown() override {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};
inline std::vector<int64_t> targets() {
  std::vector<int64_t> out;
  const int64_t have = hwy::SupportedTargets();
  for (int64_t t : {int64_t{HWY_AVX3}, int64_t{HWY_AVX2}})
    if (have & t) out.push_back(t);
  out.push_back(HWY_STATIC_TARGET);
  return out;
}

}  // namespace flame::test
