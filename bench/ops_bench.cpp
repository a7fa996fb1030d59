// Typical ops on the CPU, one JSON line each: `ops_bench [--threads N] [NAME...]`. bench/torch_ops.py times the same
// calls in PyTorch; bench/cpu.py runs both in turn.
#include <flame/flame.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

using namespace flame;
using Clock = std::chrono::steady_clock;

namespace {

// Median seconds of calls that fill about 0.15 s, at least seven.
double seconds_of(const std::function<void()>& fn) {
  fn();
  fn();
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < 7 || std::chrono::duration<double>(Clock::now() - start).count() < 0.15) {
    const auto t = Clock::now();
    fn();
    times.push_back(std::chrono::duration<double>(Clock::now() - t).count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

using Call = std::function<void()>;
using Maker = std::function<Call()>;  // makes the inputs

Call forward(std::function<Tensor()> fn) {
  return [fn = std::move(fn)] { fn().data(); };
}
// Gradients of all inputs for a given incoming one; the forward pass is not timed.
Call gradients(const std::function<Tensor(const std::vector<Tensor>&)>& fn, std::vector<Tensor> inputs) {
  for (Tensor& x : inputs) x.requires_grad_();
  const Tensor y = fn(inputs), g = randn(y.shape());
  y.data();
  return [=] {
    for (const Tensor& d : grad({y}, inputs, {.grad_outputs = {g}, .retain_graph = true})) d.data();
  };
}

const std::vector<std::pair<std::string, Maker>>& makers() {
  static const std::vector<std::pair<std::string, Maker>> all = [] {
    std::vector<std::pair<std::string, Maker>> m;
    const auto unary = [&](const std::string& name, Tensor (*fn)(const Tensor&)) {
      m.emplace_back(name, [=] { return forward([x = randn({1024, 1024}), fn] { return fn(x); }); });
    };
    const auto add = [&](const std::string& name, Maker maker) { m.emplace_back(name, std::move(maker)); };
    unary("relu", [](const Tensor& x) { return relu(x); });
    unary("exp", [](const Tensor& x) { return exp(x); });
    unary("tanh", [](const Tensor& x) { return tanh(x); });
    unary("sigmoid", [](const Tensor& x) { return sigmoid(x); });
    unary("gelu", [](const Tensor& x) { return gelu(x); });
    unary("silu", [](const Tensor& x) { return silu(x); });
    unary("sqrt", [](const Tensor& x) { return sqrt(x); });
    unary("clamp", [](const Tensor& x) { return clamp(x, -0.5, 0.5); });
    unary("to_bfloat16", [](const Tensor& x) { return x.to(DType::bf16); });
    unary("transpose_copy", [](const Tensor& x) { return x.t().contiguous(); });
    unary("sum_all", [](const Tensor& x) { return sum(x); });
    unary("sum_rows", [](const Tensor& x) { return sum(x, 1); });
    unary("sum_columns", [](const Tensor& x) { return sum(x, 0); });
    unary("mean", [](const Tensor& x) { return mean(x, 1); });
    unary("amax", [](const Tensor& x) { return amax(x, 1); });
    unary("argmax", [](const Tensor& x) { return argmax(x, 1); });
    unary("var", [](const Tensor& x) { return var(x, 1); });
    unary("softmax", [](const Tensor& x) { return softmax(x, -1); });
    unary("log_softmax", [](const Tensor& x) { return log_softmax(x, -1); });
    unary("cumsum", [](const Tensor& x) { return cumsum(x, 1); });
    unary("sort", [](const Tensor& x) { return sort(x).values; });
    unary("topk", [](const Tensor& x) { return topk(x, 10).values; });
    unary("pad", [](const Tensor& x) { return pad(x, {1, 1, 1, 1}); });

    add("add", [] { return forward([x = randn({1024, 1024}), y = randn({1024, 1024})] { return x + y; }); });
    add("add_row", [] { return forward([x = randn({1024, 1024}), y = randn({1024})] { return x + y; }); });
    add("where", [] {
      const Tensor x = randn({1024, 1024}), y = randn({1024, 1024}), c = x > 0;
      c.data();
      return forward([=] { return where(c, x, y); });
    });
    add("cat", [] { return forward([x = randn({1024, 512}), y = randn({1024, 512})] { return cat({x, y}, 1); }); });
    add("dropout", [] { return forward([x = randn({1024, 1024})] { return dropout(x, 0.1, true); }); });
    add("randn", [] { return forward([] { return randn({1024, 1024}); }); });
    add("embedding", [] {
      return forward([w = randn({10000, 256}), i = randint(0, 10000, {4096})] { return embedding(w, i); });
    });
    add("gather", [] {
      return forward([x = randn({1024, 1024}), i = randint(0, 1024, {1024, 256})] { return gather(x, 1, i); });
    });
    add("index_add", [] {
      return forward([x = randn({1024, 256}), i = randint(0, 1024, {4096}), s = randn({4096, 256})] {
        return index_add(x, 0, i, s);
      });
    });

    add("matmul", [] { return forward([a = randn({512, 512}), b = randn({512, 512})] { return matmul(a, b); }); });
    add("matmul_tall", [] { return forward([a = randn({4096, 256}), b = randn({256, 64})] { return matmul(a, b); }); });
    add("bmm", [] { return forward([a = randn({64, 128, 64}), b = randn({64, 64, 128})] { return matmul(a, b); }); });
    add("linear", [] {
      return forward([x = randn({2048, 256}), w = randn({1024, 256}), b = randn({1024})] { return linear(x, w, b); });
    });
    add("conv2d", [] {
      return forward(
          [x = randn({16, 64, 28, 28}), w = randn({64, 64, 3, 3})] { return conv2d(x, w, {}, {.padding = 1}); });
    });
    add("conv2d_1x1", [] {
      return forward([x = randn({16, 128, 28, 28}), w = randn({64, 128, 1, 1})] { return conv2d(x, w); });
    });
    add("conv2d_depthwise", [] {
      return forward([x = randn({16, 64, 28, 28}), w = randn({64, 1, 3, 3})] {
        return conv2d(x, w, {}, {.padding = 1, .groups = 64});
      });
    });
    add("max_pool2d", [] { return forward([x = randn({32, 64, 28, 28})] { return max_pool2d(x, {.kernel = 2}); }); });
    add("avg_pool2d", [] { return forward([x = randn({32, 64, 28, 28})] { return avg_pool2d(x, {.kernel = 2}); }); });
    add("interpolate_bilinear", [] {
      return forward([x = randn({8, 32, 32, 32})] {
        return interpolate(x, {.scale_factor = 2.0, .mode = InterpolateMode::bilinear});
      });
    });
    const auto normalized = [] { return std::vector<Tensor>{randn({2048, 512}), randn({512}), randn({512})}; };
    add("layer_norm", [=] { return forward([i = normalized()] { return layer_norm(i[0], {512}, i[1], i[2]); }); });
    add("rms_norm", [=] { return forward([i = normalized()] { return rms_norm(i[0], {512}, i[1]); }); });
    add("group_norm", [] {
      return forward(
          [x = randn({16, 64, 28, 28}), w = randn({64}), b = randn({64})] { return group_norm(x, 8, w, b); });
    });
    add("cross_entropy", [] {
      return forward([x = randn({2048, 1000}), y = randint(0, 1000, {2048})] { return cross_entropy(x, y); });
    });
    const auto heads = [] {
      return std::vector<Tensor>{randn({16, 8, 128, 32}), randn({16, 8, 128, 32}), randn({16, 8, 128, 32})};
    };
    add("attention", [=] {
      return forward([i = heads()] { return scaled_dot_product_attention(i[0], i[1], i[2], {.causal = true}); });
    });

    add("layer_norm_backward",
        [=] { return gradients([](const auto& i) { return layer_norm(i[0], {512}, i[1], i[2]); }, normalized()); });
    add("softmax_backward", [] {
      return gradients([](const auto& i) { return softmax(i[0], -1); }, {randn({1024, 1024})});
    });
    add("gelu_backward", [] { return gradients([](const auto& i) { return gelu(i[0]); }, {randn({1024, 1024})}); });
    add("linear_backward", [] {
      return gradients([](const auto& i) { return linear(i[0], i[1], i[2]); },
                       {randn({2048, 256}), randn({1024, 256}), randn({1024})});
    });
    add("conv2d_backward", [] {
      return gradients([](const auto& i) { return conv2d(i[0], i[1], {}, {.padding = 1}); },
                       {randn({16, 64, 28, 28}), randn({64, 64, 3, 3})});
    });
    add("attention_backward", [=] {
      return gradients([](const auto& i) { return scaled_dot_product_attention(i[0], i[1], i[2], {.causal = true}); },
                       heads());
    });
    return m;
  }();
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> wanted;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc) set_num_threads(std::atoi(argv[++i]));
    else wanted.emplace_back(argv[i]);
  }
  for (const auto& [name, maker] : makers()) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), name) == wanted.end()) continue;
    manual_seed(0);
    std::printf("{\"workload\": \"%s\", \"value\": %.4f}\n", name.c_str(), seconds_of(maker()) * 1e6);
    std::fflush(stdout);
  }
}
