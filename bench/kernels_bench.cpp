// Bandwidth of the memory-bound kernels on a GPU: `kernels_bench [NAME...]` prints a JSON line a workload with the ideal bytes
// (each input once, each output once) and seconds a call of five batches. bench/kernels.py runs it in turn with PyTorch.
#include <flame/flame.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

using namespace flame;
using Clock = std::chrono::steady_clock;

namespace {

using Call = std::function<void()>;
struct Workload {
  const char* name;
  double bytes;
  std::function<Call()> make;  // makes the inputs
};

Call forward(std::function<Tensor()> fn) {
  return [fn = std::move(fn)] { fn().data(); };
}
// Gradients of all inputs for a given incoming one; the forward pass is not timed.
Call backward_of(const std::function<Tensor(const std::vector<Tensor>&)>& fn, std::vector<Tensor> inputs) {
  for (Tensor& x : inputs) x.requires_grad_();
  const Tensor y = fn(inputs), g = randn(y.shape(), {.dtype = y.dtype()});
  y.data();
  g.data();
  return [=] {
    for (const Tensor& d : grad({y}, inputs, {.grad_outputs = {g}, .retain_graph = true})) d.data();
  };
}
Tensor normal(const Shape& s, DType t = DType::bf16) {
  Tensor x = randn(s, {.dtype = t});
  x.data();
  return x;
}

std::vector<Workload> workloads() {
  std::vector<Workload> all;
  constexpr int64_t side = 16384;
  constexpr double square = 4.0 * side * side;  // bytes
  const auto of_square = [&](const char* name, double bytes, Tensor (*fn)(const Tensor&)) {
    all.push_back({name, bytes, [fn] {
                     return forward([x = normal({side, side}, DType::f32), fn] { return fn(x); });
                   }});
  };
  all.push_back({"copy", 2 * square, [] {
                   const Tensor x = normal({side, side}, DType::f32), y = Tensor::empty({side, side}, DType::f32);
                   return Call([=] { x.device().copy_within(y.data(), x.data(), 4 * side * side); });
                 }});
  of_square("pointwise_copy", 2 * square, [](const Tensor& x) { return x + 1; });
  of_square("sum_all", square, [](const Tensor& x) { return sum(x); });
  of_square("sum_dim0", square, [](const Tensor& x) { return sum(x, 0); });
  of_square("sum_dim1", square, [](const Tensor& x) { return sum(x, 1); });
  of_square("transpose", 2 * square, [](const Tensor& x) { return x.t().contiguous(); });
  all.push_back({"gelu_chain", 2 * square, [] {
                   const Tensor x = normal({side, side}, DType::f32), b = normal({side}, DType::f32);
                   return forward([=] { return gelu(x + b) * 0.5 + x; });
                 }});

  constexpr int64_t rows = 32768, columns = 4096;
  constexpr double matrix = 2.0 * rows * columns;  // bytes, bfloat16
  const auto of_matrix = [&](const char* name, double bytes, Tensor (*fn)(const Tensor&)) {
    all.push_back({name, bytes, [fn] { return forward([x = normal({rows, columns}), fn] { return fn(x); }); }});
  };
  const auto gradients_of_matrix = [&](const char* name, Tensor (*fn)(const Tensor&)) {
    all.push_back({name, 3 * matrix, [fn] {
                     return backward_of([fn](const auto& in) { return fn(in[0]); }, {normal({rows, columns})});
                   }});
  };
  const auto layer = [](const std::vector<Tensor>& in) { return layer_norm(in[0], {columns}, in[1], in[2]); };
  const auto rms = [](const std::vector<Tensor>& in) { return rms_norm(in[0], {columns}, in[1]); };
  const auto inputs = [](bool bias) {
    std::vector<Tensor> in{normal({rows, columns}), normal({columns})};
    if (bias) in.push_back(normal({columns}));
    return in;
  };
  all.push_back(
      {"layer_norm_forward", 2 * matrix, [=] { return forward([=, in = inputs(true)] { return layer(in); }); }});
  all.push_back({"layer_norm_backward", 3 * matrix, [=] { return backward_of(layer, inputs(true)); }});
  all.push_back({"rms_norm_forward", 2 * matrix, [=] { return forward([=, in = inputs(false)] { return rms(in); }); }});
  all.push_back({"rms_norm_backward", 3 * matrix, [=] { return backward_of(rms, inputs(false)); }});
  of_matrix("softmax_forward", 2 * matrix, [](const Tensor& x) { return softmax(x, -1); });
  gradients_of_matrix("softmax_backward", [](const Tensor& x) { return softmax(x, -1); });
  of_matrix("log_softmax_forward", 2 * matrix, [](const Tensor& x) { return log_softmax(x, -1); });
  gradients_of_matrix("log_softmax_backward", [](const Tensor& x) { return log_softmax(x, -1); });

  const Shape pictures{16, 320, 128, 128}, batch{64, 256, 56, 56};
  const auto group = [](const std::vector<Tensor>& in) { return group_norm(in[0], 32, in[1], in[2]); };
  const auto in_channels = [](const Shape& s) {
    return std::vector<Tensor>{normal(s), normal({s[1]}), normal({s[1]})};
  };
  const double of_pictures = 2.0 * static_cast<double>(numel(pictures)),
               of_batch = 2.0 * static_cast<double>(numel(batch));
  all.push_back({"group_norm_forward", 2 * of_pictures,
                 [=] { return forward([=, in = in_channels(pictures)] { return group(in); }); }});
  all.push_back({"group_norm_backward", 3 * of_pictures, [=] { return backward_of(group, in_channels(pictures)); }});
  const auto by_batch = [](const std::vector<Tensor>& in) {
    return batch_norm(in[0], State(), State(), in[1], in[2], {.training = true});
  };
  all.push_back({"batch_norm_forward", 2 * of_batch,
                 [=] { return forward([=, in = in_channels(batch)] { return by_batch(in); }); }});
  all.push_back({"batch_norm_backward", 3 * of_batch, [=] { return backward_of(by_batch, in_channels(batch)); }});

  constexpr int64_t tokens = 16384, classes = 50304;
  all.push_back(
      {"cross_entropy", 4.0 * tokens * classes, [] {
         const Tensor logits = normal({tokens, classes}).requires_grad_(), target = randint(0, 50257, {tokens});
         target.data();
         return Call([=] { grad({cross_entropy(logits, target)}, {logits})[0].data(); });
       }});
  all.push_back({"adamw", 28.0 * 124e6, [] {
                   std::vector<Parameter> p;
                   for (int i = 0; i < 100; ++i) {
                     p.emplace_back(normal({1'240'000}, DType::f32));
                     p.back().set_grad(normal({1'240'000}, DType::f32));
                   }
                   return Call([opt = std::make_shared<optim::AdamW>(p)] { opt->step({.keep_gradients = true}); });
                 }});
  all.push_back({"clip_grad_norm", 12.0 * 124e6, [] {
                   std::vector<Parameter> p;
                   for (int i = 0; i < 100; ++i) {
                     p.emplace_back(normal({1'240'000}, DType::f32));
                     p.back().set_grad(normal({1'240'000}, DType::f32));
                   }
                   return Call([p] { optim::clip_grad_norm(p, 1.0).data(); });
                 }});

  constexpr int64_t vocabulary = 50304, width = 768, words = 32768;
  const auto table = [] { return std::pair(normal({vocabulary, width}), randint(0, 50257, {words})); };
  all.push_back({"embedding_forward", 4.0 * words * width + 8.0 * words, [=] {
                   const auto [w, i] = table();
                   return forward([w = w, i = i] { return embedding(w, i); });
                 }});
  all.push_back({"embedding_backward", 2.0 * words * width + 8.0 * words + 2.0 * vocabulary * width, [=] {
                   const auto [w, i] = table();
                   return backward_of([i = i](const auto& in) { return embedding(in[0], i); }, {w});
                 }});
  all.push_back({"gather", 16.0 * side * columns, [] {
                   const Tensor x = normal({side, columns}, DType::f32), i = randint(0, columns, {side, columns});
                   i.data();
                   return forward([=] { return gather(x, 1, i); });
                 }});
  all.push_back({"cat", 4 * 4.0 * side * columns, [] {
                   const Tensor x = normal({side, columns}, DType::f32), y = normal({side, columns}, DType::f32);
                   return forward([=] { return cat({x, y}, 1); });
                 }});
  return all;
}

double seconds_of(const Call& fn, int64_t calls, Device& d) {
  d.synchronize();
  const auto start = Clock::now();
  for (int64_t i = 0; i < calls; ++i) fn();
  d.synchronize();
  return std::chrono::duration<double>(Clock::now() - start).count() / static_cast<double>(calls);
}

}  // namespace

int main(int argc, char** argv) try {
  Device& d = device("cuda:0");
  set_default_device(d);
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  int status = 0;
  for (const Workload& w : workloads()) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), w.name) == wanted.end()) continue;
    manual_seed(0);
    std::string line;
    try {
      const Call fn = w.make();
      seconds_of(fn, 2, d);
      const double once = seconds_of(fn, 3, d);
      const auto calls = static_cast<int64_t>(std::clamp(0.05 / once, 2.0, 200.0));
      for (int i = 0; i < 5; ++i) line += (i ? ", " : "") + std::to_string(1e6 * seconds_of(fn, calls, d));
      std::printf("{\"workload\": \"%s\", \"bytes\": %.9g, \"microseconds\": [%s]}\n", w.name, w.bytes, line.c_str());
    } catch (const Error& e) {
      std::fprintf(stderr, "%s: %s\n", w.name, e.what());
      status = 1;
    }
    std::fflush(stdout);
    empty_cache(d);
  }
  return status;
} catch (const std::exception& e) {
  std::fprintf(stderr, "kernels_bench: %s\n", e.what());
  return 1;
}
