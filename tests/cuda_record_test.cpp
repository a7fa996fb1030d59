// Recorded steps as CUDA graphs: the bits of eager steps over hundreds of them, arguments wherever they lie, numbers that
// change, several threads, failures that change nothing, and errors that name what a graph launched.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include "flame/device/device_scope.h"
#include "flame/device/kernel.h"
#include "flame/ops/cuda_kernel.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"
#include "tests/support/deterministic.h"

namespace flame {
namespace {

using namespace test;

Tensor batch(Device& d, const Shape& s, int step) {
  std::vector<float> v(static_cast<size_t>(numel(s)));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>((i * 37 + static_cast<size_t>(step) * 101) % 127) / 32 - 1.5f;
  return Tensor::from(v, s, d);
}
Tensor classes(Device& d, int64_t n, int step) {
  std::vector<int64_t> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int64_t>(i * 5 + static_cast<size_t>(step) * 3) % 5;
  return Tensor::from(v, {n}, d);
}

struct Cnn : nn::Module {
  nn::Conv2d conv{*this, "conv", {.in = 2, .out = 8, .kernel = 3, .padding = 1}};
  nn::BatchNorm2d norm{*this, "norm", {.channels = 8}};
  nn::Dropout drop{*this, "drop", {.p = 0.3}};
  nn::Linear head{*this, "head", {.in = 8 * 4 * 4, .out = 5}};
  Tensor forward(const Tensor& x) { return head(drop(max_pool2d(relu(norm(conv(x))), {.kernel = 2}).flatten(1))); }
  static Shape input() { return {16, 2, 8, 8}; }
};
struct Mlp : nn::Module {
  nn::Linear a{*this, "a", {.in = 24, .out = 40}}, b{*this, "b", {.in = 40, .out = 5}};
  Tensor forward(const Tensor& x) { return b(dropout(gelu(a(x)), 0.2)); }
  static Shape input() { return {16, 24}; }
};
struct Transformer : nn::Module {
  nn::TransformerEncoderLayer layer{*this, "layer", {.width = 32, .heads = 2, .hidden = 64, .batch_first = true}};
  nn::Linear head{*this, "head", {.in = 32, .out = 5}};
  Tensor forward(const Tensor& x) { return head(layer(x).mean(Axes{1})); }
  static Shape input() { return {16, 6, 32}; }
};

// Everything that carries state from step to step.
template <class Net>
struct Trainer {
  Generator generator{11};
  GeneratorScope scope{generator};
  Net net;
  optim::AdamW opt{net.parameters(), {.lr = 0.01}};
  optim::EMA average{net, {.decay = 0.9, .warmup = true}};
  bool clips = true;
  Trainer() { opt.set_schedule(optim::OneCycle{.max_lr = 0.02, .total_steps = 300}); }

  std::vector<Tensor> step(const Tensor& x, const Tensor& y) {
    const Tensor loss = cross_entropy(net.forward(x), y);
    backward(loss);
    const Tensor norm = clips ? optim::clip_grad_norm(net.parameters(), 0.5) : loss;
    opt.step();
    average.update();
    return {loss, norm};
  }
  std::vector<std::pair<std::string, Tensor>> state() const {
    std::vector<std::pair<std::string, Tensor>> all;
    for (const auto& [name, s] : net.state_dict()) all.emplace_back(name, s.tensor());
    for (const auto& [name, t] : opt.state_dict()) all.emplace_back("optimizer " + name, t);
    for (const auto& [name, t] : average.state_dict()) all.emplace_back("average " + name, t);
    return all;
  }
};
template <class T>
void expect_equal_state(const T& a, const T& b, const std::string& when) {
  ASSERT_EQ(a.generator.state(), b.generator.state()) << when;
  const auto x = a.state(), y = b.state();
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i)
    ASSERT_EQ(difference(x[i].second, y[i].second), "") << x[i].first << " " << when;
}
template <class T, class F>
auto with(T& t, F&& fn) {
  const GeneratorScope scope(t.generator);
  return fn();
}

template <class Net>
void expect_equal_to_eager(Device& d, int steps, int lanes = 0) {
  const Deterministic bits;
  const DeviceScope device(d);
  auto eager = std::make_unique<Trainer<Net>>(), recorded = std::make_unique<Trainer<Net>>();
  auto step = record([&](const Tensor& x, const Tensor& y) { return recorded->step(x, y); }, {.lanes = lanes});
  std::vector<Tensor> kept;  // so that batches come at changing addresses
  const uint64_t before = stats().graph_launches;
  for (int i = 0; i < steps; ++i) {
    const Tensor x = batch(d, Net::input(), i), y = classes(d, Net::input()[0], i);
    if (i % 3 == 0) kept.insert(kept.end(), {x, y});
    if (kept.size() > 8) kept.erase(kept.begin(), kept.begin() + 4);
    const auto a = with(*eager, [&] { return eager->step(x, y); });
    const auto b = with(*recorded, [&] { return step(x, y); });
    const std::string when = "at step " + std::to_string(i);
    for (size_t k = 0; k < a.size(); ++k) ASSERT_EQ(difference(a[k], b[k]), "") << "result " << k << " " << when;
    expect_equal_state(*eager, *recorded, when);
    if (testing::Test::HasFatalFailure()) return;
  }
  const RecordStats& s = step.stats();
  EXPECT_EQ(s.replays, static_cast<uint64_t>(steps - 2)) << s.last_miss;
  EXPECT_EQ(s.recordings, 1u);
  EXPECT_EQ(s.misses, 0u) << s.last_miss;
  EXPECT_EQ(stats().graph_launches - before, static_cast<uint64_t>(steps - 2));
  std::printf("a graph of %zu launches, %zu bytes of arena\n", s.launches, s.arena_bytes);
}

TEST(CudaRecord, ACnnEqualsEagerAtEveryStep) {
  FLAME_NEEDS_GPU(d);
  expect_equal_to_eager<Cnn>(d, quick() ? 20 : 200);
}
TEST(CudaRecord, AnMlpEqualsEagerAtEveryStep) {
  FLAME_NEEDS_GPU(d);
  expect_equal_to_eager<Mlp>(d, quick() ? 20 : 200);
}
TEST(CudaRecord, ATransformerEqualsEagerAtEveryStep) {
  FLAME_NEEDS_GPU(d);
  expect_equal_to_eager<Transformer>(d, quick() ? 20 : 200);
}

TEST(CudaRecord, LanesEqualEagerAtEveryStep) {
  FLAME_NEEDS_GPU(d);
  for (const int lanes : {1, 4}) {
    expect_equal_to_eager<Cnn>(d, 40, lanes);
    expect_equal_to_eager<Mlp>(d, 40, lanes);
    expect_equal_to_eager<Transformer>(d, 40, lanes);
  }
}

// The comparison above must tell another seed and a step without clipping apart.
TEST(CudaRecord, AnotherSeedAndAStepWithoutClippingAreToldApart) {
  FLAME_NEEDS_GPU(d);
  const Deterministic bits;
  const DeviceScope device(d);
  std::vector<Tensor> weights;
  for (const auto& [seed, clips] : {std::pair(11, true), {11, true}, {12, true}, {11, false}}) {
    Trainer<Mlp> t;
    t.generator.manual_seed(static_cast<uint64_t>(seed));
    t.clips = clips;
    auto step = record([&](const Tensor& x, const Tensor& y) { return t.step(x, y); });
    for (int i = 0; i < 6; ++i) step(batch(d, Mlp::input(), i), classes(d, 16, i));
    weights.push_back(t.net.b.weight.tensor() + 0.0);
  }
  EXPECT_EQ(difference(weights[0], weights[1]), "");
  EXPECT_NE(difference(weights[0], weights[2]), "");
  EXPECT_NE(difference(weights[0], weights[3]), "");
}

TEST(CudaRecord, AWarmReplayIsOneLaunchAndAsksForNothing) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope device(d);
  Trainer<Cnn> t;
  auto step = record([&](const Tensor& x, const Tensor& y) { return t.step(x, y); });
  std::vector<std::pair<Tensor, Tensor>> batches;
  for (int i = 0; i < 3; ++i) batches.emplace_back(batch(d, Cnn::input(), i), classes(d, 16, i));
  for (size_t i = 0; i < 6; ++i) step(batches[i % 3].first, batches[i % 3].second);
  d.synchronize();
  const Stats before = stats();
  const MemoryStats memory = memory_stats(d);
  for (size_t i = 0; i < 9; ++i) step(batches[i % 3].first, batches[i % 3].second);
  const Stats after = stats();
  EXPECT_EQ(after.replays - before.replays, 9u);
  EXPECT_EQ(after.graph_launches - before.graph_launches, 9u);
  EXPECT_EQ(after.launches, before.launches);
  EXPECT_EQ(after.system_allocations, before.system_allocations);
  EXPECT_EQ(after.plans_prepared, before.plans_prepared);
  EXPECT_EQ(after.host_copies, before.host_copies);
  EXPECT_EQ(memory_stats(d).allocated, memory.allocated);
}

// Products read their argument where it is copied to; kernels of ours are told where it is.
TEST(CudaRecord, ArgumentsMayLieAnywhere) {
  FLAME_NEEDS_GPU(d);
  const Deterministic bits;
  const DeviceScope device(d);
  const Tensor w = batch(d, {4, 4}, 3), all = batch(d, {40}, 5);
  const State state(batch(d, {4, 4}, 6));
  auto step = record([&](const Tensor& x, const Tensor& y) {
    return std::vector<Tensor>{matmul(x, w), exp(y), y, sum(x * y)};
  });
  const auto expect_step = [&](const Tensor& x, const Tensor& y) {
    const std::vector<Tensor> wanted{matmul(x, w) + 0.0, exp(y) + 0.0, y + 0.0, sum(x * y) + 0.0};
    for (const Tensor& t : wanted) t.to_vector<float>();
    const std::vector<Tensor> out = step(x, y);
    for (size_t i = 0; i < wanted.size(); ++i) EXPECT_EQ(difference(out[i], wanted[i]), "") << i;
    return out;
  };
  for (int i = 0; i < 4; ++i) expect_step(batch(d, {4, 4}, i), batch(d, {4, 4}, i + 1));
  const Tensor x = batch(d, {4, 4}, 1), y = batch(d, {4, 4}, 2);
  std::vector<Tensor> out = expect_step(x, y);
  out = expect_step(y, x);
  out = expect_step(x, x);
  out = expect_step(out[0], out[1]);
  out = expect_step(state.tensor(), state.tensor());
  for (int64_t i = 0; i < 7; ++i)
    out = expect_step(all.narrow(0, i, 16).reshape({4, 4}), all.narrow(0, 9 - i, 16).reshape({4, 4}));
  EXPECT_EQ(step.stats().misses, 0u) << step.stats().last_miss;
  EXPECT_EQ(step.stats().replays, 14u);
}

TEST(CudaRecord, ManyShapesAreManyGraphsAndTheOldestLeaves) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope device(d);
  const size_t recordings = memory_stats(d).recordings;
  {
    auto step = record([](const Tensor& x) { return sum(x * 3, Axes{1}); }, {.max_recordings = 3});
    size_t most = 0;
    for (int round = 0; round < 3; ++round)
      for (int64_t n = 1; n <= 5; ++n)
        for (int i = 0; i < 4; ++i) {
          const Tensor x = batch(d, {100 * n, 64}, i);
          EXPECT_EQ(difference(step(x), sum(x * 3, Axes{1})), "");
          most = std::max(most, memory_stats(d).recordings - recordings);
        }
    EXPECT_EQ(step.stats().recordings, 15u);
    EXPECT_EQ(step.stats().replays, 30u);
    EXPECT_LE(most, size_t{3} * 512 * 64 * 4 * 2);
  }
  d.synchronize();
  EXPECT_EQ(memory_stats(d).recordings, recordings);
}

TEST(CudaRecord, NoMemoryForTheGraphIsAMissAndTheNextCallTriesAgain) {
  FLAME_NEEDS_GPU(d);
  const Deterministic bits;
  const DeviceScope device(d);
  auto eager = std::make_unique<Trainer<Mlp>>(), recorded = std::make_unique<Trainer<Mlp>>();
  auto step = record([&](const Tensor& x, const Tensor& y) { return recorded->step(x, y); });
  for (int i = 0; i < 10; ++i) {
    const Tensor x = batch(d, Mlp::input(), i), y = classes(d, 16, i);
    with(*eager, [&] { eager->step(x, y); });
    with(*recorded, [&] {
      if (i == 1) fail_driver(1, 4);
      if (i == 6) {
        fail_driver(1, 4);  // of the launch
        EXPECT_THROW(step(x, y), OutOfMemory);
        fail_driver(0, 0);
      }
      step(x, y);
      fail_driver(0, 0);
    });
    expect_equal_state(*eager, *recorded, "at step " + std::to_string(i));
    EXPECT_EQ(step.stats().recordings, i < 2 ? 0u : 1u) << step.stats().last_miss;
  }
  EXPECT_EQ(step.stats().misses, 1u) << step.stats().last_miss;
  EXPECT_NE(step.stats().last_miss.find("emory"), std::string::npos) << step.stats().last_miss;
}

TEST(CudaRecord, AFrozenNumberIsCaught) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope device(d);
  float factor = 1;
  auto scaled = record([&](const Tensor& x) { return x * factor + 1; });
  scaled(batch(d, {3}, 0));
  factor = 2;
  EXPECT_THROW(scaled(batch(d, {3}, 0)), RecordError);
  // A number that goes round the library is seen by `verify` alone.
  float bias = 0;
  const State hidden(zeros({2}));
  auto wrong = record(
      [&](const Tensor& x) {
        d.copy_from_host(hidden.value().storage->data(), &bias, sizeof bias);
        return x + hidden.tensor();
      },
      {.verify = 1});
  for (int i = 0; i < 4; ++i) wrong(batch(d, {2}, i));
  bias = 5;
  EXPECT_THROW(wrong(batch(d, {2}, 0)), RecordError);
}

TEST(CudaRecord, VerifyRunsStepsBothWays) {
  FLAME_NEEDS_GPU(d);
  const Deterministic bits;
  const DeviceScope device(d);
  auto plain = std::make_unique<Trainer<Cnn>>(), checked = std::make_unique<Trainer<Cnn>>();
  auto step = record([&](const Tensor& x, const Tensor& y) { return checked->step(x, y); }, {.verify = 2});
  for (int i = 0; i < 9; ++i) {
    const Tensor x = batch(d, Cnn::input(), i), y = classes(d, 16, i);
    with(*plain, [&] { plain->step(x, y); });
    with(*checked, [&] { step(x, y); });
    expect_equal_state(*plain, *checked, "at step " + std::to_string(i));
  }
  EXPECT_EQ(step.stats().replays, 7u);
}

// Threads record and replay on one device, while another launches single ops on it.
TEST(CudaRecord, ThreadsRecordBesideEachOther) {
  FLAME_NEEDS_GPU(d);
  const Deterministic bits;
  const auto train = [&](uint64_t seed) {
    const DeviceScope device(d);
    Trainer<Cnn> t;
    t.generator.manual_seed(seed);
    auto step = record([&](const Tensor& x, const Tensor& y) { return t.step(x, y); });
    for (int i = 0; i < 12; ++i) step(batch(d, Cnn::input(), i), classes(d, 16, i));
    EXPECT_EQ(step.stats().replays, 10u) << step.stats().last_miss;
    return numbers(t.net.head.weight.tensor());
  };
  std::vector<std::vector<double>> alone, beside(3);
  for (uint64_t s = 0; s < 3; ++s) alone.push_back(train(s));
  std::atomic<bool> done{false};
  std::thread other([&] {
    const DeviceScope device(d);
    const Tensor a = batch(d, {16, 16}, 1);
    const std::vector<double> wanted = numbers(matmul(a, a));
    while (!done) EXPECT_EQ(numbers(matmul(a, a)), wanted);
  });
  std::vector<std::thread> all;
  for (uint64_t s = 0; s < 3; ++s) all.emplace_back([&, s] { beside[s] = train(s); });
  for (std::thread& t : all) t.join();
  done = true;
  other.join();
  EXPECT_EQ(beside, alone);
}

// Batches that the loader's workers copy on a stream of their own are there when the graph reads them.
TEST(CudaRecord, ReadsBatchesOfALoader) {
  FLAME_NEEDS_GPU(d);
  Tensor rows, ids;
  {
    const DeviceScope host(cpu());
    rows = batch(cpu(), {640, 24}, 1);
    std::vector<int64_t> v(640);
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int64_t>(i);
    ids = Tensor::from(v, {640}, cpu());
  }
  const DeviceScope device(d);
  const Tensor here = rows.to(d), w = batch(d, {24, 8}, 2);
  auto step = record([&](const Tensor& x, const Tensor& i) {
    return sum(abs(x - index_select(here, 0, i))) + sum(abs(matmul(x, w) - matmul(index_select(here, 0, i), w)));
  });
  data::DataLoader<2> loader(data::TensorDataset({rows, ids}), {.batch = 16, .shuffle = true, .device = &d});
  for (int epoch = 0; epoch < 4; ++epoch)
    for (auto& [x, i] : loader) EXPECT_EQ(step(x, i).item(), 0);
  EXPECT_EQ(step.stats().replays, 158u) << step.stats().last_miss;
}

TEST(CudaRecord, ABadIndexShowsAtTheNextWait) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope device(d);
  const Tensor table = batch(d, {10, 4}, 1);
  auto step = record([&](const Tensor& i) { return index_select(table, 0, i) * 2; });
  const auto rows = [&](int64_t i) { return Tensor::from(std::vector<int64_t>{1, i}, {2}, d); };
  for (int i = 0; i < 4; ++i) step(rows(i));
  d.synchronize();
  step(rows(77));
  EXPECT_THROW(d.synchronize(), IndexError);
  EXPECT_EQ(difference(step(rows(3)), index_select(table, 0, rows(3)) * 2), "");
  EXPECT_EQ(step.stats().replays, 4u);
}

TEST(DISABLED_CudaRecordWorker, Sticky) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope device(d);
  const CudaKernel wild(
      "extern \"C\" __global__ void wild(const float* x, float* out) { out[x[0] > 5 ? 1ll << 40 : 0] = 1; }", "wild");
  auto step = record([&](const Tensor& x) { return exp(wild({.threads = 1}, x, KernelOutput{{1}})); });
  std::string first, second;
  try {
    for (int i = 0; i < 4; ++i) step(full({1}, i)).to_vector<float>();
    step(full({1}, 9));
    d.synchronize();
  } catch (const DeviceError& e) { first = e.what(); }
  try {
    step(full({1}, 1));
  } catch (const DeviceError& e) { second = e.what(); }
  std::printf("worker: %llu replays | %s | %s |\n", static_cast<unsigned long long>(step.stats().replays),
              first.c_str(), second.c_str());
  std::fflush(stdout);
  std::_Exit(0);
}
TEST(CudaRecord, AStickyErrorNamesTheLaunchesOfTheStep) {
  FLAME_NEEDS_GPU(d);
  const Output out = run_worker("DISABLED_CudaRecordWorker.Sticky");
  EXPECT_NE(out.text.find("worker: 3 replays | "), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("'wild' of a recorded step"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("cannot be used any more"), std::string::npos) << out.text;
}

TEST(DISABLED_CudaRecordWorker, LaunchByLaunch) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope device(d);
  auto step = record([&](const Tensor& x) { return sum(exp(x)); });
  float last = 0;
  for (int i = 0; i < 5; ++i) last = static_cast<float>(step(batch(d, {7}, i)).item());
  std::printf("worker: %llu replays, %llu graphs, right %d\n", static_cast<unsigned long long>(step.stats().replays),
              static_cast<unsigned long long>(stats().graph_launches),
              last == static_cast<float>(sum(exp(batch(d, {7}, 4))).item()));
}
TEST(CudaRecord, GoesLaunchByLaunchWhereEveryOpIsWaitedFor) {
  FLAME_NEEDS_GPU(d);
  EXPECT_NE(
      run_worker("DISABLED_CudaRecordWorker.LaunchByLaunch", "FLAME_SYNC=1").text.find("3 replays, 0 graphs, right 1"),
      std::string::npos);
  EXPECT_NE(run_worker("DISABLED_CudaRecordWorker.LaunchByLaunch").text.find("3 replays, 3 graphs, right 1"),
            std::string::npos);
  EXPECT_NE(run_worker("DISABLED_CudaRecordWorker.LaunchByLaunch", "FLAME_CUDA_DIRECT=1")
                .text.find("3 replays, 3 graphs, right 1"),
            std::string::npos);
}

// Draws of all kinds, a permutation (kernels, fills and copies) and several optimizers in one step.
TEST(CudaRecord, NumbersThatChangeWithinAStep) {
  FLAME_NEEDS_GPU(d);
  const Deterministic bits;
  const DeviceScope device(d);
  struct Both {
    Generator generator{5};
    Parameter a{full({40}, 1)}, b{full({40}, 1)};
    optim::SGD first{{a}, {.lr = 0.1, .momentum = 0.9}};
    optim::Adam second{{b}, {.lr = 0.01}};
    Both() { first.set_schedule(optim::CosineAnnealing{.lr = 0.1, .steps = 20}); }
    std::vector<Tensor> step(const Tensor& x) {
      std::vector<Tensor> out;
      for (int i = 0; i < 2; ++i) {
        backward(sum(square(a.tensor() * x + b.tensor() * rand({40}))));
        first.step();
        second.step({.keep_gradients = false});
        out.push_back(randn({40}) + randint(0, 9, {40}).to(DType::f32));
      }
      out.push_back(randperm(3000));
      out.push_back(a.tensor() + 0.0);
      out.push_back(b.tensor() + 0.0);
      return out;
    }
  };
  Both eager, recorded;
  auto step = record([&](const Tensor& x) { return recorded.step(x); });
  for (int i = 0; i < 15; ++i) {
    const Tensor x = batch(d, {40}, i);
    const auto wanted = with(eager, [&] { return eager.step(x); });
    const auto got = with(recorded, [&] { return step(x); });
    for (size_t k = 0; k < wanted.size(); ++k) ASSERT_EQ(difference(got[k], wanted[k]), "") << k << " at step " << i;
    EXPECT_EQ(eager.generator.state(), recorded.generator.state());
    EXPECT_EQ(eager.first.step_count(), recorded.first.step_count());
  }
  EXPECT_EQ(step.stats().replays, 13u) << step.stats().last_miss;
}

// k steps a launch on rows drawn on the GPU: the bits of single steps, and the CPU's rows.
TEST(CudaRecord, RepeatedStepsEqualSingleOnes) {
  FLAME_NEEDS_GPU(d);
  const Deterministic bits;
  const DeviceScope device(d);
  constexpr int k = 5, calls = 12;
  const std::vector<Tensor> data{batch(d, {200, 2, 8, 8}, 1), classes(d, 200, 2)};
  DeviceBatches one(data, {.batch = 16, .seed = 9}), many(data, {.batch = 16, .seed = 9}),
      host({data[0].to(cpu()), data[1].to(cpu())}, {.batch = 16, .seed = 9});
  auto single = std::make_unique<Trainer<Cnn>>(), repeated = std::make_unique<Trainer<Cnn>>();
  auto steps = repeat(
      k, [&](const Tensor& x, const Tensor& y) { return repeated->step(x, y)[0]; }, many);
  const uint64_t before = stats().graph_launches;
  for (int i = 0; i < calls; ++i) {
    std::vector<Tensor> losses;
    with(*single, [&] {
      for (int n = 0; n < k; ++n) {
        const std::vector<Tensor> rows = one.next(), there = host.next();
        EXPECT_EQ(difference(rows[0].to(cpu()), there[0]), "");
        EXPECT_EQ(difference(rows[1].to(cpu()), there[1]), "");
        losses.push_back(single->step(rows[0], rows[1])[0].detach());
      }
    });
    const Tensor got = with(*repeated, [&] { return steps(); });
    ASSERT_EQ(difference(got, stack(losses)), "") << "call " << i;
    expect_equal_state(*single, *repeated, "after call " + std::to_string(i));
  }
  EXPECT_EQ(steps.stats().replays, calls - 2u) << steps.stats().last_miss;
  EXPECT_EQ(stats().graph_launches - before, calls - 2u);
}

// Rows of any size at any address.
TEST(CudaRecord, BatchesAreTheCpus) {
  FLAME_NEEDS_GPU(d);
  std::vector<int64_t> v(1000);
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int64_t>(i * 7919 % 251);
  const Tensor ids = Tensor::from(v, {1000}, cpu());
  const auto wide = [&](const Shape& s, DType t) {
    const DeviceScope host(cpu());
    return (arange(numel(s)) * 17).to(t).reshape(s);
  };
  const std::vector<Tensor> here{ids,
                                 ids.to(DType::u8),
                                 wide({1000, 3}, DType::u8),
                                 wide({1000, 5}, DType::f16),
                                 wide({1000, 257}, DType::f32),
                                 wide({1000, 2, 0}, DType::f32),
                                 wide({1000, 9000}, DType::u8)};
  std::vector<Tensor> there;
  for (const Tensor& t : here) there.push_back(t.to(d));
  for (const bool shuffle : {true, false}) {
    DeviceBatches a(here, {.batch = 300, .shuffle = shuffle, .seed = 2}),
        b(there, {.batch = 300, .shuffle = shuffle, .seed = 2});
    for (int i = 0; i < 5; ++i) {
      const std::vector<Tensor> x = a.next(), y = b.next();
      for (size_t k = 0; k < x.size(); ++k) EXPECT_EQ(difference(x[k], y[k].to(cpu())), "") << k;
    }
  }
}

struct Classifier : nn::Module {
  nn::Linear a{*this, "a", {.in = 784, .out = 256}}, b{*this, "b", {.in = 256, .out = 256}},
      c{*this, "c", {.in = 256, .out = 10}};
  Tensor forward(const Tensor& x) { return c(relu(b(relu(a(x))))); }
};
struct SmallCnn : nn::Module {
  nn::Conv2d a{*this, "a", {.in = 1, .out = 32, .kernel = 3, .padding = 1}},
      b{*this, "b", {.in = 32, .out = 64, .kernel = 3, .padding = 1}};
  nn::Linear c{*this, "c", {.in = 64 * 7 * 7, .out = 10}};
  Tensor forward(const Tensor& x) {
    const Tensor first = max_pool2d(relu(a(x.reshape({-1, 1, 28, 28}))), {.kernel = 2});
    return c(max_pool2d(relu(b(first)), {.kernel = 2}).flatten(1));
  }
};

// Microseconds of the host and in all, a call and a step in a repeat.
template <class Net>
double report_times(Device& d, const char* name) {
  const auto micros = [&](auto&& fn, int times, bool wait) {
    d.synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) fn();
    if (wait) d.synchronize();
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    return took.count() / times;
  };
  const Tensor images = rand({5000, 784}), labels = randint(0, 10, {5000});
  std::vector<std::pair<Tensor, Tensor>> batches;
  for (int64_t i = 0; i < 4; ++i)
    batches.emplace_back(images.narrow(0, 128 * i, 128) + 0.0, labels.narrow(0, 128 * i, 128) + 0);
  for (const auto& [x, y] : batches) x.data(), y.data();
  double least = 1e9;
  for (const int lanes : {1, 2, 3, 4}) {
    manual_seed(1);
    Net net;
    optim::AdamW opt{net.parameters(), {.lr = 1e-3}};
    const auto train = [&](const Tensor& x, const Tensor& y) {
      const Tensor loss = cross_entropy(net.forward(x), y);
      backward(loss);
      opt.step();
      return loss;
    };
    constexpr int k = 16;
    auto step = record(train, {.lanes = lanes});
    auto steps = repeat(k, train, DeviceBatches({images, labels}, {.batch = 128}), {.lanes = lanes});
    size_t at = 0;
    const auto one = [&] {
      const auto& [x, y] = batches[at++ % batches.size()];
      step(x, y);
    };
    for (int i = 0; i < 20; ++i) one();
    for (int i = 0; i < 4; ++i) steps();
    double host = 1e9, each = 1e9, host_repeated = 1e9, repeated = 1e9;
    for (int round = 0; round < 3; ++round) {
      host = std::min(host, micros(one, 20, false));
      each = std::min(each, micros(one, 500, true));
      host_repeated = std::min(host_repeated, micros(steps, 3, false) / k);
      repeated = std::min(repeated, micros(steps, 50, true) / k);
    }
    std::printf(
        "%s, %d lanes, %zu launches: a call %.1f us of the host, %.1f in all; one of %d in a launch %.1f and %.1f\n",
        name, lanes, step.stats().launches, host, each, k, host_repeated, repeated);
    EXPECT_EQ(step.stats().misses + steps.stats().misses, 0u);
    least = std::min(least, host);
  }
  return least;
}

// What a call costs the host while the GPU is behind. The bound is far above what is seen.
TEST(CudaRecord, AReplayCostsTheHostFewMicroseconds) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope device(d);
  set_matmul_precision("high");
  EXPECT_LT(report_times<Classifier>(d, "mlp"), 60);
  EXPECT_LT(report_times<SmallCnn>(d, "cnn"), 60);
  set_matmul_precision("highest");
}

Device* second_gpu(std::string& why) {
  try {
    return &device("cuda:1");
  } catch (const DeviceError& e) { why = e.what(); }
  return nullptr;
}

TEST(CudaTwo, RecordedStepsOnEach) {
  FLAME_NEEDS_GPU(d);
  std::string why;
  Device* other = second_gpu(why);
  if (!other) GTEST_SKIP() << "one GPU: " << why;
  const Deterministic bits;
  const auto train = [&](Device& on) {
    const DeviceScope scope(on);
    Trainer<Mlp> t;
    auto step = record([&](const Tensor& x, const Tensor& y) { return t.step(x, y); });
    for (int i = 0; i < 8; ++i) step(batch(on, Mlp::input(), i), classes(on, 16, i));
    EXPECT_EQ(step.stats().replays, 6u) << step.stats().last_miss;
    return numbers(t.net.b.weight.tensor());
  };
  std::vector<double> here, there;
  std::thread a([&] { here = train(d); }), b([&] { there = train(*other); });
  a.join();
  b.join();
  EXPECT_EQ(here, there);
}

TEST(CudaTwo, RecordedStepsOnBothStayEager) {
  FLAME_NEEDS_GPU(d);
  std::string why;
  Device* other = second_gpu(why);
  if (!other) GTEST_SKIP() << "one GPU: " << why;
  const State here(zeros({3}, DType::f32, d)), there(zeros({3}, DType::f32, *other));
  const Tensor one = ones({3}, DType::f32, *other);
  auto step = record([&](const Tensor& x) {
    there.assign(there.tensor() + one);
    here.assign(here.tensor() + x);
    return x * 2;
  });
  for (int i = 1; i <= 5; ++i) {
    EXPECT_EQ(numbers(step(full({3}, 4, DType::f32, d)))[0], 8);
    EXPECT_EQ(numbers(here.tensor())[0], 4 * i);
    EXPECT_EQ(numbers(there.tensor())[0], i);
  }
  EXPECT_EQ(step.stats().replays, 0u);
  EXPECT_NE(step.stats().last_miss.find("two devices"), std::string::npos) << step.stats().last_miss;
}

}  // namespace
}  // namespace flame
