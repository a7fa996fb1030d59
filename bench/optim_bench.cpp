// Optimizer steps over 10 M float32 parameters in 76 tensors: `optim_bench NAME [--threads N]` prints one JSON line with
// seconds a step and the least bytes it moves. bench/optimizers.py runs it in turn with PyTorch.
#include <flame/flame.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

using namespace flame;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int layers = 38;  // each a matrix of 512 x 512 and a bias

std::vector<Parameter> parameters() {
  manual_seed(1);
  std::vector<Parameter> out;
  for (int i = 0; i < layers; ++i)
    for (const Shape& s : {Shape{512, 512}, Shape{512}}) {
      out.emplace_back(randn(s));
      out.back().set_grad(randn(s));
      out.back().grad().data();
    }
  return out;
}

struct Workload {
  optim::Optimizer (*make)(const std::vector<Parameter>&);
  double bytes;  // a parameter: each input once, each output once
};
const std::map<std::string, Workload> workloads = {
    {"adamw", {[](const auto& p) -> optim::Optimizer { return optim::AdamW(p); }, 28}},
    {"sgd", {[](const auto& p) -> optim::Optimizer { return optim::SGD(p, {.momentum = 0.9}); }, 20}},
    {"lion", {[](const auto& p) -> optim::Optimizer { return optim::Lion(p, {.weight_decay = 0.01}); }, 20}},
    {"adafactor", {[](const auto& p) -> optim::Optimizer { return optim::Adafactor(p); }, 12}},
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}
template <class F>
double seconds(const F& fn) {
  for (int i = 0; i < 5; ++i) fn();
  std::vector<double> times;
  const auto begin = Clock::now();
  while (times.size() < 50 || Clock::now() - begin < std::chrono::seconds(3)) {
    const auto start = Clock::now();
    fn();
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  return median(times);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  if (argc > 3 && std::strcmp(argv[2], "--threads") == 0) set_num_threads(std::atoi(argv[3]));
  const int64_t elements = layers * (512 * 512 + 512);
  if (name == "copy") {  // as many bytes as AdamW moves, by the library's own copy of a tensor
    const Tensor x = randn({elements * 7 / 2});
    x.data();
    const double s = seconds([&] { (x + 0.0).data(); });
    std::printf("{\"seconds\": %.6g, \"bytes\": %.6g}\n", s, 8.0 * static_cast<double>(x.numel()));
    return 0;
  }
  const auto w = workloads.find(name);
  if (w == workloads.end()) {
    std::fprintf(stderr, "usage: optim_bench adamw|sgd|lion|adafactor|copy [--threads N]\n");
    return 2;
  }
  const std::vector<Parameter> p = parameters();
  optim::Optimizer opt = w->second.make(p);
  const double s = seconds([&] { opt.step({.keep_gradients = true}); });
  std::printf("{\"seconds\": %.6g, \"bytes\": %.6g}\n", s, w->second.bytes * static_cast<double>(elements));
}
