// CPU timings of FLAME, one workload a call: `cpu_bench WORKLOAD [--threads N]` prints one JSON line.
// bench/cpu.py runs it in turn with PyTorch and writes the record.
#include <flame/flame.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

using namespace flame;
using Clock = std::chrono::steady_clock;

namespace {

double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// Seconds a call: after a warm-up of `warm` calls, as many as fill `least` seconds, at least ten.
double time_calls(const std::function<void()>& fn, int warm, double least) {
  for (int i = 0; i < warm; ++i) fn();
  int64_t calls = 0;
  const auto start = Clock::now();
  do {
    fn();
    ++calls;
  } while (calls < 10 || seconds_since(start) < least);
  return seconds_since(start) / static_cast<double>(calls);
}
// Best of a few calls: for single kernels over large memory.
double best_of(int n, const std::function<void()>& fn) {
  double best = 1e30;
  for (int i = 0; i < n; ++i) {
    const auto start = Clock::now();
    fn();
    best = std::min(best, seconds_since(start));
  }
  return best;
}

// The CNN and MLP of the peers' file, and the tiny network of the small-step measurement.
struct Cnn : nn::Module {
  nn::Conv2d conv1{*this, "conv1", {.in = 1, .out = 32, .kernel = 3, .padding = 1}};
  nn::Conv2d conv2{*this, "conv2", {.in = 32, .out = 64, .kernel = 3, .padding = 1}};
  nn::Linear fc1{*this, "fc1", {.in = 3136, .out = 128}};
  nn::Linear fc2{*this, "fc2", {.in = 128, .out = 10}};
  Tensor forward(const Tensor& x) {
    Tensor h = max_pool2d(relu(conv1(x)), {.kernel = 2});
    h = max_pool2d(relu(conv2(h)), {.kernel = 2});
    return fc2(relu(fc1(h.flatten(1))));
  }
};
struct Mlp : nn::Module {
  nn::Linear fc1{*this, "fc1", {.in = 784, .out = 256}};
  nn::Linear fc2{*this, "fc2", {.in = 256, .out = 256}};
  nn::Linear fc3{*this, "fc3", {.in = 256, .out = 10}};
  Tensor forward(const Tensor& x) { return fc3(relu(fc2(relu(fc1(x.flatten(1)))))); }
};
struct Tiny : nn::Module {
  nn::Linear fc1{*this, "fc1", {.in = 32, .out = 32}};
  nn::Linear fc2{*this, "fc2", {.in = 32, .out = 1}};
  Tensor forward(const Tensor& x) { return fc2(relu(fc1(x))); }
};

// Six layers of width 256 with 8 heads, over 128 tokens: nn.TransformerEncoderLayer's shape, pre-norm.
struct TransformerBlock : nn::Module {
  TransformerBlock(nn::Module& parent, std::string name) : Module(parent, std::move(name)) {}
  nn::LayerNorm norm1{*this, "norm1", {.normalized = {256}}}, norm2{*this, "norm2", {.normalized = {256}}};
  nn::Linear qkv{*this, "qkv", {.in = 256, .out = 768}}, out{*this, "out", {.in = 256, .out = 256}};
  nn::Linear up{*this, "up", {.in = 256, .out = 1024}}, down{*this, "down", {.in = 1024, .out = 256}};
  Tensor forward(const Tensor& x) {
    const Tensor heads = qkv(norm1(x)).reshape({x.size(0), x.size(1), 3, 8, 32}).permute({2, 0, 3, 1, 4});
    const Tensor a =
        scaled_dot_product_attention(heads.select(0, 0), heads.select(0, 1), heads.select(0, 2), {.causal = true});
    const Tensor y = x + out(a.transpose(1, 2).reshape(x.shape()));
    return y + down(gelu(up(norm2(y))));
  }
};
struct Transformer : nn::Module {
  Transformer() {
    for (int i = 0; i < 6; ++i) blocks.add();
  }
  nn::Param tokens{*this, "tokens", randn({1000, 256}) * 0.02}, positions{*this, "positions", randn({128, 256}) * 0.02};
  nn::ModuleList<TransformerBlock> blocks{*this, "blocks"};
  nn::LayerNorm norm{*this, "norm", {.normalized = {256}}};
  nn::Linear head{*this, "head", {.in = 256, .out = 1000}};
  Tensor forward(const Tensor& x) {
    Tensor y = embedding(tokens.tensor(), x) + positions.tensor();
    for (TransformerBlock& b : blocks) y = b.forward(y);
    return head(norm(y)).flatten(0, 1);
  }
};

double transformer_step(bool recorded) {
  manual_seed(1);
  Transformer net;
  optim::AdamW opt(net.parameters(), {.lr = 1e-4});
  const Tensor x = randint(0, 1000, {16, 128}), y = randint(0, 1000, {16 * 128});
  const auto step = [&](const Tensor& tokens, const Tensor& next) {
    Tensor loss = cross_entropy(net.forward(tokens), next);
    backward(loss);
    opt.step();
    return loss;
  };
  if (!recorded) return time_calls([&] { step(x, y); }, 3, 3);
  auto replayed = record(step);
  return time_calls([&] { replayed(x, y); }, 4, 3);
}

template <class Net>
double classifier_step(bool recorded) {
  manual_seed(1);
  Net net;
  optim::AdamW opt(net.parameters(), {.lr = 1e-4});
  const Tensor x = randn({128, 1, 28, 28});
  const Tensor y = randint(0, 10, {128});
  const auto step = [&](const Tensor& images, const Tensor& labels) {
    Tensor loss = cross_entropy(net.forward(images), labels);
    backward(loss);
    opt.step();
    return loss;
  };
  if (!recorded) return time_calls([&] { step(x, y); }, 10, 3);
  auto replayed = record(step);
  return time_calls([&] { replayed(x, y); }, 10, 3);
}

double tiny_step(bool recorded) {
  manual_seed(1);
  Tiny net;
  optim::AdamW opt(net.parameters(), {.lr = 1e-4});
  const Tensor x = randn({1, 32}), y = randn({1, 1});
  const auto step = [&](const Tensor& in, const Tensor& target) {
    Tensor loss = mse_loss(net.forward(in), target);
    backward(loss);
    opt.step();
    return loss;
  };
  if (!recorded) return time_calls([&] { step(x, y); }, 1000, 3);
  auto replayed = record(step);
  return time_calls([&] { replayed(x, y); }, 1000, 3);
}

// Noting an op with gradients on; the work itself is done outside the clock, in islands of 30.
double record_op() {
  Tensor x = randn({8});
  x.requires_grad_();
  constexpr int group = 30, groups = 30000;
  double total = 0;
  for (int g = 0; g < groups; ++g) {
    Tensor y = x;
    const auto start = Clock::now();
    for (int i = 0; i < group; ++i) y = y + 1.0;
    total += seconds_since(start);
    y.data();
  }
  return total / (group * groups);
}
double cached_flush() {
  const Tensor x = randn({8});
  constexpr int n = 200000;
  double total = 0;
  for (int i = 0; i < n; ++i) {
    Tensor y = relu(x * 2.0 + 1.0);
    const auto start = Clock::now();
    y.data();
    total += seconds_since(start);
  }
  return total / n;
}

constexpr int64_t chain_size = int64_t{64} << 20;
Tensor chain(const Tensor& x, const Tensor& y) { return relu((relu((x + 1.0) * 1.1) + y) * 0.5 * y - 0.1); }
double chain_seconds(bool fused) {
  const Tensor x = rand({chain_size}), y = rand({chain_size});
  set_fusion(fused);
  chain(x, y).data();
  const double t = best_of(7, [&] { chain(x, y).data(); });
  set_fusion(true);
  return t;
}
// A copy by as many threads as FLAME uses, each its own share.
double copy_seconds() {
  std::vector<float> from(chain_size, 1), to(chain_size, 2);
  const size_t threads = static_cast<size_t>(num_threads()), share = chain_size / threads;
  return best_of(7, [&] {
    std::vector<std::jthread> workers;
    for (size_t i = 0; i < threads; ++i)
      workers.emplace_back([&, i] { std::memcpy(&to[i * share], &from[i * share], share * sizeof(float)); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, std::pair<const char*, std::function<double()>>> workloads = {
      {"record_op", {"step_time", record_op}},
      {"cached_flush", {"step_time", cached_flush}},
      {"chain_fused", {"step_time", [] { return chain_seconds(true); }}},
      {"chain_op_by_op", {"step_time", [] { return chain_seconds(false); }}},
      {"copy", {"step_time", copy_seconds}},
      {"mlp", {"step_time", [] { return classifier_step<Mlp>(false); }}},
      {"mlp_recorded", {"step_time", [] { return classifier_step<Mlp>(true); }}},
      {"cnn", {"step_time", [] { return classifier_step<Cnn>(false); }}},
      {"cnn_recorded", {"step_time", [] { return classifier_step<Cnn>(true); }}},
      {"transformer", {"step_time", [] { return transformer_step(false); }}},
      {"transformer_recorded", {"step_time", [] { return transformer_step(true); }}},
      {"tiny", {"step_time", [] { return tiny_step(false); }}},
      {"tiny_recorded", {"step_time", [] { return tiny_step(true); }}},
  };
  const std::string name = argc > 1 ? argv[1] : "";
  const auto found = workloads.find(name);
  if (found == workloads.end()) {
    std::fprintf(stderr, "usage: cpu_bench WORKLOAD [--threads N]; workloads:");
    for (const auto& [w, unused] : workloads) std::fprintf(stderr, " %s", w.c_str());
    std::fprintf(stderr, "\n");
    return 2;
  }
  if (argc > 3 && std::strcmp(argv[2], "--threads") == 0) set_num_threads(std::atoi(argv[3]));
  std::printf("{\"workload\": \"%s\", \"metric\": \"%s\", \"unit\": \"us\", \"value\": %.4f}\n", name.c_str(),
              found->second.first, found->second.second() * 1e6);
}
