// The same seed gives the same bits: random numbers on both devices by hash, and ten trainings of a small CNN and a small
// transformer with caches cleared in between. FLAME_DRAWS=32 hashes 2^32 draws of each kind rather than 2^26.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <set>
#include <thread>

#include <flame/flame.h>

#include "flame/device/device_scope.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;

uint64_t mixed(uint64_t v) {
  v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
  v = (v ^ v >> 27) * 0x94d049bb133111ebull;
  return v ^ v >> 31;
}
// The sum of a hash of every word of 32 bits and its place, which is the same in any order.
uint64_t hash_here(const float* x, int64_t n) {
  const int64_t threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<uint64_t> sums(static_cast<size_t>(threads));
  std::vector<std::thread> all;
  for (int64_t k = 0; k < threads; ++k)
    all.emplace_back([&, k] {
      uint64_t h = 0;
      for (int64_t i = n * k / threads; i < n * (k + 1) / threads; ++i) {
        uint32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        h += mixed(static_cast<uint64_t>(i) << 32 | bits);
      }
      sums[static_cast<size_t>(k)] = h;
    });
  uint64_t h = 0;
  for (int64_t k = 0; k < threads; ++k) {
    all[static_cast<size_t>(k)].join();
    h += sums[static_cast<size_t>(k)];
  }
  return h;
}
const CudaKernel hash_kernel(R"(
extern "C" __global__ void hash(const uint32_t* x, uint64_t* out, int64_t n) {
  uint64_t h = 0;
  for (int64_t i = flame::global_thread(); i < n; i += gridDim.x * 256ll) {
    uint64_t v = static_cast<uint64_t>(i) << 32 | x[i];
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
    v = (v ^ v >> 27) * 0x94d049bb133111ebull;
    h += v ^ v >> 31;
  }
  atomicAdd(out, h);
})",
                             "hash");
uint64_t hash_of(const Tensor& x) {
  if (x.device().host_accessible()) return hash_here(x.span<float>().data(), x.numel());
  const Tensor h = hash_kernel({.blocks = 2048}, x, KernelOutput{{1}, DType::i64, true}, x.numel());
  return static_cast<uint64_t>(h.item<int64_t>());
}

TEST(CudaRepeat, RandomNumbersByHash) {
  FLAME_NEEDS_GPU(d);
  const char* wanted = std::getenv("FLAME_DRAWS");
  const int power = wanted ? std::atoi(wanted) : 26;
  const int64_t chunk = int64_t{1} << std::min(power, 26), chunks = (int64_t{1} << power) / chunk;
  using Draw = Tensor (*)(const Shape&, const RandomOptions&, Loc);
  for (const auto& [name, draw] : std::vector<std::pair<const char*, Draw>>{{"rand", rand}, {"randn", randn}}) {
    const auto hash_on = [&](Device& where) {
      Generator g(11);
      uint64_t h = 0;
      const auto start = std::chrono::steady_clock::now();
      for (int64_t i = 0; i < chunks; ++i) {
        const Tensor x = draw({chunk}, {.device = &where, .generator = &g}, Loc::current());
        x.data();
        h = mixed(h + hash_of(x));
      }
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      std::printf("cuda-random %s 2^%d %s %016llx %.2f s\n", name, power, where.name().c_str(),
                  static_cast<unsigned long long>(h), took.count());
      return h;
    };
    EXPECT_EQ(hash_on(d), hash_on(cpu())) << name;
  }
}

struct Cnn : nn::Module {
  nn::Conv2d first{*this, "first", {.in = 3, .out = 16, .kernel = 3, .padding = 1}};
  nn::BatchNorm2d norm{*this, "norm", {.channels = 16}};
  nn::Conv2d second{*this, "second", {.in = 16, .out = 32, .kernel = 3, .stride = 2, .padding = 1}};
  nn::Linear head{*this, "head", {.in = 32 * 16, .out = 10}};
  Tensor forward(const Tensor& x) {
    const Tensor y = max_pool2d(relu(norm(first(x))), {.kernel = 2});
    return head(dropout(relu(second(y)).flatten(1), 0.1));
  }
};
struct Transformer : nn::Module {
  nn::Embedding words{*this, "words", {.count = 50, .width = 64}};
  nn::TransformerEncoderLayer layer{*this, "layer", {.width = 64, .heads = 4, .hidden = 128, .batch_first = true}};
  nn::Linear head{*this, "head", {.in = 64, .out = 50}};
  Tensor forward(const Tensor& x) { return head(layer(words(x))).flatten(0, 1); }
};

// The same call before and after the switch is there.
template <class Bool>
void set_deterministic_if_there(Bool on) {
  if constexpr (requires { set_deterministic(on); }) set_deterministic(on);
}

// A hash of all weights, buffers and optimizer state after some steps.
template <class Net>
uint64_t trained(Device& d, uint64_t seed, const Shape& shape, int64_t words) {
  d.plans().clear();
  empty_cache(d);
  manual_seed(seed);
  Net net;
  optim::AdamW opt{net.parameters(), {.lr = 1e-3}};
  for (int step = 0; step < 8; ++step) {
    const Tensor x = words ? randint(0, words, shape) : randn(shape);
    const Tensor target = words ? x.flatten() : randint(0, 10, {shape[0]});
    backward(cross_entropy(net.forward(x), target));
    opt.step();
  }
  uint64_t h = 0;
  const auto take = [&](const Tensor& t) {
    for (const unsigned char b : bytes(t)) h = (h ^ b) * 0x100000001b3ull;
  };
  for (const auto& [name, s] : net.state_dict()) take(s.tensor());
  for (const auto& [name, t] : opt.state_dict()) take(t);
  return h;
}
template <class Net>
void expect_one_hash(Device& d, const char* what, const Shape& shape, int64_t words) {
  DeviceScope scope(d);
  set_deterministic_if_there(true);
  std::set<uint64_t> hashes;
  for (int run = 0; run < 10; ++run) hashes.insert(trained<Net>(d, 1, shape, words));
  EXPECT_EQ(hashes.size(), 1u) << what << ": ten runs of one seed";
  EXPECT_EQ(hashes.count(trained<Net>(d, 2, shape, words)), 0u) << what << ": another seed";
  set_deterministic_if_there(false);
  std::printf("cuda-hash %s %016llx\n", what, static_cast<unsigned long long>(*hashes.begin()));
}

TEST(CudaRepeat, TenTrainingsOfACnn) {
  FLAME_NEEDS_GPU(d);
  expect_one_hash<Cnn>(d, "CNN", {32, 3, 16, 16}, 0);
}
TEST(CudaRepeat, TenTrainingsOfATransformer) {
  FLAME_NEEDS_GPU(d);
  expect_one_hash<Transformer>(d, "transformer", {8, 32}, 50);
}

}  // namespace
}  // namespace flame
