// Pointwise rows on the GPU against the C library in long double, within the bounds of the table that the CPU keeps to.
// Prints the largest error per op and dtype.
#include <gtest/gtest.h>

#include <cstdio>
#include <random>

#include "flame/ops/pointwise_internal.h"
#include "tests/support/accuracy.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;

// As the CPU's test: numbers of the row's range, evenly and on a logarithmic scale down to the subnormals.
template <class T>
void check(Device& d, const std::string& name, const Reference& r, double allowed, Code code, int arity) {
  std::mt19937_64 rng(7);
  std::uniform_real_distribution<double> uniform(r.lo, r.hi), exponent(std::is_same_v<T, float> ? -148 : -1070, 0);
  std::vector<T> a, b;
  for (int i = 0; i < 60000; ++i) {
    const bool small = i >= 40000;
    a.push_back(static_cast<T>(small ? (r.lo < 0 && i % 2 ? r.lo : r.hi) * std::exp2(exponent(rng)) : uniform(rng)));
    b.push_back(static_cast<T>(uniform(rng)));
  }
  const Shape s{static_cast<int64_t>(a.size())};
  const Tensor first = Tensor::from(a, s, d), second = Tensor::from(b, s, d);
  std::vector<Arg> in{first};
  if (arity > 1) in.emplace_back(second);
  const std::vector<T> y = call_pointwise(code, in).to_vector<T>();
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < a.size(); ++i)
    if (const double e = ulp_error(y[i], r.fn(a[i], b[i]), r.least); e > worst) worst = e, at = i;
  std::printf("cuda-ulp %s float%zu %.3f allowed %.2f\n", name.c_str(), 8 * sizeof(T), worst, allowed);
  EXPECT_LE(worst, allowed) << name << " of " << a[at] << ", " << b[at] << " gave " << y[at] << ", want "
                            << static_cast<double>(r.fn(a[at], b[at]));
}

TEST(CudaAccuracy, PointwiseRowsKeepToTheTable) {
  FLAME_NEEDS_GPU(d);
  struct Row {
    const char* name;
    int arity;
  };
  static const Row rows[] = {
#define FLAME_POINTWISE(name, arity, ...) {#name, arity},
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
  };
  size_t checked = 0;
  for (size_t i = 0; i < std::size(rows); ++i) {
    const auto r = references().find(rows[i].name);
    if (r == references().end()) continue;
    ++checked;
    const auto& [name, ref] = *r;
    check<float>(d, name, ref, ref.gpu32 > 0 ? ref.gpu32 : ref.ulp32, static_cast<Code>(i), rows[i].arity);
    check<double>(d, name, ref, ref.gpu64 > 0 ? ref.gpu64 : ref.ulp64, static_cast<Code>(i), rows[i].arity);
  }
  EXPECT_EQ(checked, references().size());
}

}  // namespace
}  // namespace flame
