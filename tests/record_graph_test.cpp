// Recorded steps on a device that keeps them as graphs: steps that no graph takes, steps on two devices, and what a capture does.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include "flame/device/device_scope.h"
#include "tests/support/compare.h"
#include "tests/support/graph_device.h"
#include "tests/support/trainer.h"

namespace flame {
namespace {

using namespace test;

// What a graph does not take is replayed launch by launch, and said.
TEST(RecordGraph, AStepThatNoGraphTakesIsAList) {
  GraphDevice& d = graph_device();
  const DeviceScope device(d);
  const OneThread thread;
  const std::set<std::string> libraries = d.libraries;
  // An engine that cannot be captured, in a launch that reads an argument and in another; a library's launch whose numbers change.
  for (const std::string op : {"conv2d", "gemm", "AdamW"}) {
    (op == "AdamW" ? d.libraries : d.uncapturable).insert(op);
    d.starts = 0;
    auto eager = std::make_unique<Trainer>(), recorded = std::make_unique<Trainer>();
    auto step = record([&](const Tensor& x, const Tensor& y) { return recorded->step(x, y); });
    for (int i = 0; i < 8; ++i) {
      const Tensor x = batch({4, 2, 8, 8}, i), y = classes(4, 5, i);
      std::vector<Tensor> a, b;
      alternate(*eager, [&] { a = eager->step(x, y); });
      alternate(*recorded, [&] { b = step(x, y); });
      EXPECT_EQ(difference(a[0], b[0]), "") << op << " at step " << i;
      expect_equal_state(*eager, *recorded, op + " at step " + std::to_string(i));
    }
    const RecordStats& s = step.stats();
    EXPECT_EQ(s.recordings, 1u);
    EXPECT_EQ(s.replays, 6u);
    EXPECT_EQ(s.misses, 1u);
    EXPECT_EQ(s.lanes, 0u);
    EXPECT_EQ(d.starts, 0);
    EXPECT_NE(s.last_miss.find(op), std::string::npos) << s.last_miss;
    EXPECT_NE(s.last_miss.find("one by one"), std::string::npos) << s.last_miss;
    d.uncapturable.clear();
    d.libraries = libraries;
  }
}

TEST(RecordGraph, AStepOnTwoDevicesStaysEager) {
  GraphDevice& d = graph_device();
  const State here(zeros({3}, DType::f32, cpu())), there(zeros({3}, DType::f32, d));
  const Tensor one = Tensor::from(std::vector<float>{1, 2, 3}, {3}, cpu());
  auto step = record([&](const Tensor& x) {
    here.assign(here.tensor() + one);
    there.assign(there.tensor() + x);
    return x * 2;
  });
  for (int i = 1; i <= 5; ++i) {
    const Tensor x = Tensor::from(std::vector<float>{4, 5, 6}, {3}, d);
    EXPECT_EQ(numbers(step(x)), (std::vector<double>{8, 10, 12}));
    EXPECT_EQ(numbers(here.tensor())[2], 3 * i);
    EXPECT_EQ(numbers(there.tensor())[2], 6 * i);
  }
  EXPECT_EQ(step.stats().replays, 0u);
  EXPECT_NE(step.stats().last_miss.find("two devices"), std::string::npos) << step.stats().last_miss;
}

// Beside the launches that read an argument, which are looked at before, each is taken up once.
TEST(RecordGraph, ACaptureTakesEachLaunchOnce) {
  GraphDevice& d = graph_device();
  const DeviceScope device(d);
  const Tensor w = batch({4, 4}, 3);
  auto step = record([&](const Tensor& x) { return exp(matmul(matmul(sin(matmul(x, w)), w), w)); });
  d.captures = d.captured_parts = d.finished = 0;
  for (int i = 0; i < 4; ++i) step(batch({4, 4}, i));
  EXPECT_EQ(step.stats().replays, 2u);
  EXPECT_EQ(d.captures, 2);
  EXPECT_EQ(d.captured_parts,
            1 + 1 + static_cast<int>(step.stats().launches));  // the reader, and the copy that it reads
  EXPECT_EQ(d.finished, 1);
}

TEST(RecordGraph, SaysHowManyLanesThereAre) {
  GraphDevice& d = graph_device();
  const DeviceScope device(d);
  const Tensor w = batch({1, 1}, 3);
  const auto lanes = [&](int products, int asked) {
    auto step = record(
        [&](const Tensor& x) {
          Tensor a = x * 2, b = x * 3;
          for (int i = 0; i < products; ++i) a = matmul(a, w), b = matmul(b, w);
          return a + b;
        },
        {.lanes = asked});
    for (int i = 0; i < 3; ++i) step(batch({1, 1}, i));
    EXPECT_EQ(step.stats().replays, 1u);
    return step.stats().lanes;
  };
  EXPECT_EQ(lanes(20, 1), 1u);
  EXPECT_EQ(lanes(20, 2), 2u);
  EXPECT_EQ(lanes(20, 8), 2u);
  EXPECT_EQ(lanes(2000, 2), 1u);  // more than 4,000 launches are not compared
}

}  // namespace
}  // namespace flame
