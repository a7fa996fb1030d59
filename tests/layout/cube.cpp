// Built by add_op_test.py against a library with one more row in its pointwise table: is `cube` a whole op?
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include <flame/flame.h>

#include "tests/support/registry_loop.h"

namespace {
using namespace flame;

void check(bool holds, const char* what) {
  std::printf("%s: %s\n", what, holds ? "yes" : "NO");
  if (!holds) std::exit(1);
}

bool values(DType t) {
  const Tensor y = cube(Tensor::from(std::vector<double>{-2, -1, 0, 1, 1.5}, {5}).to(t));
  const bool whole = t == DType::i32 || t == DType::i64;
  const std::vector<double> want{-8, -1, 0, 1, whole ? 1 : 3.375};
  return y.dtype() == t && y.to(DType::f64).to_vector<double>() == want;
}
}  // namespace

int main() {
  for (DType t : {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i32, DType::i64})
    check(values(t), ("values in " + std::string(name_of(t))).c_str());

  const uint64_t before = stats().launches;
  (relu(cube(ones({64}) + 1.0)) * 2.0).to_vector<float>();
  check(stats().launches == before + 1, "one launch with its neighbours");

  Tensor x = Tensor::from(std::vector<double>{-1.5, 0.5, 2}, {3}).requires_grad_();
  backward(cube(x).sum());
  check(x.grad().to_vector<double>() == std::vector<double>{6.75, 0.75, 12}, "gradient");
  const TensorFn fn = [](const std::vector<Tensor>& in) { return std::vector<Tensor>{cube(in[0])}; };
  gradcheck(fn, {x.detach()});
  gradgradcheck(fn, {x.detach()});

  const OpEntry* entry = Registry::global().find("cube");
  check(entry != nullptr, "registry entry");
  flame::test::LoopReport report;
  flame::test::RegistryLoop(report).run(*entry);
  std::printf("%s%zu cases, %zu gradchecks, %zu gradgradchecks\n", report.text().c_str(), report.cases,
              report.gradchecks, report.gradgradchecks);
  check(report.findings.empty() && report.cases > 0 && report.gradchecks > 0 && report.gradgradchecks > 0,
        "registry loop");
}
