// What small steps cost the host, gradients on, over tensors so small that the work itself hardly counts:
// `host_bench [--device cpu] [--ops 1000000]` prints a JSON line a workload, the median microseconds of each. A GPU is waited
// for between the timed parts. bench/host.py makes the record.
#include <flame/flame.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

using namespace flame;
using Clock = std::chrono::steady_clock;

namespace {

template <class F>
double microseconds(const F& fn) {
  const auto start = Clock::now();
  fn();
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// The median of what `one` returns, the microseconds of `each` ops together, over so many ops in all.
void report(const char* name, int64_t ops, int64_t each, const std::function<double()>& one) {
  std::vector<double> took;
  for (int64_t i = -100; i < std::max<int64_t>(ops / each, 1); ++i) {
    const double t = one();
    if (i >= 0) took.push_back(t / static_cast<double>(each));
    if (i % 16 == 0) default_device().synchronize();
  }
  const auto middle = took.begin() + static_cast<std::ptrdiff_t>(took.size() / 2);
  std::nth_element(took.begin(), middle, took.end());
  std::printf("{\"workload\": \"%s\", \"microseconds\": %.4f}\n", name, *middle);
  std::fflush(stdout);
}

Tensor weight(const Shape& s) {
  Tensor t = randn(s);
  t.requires_grad_();
  return t;
}

Tensor chain(Tensor y, const Tensor& by, int length) {
  for (int i = 0; i < length; ++i) y = y * by;
  return y;
}

}  // namespace

int main(int argc, char** argv) try {
  int64_t ops = 1'000'000;
  std::string where = "cpu";
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (i + 1 == argc || (flag != "--device" && flag != "--ops")) throw std::invalid_argument("cannot " + flag);
    if (flag == "--ops") ops = std::stoll(argv[i + 1]);
    else where = argv[i + 1];
  }
  set_default_device(device(where));
  manual_seed(0);

  const Tensor x = weight({8}), by = randn({8});
  constexpr int deferred = 30;  // fewer than make an island full
  report("record an op", ops, deferred, [&] {
    Tensor y;  // dropped after the time is taken
    return microseconds([&] { y = chain(x, by, deferred); });
  });
  report("record and drop an op", ops, deferred, [&] { return microseconds([&] { chain(x, by, deferred); }); });
  report("cached flush of 8 ops", ops, 1, [&] {
    const Tensor y = chain(x, by, 8);
    return microseconds([&] { materialize(y.value()); });
  });
  const Tensor a = weight({8, 8}), b = weight({8, 8});
  report("opaque op", ops, 16, [&] {
    std::vector<Tensor> out(16);
    return microseconds([&] {
      for (Tensor& y : out) y = matmul(a, b);
    });
  });

  nn::Sequential net{nn::layer<nn::Linear>({.in = 8, .out = 8}), nn::layer<nn::ReLU>(),
                     nn::layer<nn::Linear>({.in = 8, .out = 8})};
  optim::AdamW optimizer(net.parameters());
  RecordedStep step(
      [&](const std::vector<Tensor>& in) {
        const Tensor loss = square(net(in[0])).mean();
        backward(loss);
        optimizer.step();
        return std::vector<Tensor>{loss.detach()};
      },
      {});
  const std::vector<Tensor> batch{randn({4, 8})};
  report("replay of a training step", ops, 1, [&] { return microseconds([&] { step(batch); }); });
  if (step.stats().misses > 0) throw std::runtime_error("not replayed: " + step.stats().last_miss);
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "host_bench: %s\n", e.what());
  return 1;
}
