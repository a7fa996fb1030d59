// Random programs over every pointwise row, casts, reductions, broadcasts, views and a few opaque ops, on all dtypes and
// odd shapes: fused and op by op must agree bit for bit, NaN payloads aside. A failure prints seed and program.
#include "flame/flame.h"

#include <gtest/gtest.h>

#include <functional>

#include "flame/device/device_scope.h"
#include "tests/support/cuda_support.h"
#include "tests/support/random_program.h"

namespace flame {
namespace {

using namespace test;

// Runs compare(seed) for many seeds, or for FLAME_PROGRAM alone; it returns what two runs of one program gave.
struct Tally {
  size_t equal = 0, steps = 0, results = 0;
};
Tally for_programs(uint64_t count, const std::function<std::pair<Outcome, Outcome>(uint64_t)>& run,
                   uint64_t first = 1) {
  const char* only = std::getenv("FLAME_PROGRAM");
  if (only) first = std::strtoull(only, nullptr, 10);
  if (only) count = 1;
  Tally t;
  for (uint64_t seed = first, failures = 0; seed < first + count && failures < 5; ++seed) {
    const auto [a, b] = run(seed);
    if (const std::string wrong = difference(a, b); !wrong.empty()) {
      ++failures;
      ADD_FAILURE() << "program " << seed << " (FLAME_PROGRAM=" << seed << "): " << wrong << "\n" << a.text;
      continue;
    }
    ++t.equal;
    t.steps += a.steps;
    t.results += a.results.size();
  }
  EXPECT_EQ(t.equal, count);
  return t;
}

TEST(Programs, FusedEqualsOpByOp) {
  const Tally t =
      for_programs(full()    ? 20000
                   : quick() ? 60
                             : 600,
                   [](uint64_t seed) { return std::pair(run_program(seed, true), run_program(seed, false)); });
  std::printf("%zu random programs equal in both modes, %zu steps, %zu results\n", t.equal, t.steps, t.results);
}

// The same programs through record(): two calls that warm up, then replays on other numbers.
TEST(Programs, RecordedEqualsEager) {
  uint64_t replays = 0;
  const Tally t = for_programs(full()    ? 4000
                               : quick() ? 30
                                         : 300,
                               [&](uint64_t seed) {
                                 Program p(seed);
                                 const auto warm = p.inputs(), fresh = p.inputs(1);
                                 auto step = RecordedStep([&](const std::vector<Tensor>& in) { return p(in); }, {});
                                 const Outcome replayed = outcome_of(p, [&] {
                                   step(warm);
                                   step(warm);
                                   step(warm);
                                   return step(fresh);
                                 });
                                 replays += step.stats().replays;
                                 return std::pair(replayed, outcome_of(p, [&] { return p(fresh); }));
                               });
  std::printf("%zu recorded random programs equal to eager ones, %llu replays\n", t.equal,
              static_cast<unsigned long long>(replays));
  EXPECT_GT(replays, t.equal);  // most programs repeat, so most have two
}

// On the GPU, in blocks, so that several processes can share the compiling.
class CudaPrograms : public ::testing::TestWithParam<uint64_t> {
 protected:
  static constexpr uint64_t per_block = 6;
  uint64_t first() const { return 100'000 + GetParam() * per_block; }
};
TEST_P(CudaPrograms, FusedEqualsOpByOp) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope scope(d);
  const auto both = [](uint64_t seed) { return std::pair(run_program(seed, true), run_program(seed, false)); };
  EXPECT_GT(for_programs(per_block, both, first()).results, 0u);
}
TEST_P(CudaPrograms, ArithmeticHasTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  const auto on = [](Device& where, uint64_t seed) {
    const DeviceScope scope(where);
    return run_program(seed, true, true);
  };
  const auto both = [&](uint64_t seed) { return std::pair(on(d, seed), on(cpu(), seed)); };
  EXPECT_GT(for_programs(per_block, both, first()).results, 0u);
}
INSTANTIATE_TEST_SUITE_P(Blocks, CudaPrograms, ::testing::Range(uint64_t{0}, uint64_t{12}));

}  // namespace
}  // namespace flame
