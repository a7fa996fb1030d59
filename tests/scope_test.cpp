// Scopes of a thread: graph on or off, inference, default device, generator, hooks. No thread sees another's.
#include "flame/flame.h"

#include <gtest/gtest.h>

#include <barrier>
#include <thread>

#include "tests/support/compare.h"
#include "tests/support/error.h"
#include "tests/trace_device.h"

namespace flame {
namespace {

using namespace test;

TEST(Scopes, GradModesNest) {
  Tensor x = full({2}, 2).requires_grad_();
  EXPECT_TRUE(grad_enabled());
  {
    NoGrad off;
    EXPECT_FALSE((x * x).requires_grad());
    {
      EnableGrad on;
      EXPECT_TRUE((x * x).requires_grad());
      EXPECT_FALSE(no_grad([&] { return x * x; }).requires_grad());
      EXPECT_TRUE((x * x).requires_grad());
    }
    EXPECT_FALSE((x * x).requires_grad());
    EXPECT_TRUE(enable_grad([&] { return x * x; }).requires_grad());
    try {
      EnableGrad on;
      throw 1;
    } catch (int) {}
    EXPECT_FALSE(grad_enabled());
  }
  EXPECT_TRUE(grad_enabled());
}

TEST(Scopes, InferenceModeCannotBeTurnedOffInside) {
  Tensor x = full({2}, 2).requires_grad_();
  const Tensor outside = sum(x * x);
  {
    InferenceMode serving;
    EXPECT_TRUE(InferenceMode::enabled());
    EXPECT_FALSE((x * x).requires_grad());
    EXPECT_FALSE(enable_grad([&] { return x * x; }).requires_grad());
    // A graph from outside can be walked, but none can be built.
    EXPECT_EQ(numbers(grad({outside}, {x}, {.retain_graph = true})[0]), (std::vector<double>{4, 4}));
    const std::string m =
        message_of<AutogradError>([&] { grad({outside}, {x}, {.retain_graph = true, .create_graph = true}); });
    EXPECT_NE(m.find("InferenceMode"), std::string::npos) << m;
    EXPECT_THROW(backward(outside, {.create_graph = true}), AutogradError);
    { InferenceMode again; }
    EXPECT_TRUE(InferenceMode::enabled());
    {
      InferenceMode off(false);
      EXPECT_TRUE((x * x).requires_grad());
    }
  }
  EXPECT_TRUE((x * x).requires_grad());
  EXPECT_FALSE(x.grad().defined());
  // A checkpoint's graph too: its second run needs one.
  const Tensor y = sum(checkpoint([](const Tensor& t) { return exp(t); }, x));
  const InferenceMode serving;
  backward(y);
  EXPECT_TRUE(x.grad().defined());
}

TEST(Scopes, DeviceOfABlock) {
  Device& before = default_device();
  {
    DeviceScope scope(trace_device());
    EXPECT_EQ(&zeros({2}).device(), &trace_device());
    {
      DeviceScope inner(cpu());
      EXPECT_EQ(&rand({2}).device(), &cpu());
    }
    EXPECT_EQ(&Tensor::empty({2}).device(), &trace_device());
    set_default_device(cpu());  // of the threads without a scope
    EXPECT_EQ(&default_device(), &trace_device());
    set_default_device(before);
  }
  EXPECT_EQ(&default_device(), &before);
}

TEST(Scopes, GeneratorOfABlock) {
  const GeneratorState outside = default_generator().state();
  const auto draw = [](uint64_t seed) {
    GeneratorScope scope(seed);
    return rand({4});
  };
  EXPECT_EQ(difference(draw(3), draw(3)), "");
  EXPECT_NE(difference(draw(3), draw(4)), "");
  EXPECT_EQ(default_generator().state(), outside);
  // A generator given to two scopes goes on where it stood.
  const Generator g(3);
  Tensor first, second;
  {
    GeneratorScope scope(g);
    first = rand({4});
    {
      GeneratorScope inner(9);
      rand({4});
    }
    second = rand({4});
  }
  EXPECT_EQ(g.state(), (GeneratorState{3, 2}));
  EXPECT_EQ(difference(first, draw(3)), "");
  EXPECT_NE(difference(first, second), "");
}

// Two threads in step: each enters its scopes, then looks while the other's are open.
TEST(Scopes, BelongToTheirThread) {
  std::barrier together(2);
  Tensor x = full({2}, 2).requires_grad_();
  const GeneratorState outside = default_generator().state();
  Tensor drawn;
  std::thread other([&] {
    const NoGrad off;
    const DeviceScope device(trace_device());
    const GeneratorScope generator(5);
    const SavedTensorHooksScope hooks({[](const Tensor& t) { return std::any(t); },
                                       [](const std::any& t) { return std::any_cast<const Tensor&>(t); }});
    const AnomalyMode anomaly;
    set_fusion(false);
    together.arrive_and_wait();
    EXPECT_FALSE(grad_enabled());
    EXPECT_EQ(&default_device(), &trace_device());
    drawn = rand({3}, {.device = &cpu()});
    together.arrive_and_wait();
    {
      const InferenceMode serving;
      together.arrive_and_wait();
      EXPECT_TRUE(InferenceMode::enabled());
      together.arrive_and_wait();
    }
    set_fusion(true);
  });
  together.arrive_and_wait();
  EXPECT_TRUE(grad_enabled());
  EXPECT_EQ(&default_device(), &cpu());
  EXPECT_EQ(default_generator().state(), outside);
  EXPECT_EQ(SavedTensorHooksScope::current(), nullptr);
  EXPECT_TRUE(fusion_enabled());
  EXPECT_TRUE((x * x).requires_grad());
  const Tensor nan = grad({sum(x * NAN)}, {x})[0];  // no anomaly here
  EXPECT_TRUE(std::isnan(numbers(nan)[0]));
  together.arrive_and_wait();
  EXPECT_EQ(default_generator().state(), outside);
  together.arrive_and_wait();
  EXPECT_FALSE(InferenceMode::enabled());
  EXPECT_TRUE((x * x).requires_grad());
  together.arrive_and_wait();
  other.join();
  const GeneratorScope same(5);
  EXPECT_EQ(difference(drawn, rand({3})), "");
  // A new thread starts without any of this thread's.
  const NoGrad off;
  const DeviceScope device(trace_device());
  std::thread([&] {
    EXPECT_TRUE(grad_enabled());
    EXPECT_EQ(&default_device(), &cpu());
    EXPECT_NE(default_generator().state().seed, 5u);
  }).join();
}

}  // namespace
}  // namespace flame
