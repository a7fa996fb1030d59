// Kernels on a GPU, timed on request: for a workload's name on a line of input it makes and warms the inputs and answers by a
// JSON line with the ideal bytes (each input once, each output once) or the operations; for "time" by the microseconds of a
// call. `--list` prints the names. bench/kernels.py asks it and PyTorch in turn.
#include <flame/flame.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using namespace flame;
using Clock = std::chrono::steady_clock;

namespace {

using Call = std::function<void()>;
using Tensors = std::vector<Tensor>;
struct Workload {
  std::string name;
  double amount;               // bytes, or operations
  std::function<Call()> make;  // makes the inputs
  bool operations = false;
};

Call forward(std::function<Tensor()> fn) {
  return [fn = std::move(fn)] { fn().data(); };
}
Tensor normal(const Shape& s, DType t = DType::bf16) {
  Tensor x = randn(s, {.dtype = t});
  x.data();
  return x;
}
Tensor channels_last(const Shape& s) { return normal({s[0], s[2], s[3], s[1]}).permute({0, 3, 1, 2}); }

// Gradients of all inputs for a given incoming one, which lies in memory as the output does; the forward pass is not timed.
Call backward_of(const std::function<Tensor(const Tensors&)>& fn, Tensors inputs) {
  for (Tensor& x : inputs) x.requires_grad_();
  const Tensor y = fn(inputs), g = y.rank() == 4 && !is_contiguous(y.shape(), y.strides())
                                       ? channels_last(y.shape())
                                       : normal(y.shape(), y.dtype());
  y.data();
  return [=] {
    for (const Tensor& d : grad({y}, inputs, {.grad_outputs = {g}, .retain_graph = true})) d.data();
  };
}
constexpr int64_t side = 16384, columns = 4096, vocabulary = 50304;

using Workloads = std::vector<Workload>;

void add_islands(Workloads& all) {
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
}

void add_rows(Workloads& all) {
  constexpr int64_t rows = 32768;
  constexpr double matrix = 2.0 * rows * columns;  // bytes, bfloat16
  const auto of_matrix = [&](const char* name, double bytes, Tensor (*fn)(const Tensor&)) {
    all.push_back({name, bytes, [fn] { return forward([x = normal({rows, columns}), fn] { return fn(x); }); }});
  };
  const auto gradients_of_matrix = [&](const char* name, Tensor (*fn)(const Tensor&)) {
    all.push_back({name, 3 * matrix, [fn] {
                     return backward_of([fn](const auto& in) { return fn(in[0]); }, {normal({rows, columns})});
                   }});
  };
  const auto layer = [](const Tensors& in) { return layer_norm(in[0], {columns}, in[1], in[2]); };
  const auto rms = [](const Tensors& in) { return rms_norm(in[0], {columns}, in[1]); };
  const auto inputs = [](bool bias) {
    Tensors in{normal({rows, columns}), normal({columns})};
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
  const auto group = [](const Tensors& in) { return group_norm(in[0], 32, in[1], in[2]); };
  const auto in_channels = [](const Shape& s) { return Tensors{normal(s), normal({s[1]}), normal({s[1]})}; };
  const double of_pictures = 2.0 * static_cast<double>(numel(pictures)),
               of_batch = 2.0 * static_cast<double>(numel(batch));
  all.push_back({"group_norm_forward", 2 * of_pictures,
                 [=] { return forward([=, in = in_channels(pictures)] { return group(in); }); }});
  all.push_back({"group_norm_backward", 3 * of_pictures, [=] { return backward_of(group, in_channels(pictures)); }});
  const auto by_batch = [](const Tensors& in) {
    return batch_norm(in[0], State(), State(), in[1], in[2], {.training = true});
  };
  all.push_back({"batch_norm_forward", 2 * of_batch,
                 [=] { return forward([=, in = in_channels(batch)] { return by_batch(in); }); }});
  all.push_back({"batch_norm_backward", 3 * of_batch, [=] { return backward_of(by_batch, in_channels(batch)); }});

  constexpr int64_t tokens = 16384, classes = vocabulary;
  all.push_back(
      {"cross_entropy", 4.0 * tokens * classes, [] {
         const Tensor logits = normal({tokens, classes}).requires_grad_(), target = randint(0, 50257, {tokens});
         target.data();
         return Call([=] { grad({cross_entropy(logits, target)}, {logits})[0].data(); });
       }});
}

void add_optimizers(Workloads& all) {
  constexpr double count = 124e6;
  const auto parameters = [] {
    std::vector<Parameter> p;
    for (int i = 0; i < 100; ++i) {
      p.emplace_back(normal({1'240'000}, DType::f32));
      p.back().set_grad(normal({1'240'000}, DType::f32));
    }
    return p;
  };
  const auto step = [parameters](bool clips) {
    const std::vector<Parameter> p = parameters();
    return Call([p, clips, opt = std::make_shared<optim::AdamW>(p)] {
      if (clips) optim::clip_grad_norm(p, 1.0);
      opt->step({.keep_gradients = true});
    });
  };
  all.push_back({"adamw", 28 * count, [=] { return step(false); }});
  all.push_back({"adamw_clipped", 40 * count, [=] { return step(true); }});
  all.push_back({"clip_grad_norm", 12 * count,
                 [=] { return Call([p = parameters()] { optim::clip_grad_norm(p, 1.0).data(); }); }});
}

void add_indexing(Workloads& all) {
  constexpr int64_t width = 768, words = 32768;
  const auto table = [] { return std::pair(normal({vocabulary, width}), randint(0, 50257, {words})); };
  all.push_back({"embedding_forward", 4.0 * words * width + 8.0 * words, [=] {
                   const auto [w, i] = table();
                   return forward([w = w, i = i] { return embedding(w, i); });
                 }});
  all.push_back({"embedding_backward", 2.0 * words * width + 8.0 * words + 2.0 * vocabulary * width, [=] {
                   const auto [w, i] = table();
                   return backward_of([i = i](const auto& in) { return embedding(in[0], i); }, {w});
                 }});
  constexpr double elements = 1.0 * side * columns;
  using Fn = Tensor (*)(const Tensor& x, const Tensor& y, const Tensor& index);
  const auto of_index = [&](const char* name, double bytes, Fn fn) {
    all.push_back({name, bytes * elements, [fn] {
                     const Tensor x = normal({side, columns}, DType::f32), y = normal({side, columns}, DType::f32),
                                  i = randint(0, columns, {side, columns});
                     i.data();
                     return forward([=] { return fn(x, y, i); });
                   }});
  };
  of_index("gather", 16, [](auto& x, auto&, auto& i) { return gather(x, 1, i); });
  of_index("scatter", 20, [](auto& x, auto& y, auto& i) { return scatter(x, 1, i, y); });
  of_index("scatter_add", 20, [](auto& x, auto& y, auto& i) { return scatter_add(x, 1, i, y); });
  of_index("cat", 16, [](auto& x, auto& y, auto&) { return cat({x, y}, 1); });
  of_index("sort", 16, [](auto& x, auto&, auto&) { return sort(x).values; });
  of_index("topk", 4 + 12 * 10.0 / columns, [](auto& x, auto&, auto&) { return topk(x, 10).values; });
  of_index("cumsum", 8, [](auto& x, auto&, auto&) { return cumsum(x, 1); });
  of_index("argmax", 4 + 8.0 / columns, [](auto& x, auto&, auto&) { return argmax(x, 1); });
}

void add_pictures(Workloads& all) {
  const Shape pictures{64, 64, 112, 112};
  const double bytes = 2.0 * static_cast<double>(numel(pictures));
  const auto pool = [](const Tensors& in) { return max_pool2d(in[0], {.kernel = 3, .stride = 2, .padding = 1}); };
  const auto mean = [](const Tensors& in) { return avg_pool2d(in[0], {.kernel = 2}); };
  const auto of_pictures = [&](const char* name, double times, Tensor (*fn)(const Tensors&), bool back) {
    all.push_back({name, times * bytes, [=] {
                     const Tensors in{normal(pictures)};
                     return back ? backward_of(fn, in) : forward([=] { return fn(in); });
                   }});
  };
  of_pictures("max_pool_forward", 1.25, pool, false);
  of_pictures("max_pool_backward", 2.25, pool, true);
  of_pictures("avg_pool_forward", 1.25, mean, false);
  of_pictures("avg_pool_backward", 1.25, mean, true);
  of_pictures(
      "pad", 1 + 114.0 * 114 / (112 * 112),
      [](const Tensors& in) {
        return pad(in[0], {1, 1, 1, 1});
      },
      false);
}

void add_random(Workloads& all) {
  const auto drawn = [&](const char* name, double bytes, Tensor (*fn)()) {
    all.push_back({name, bytes * side * side, [fn] { return forward(fn); }});
  };
  drawn("rand", 4, [] { return rand({side, side}); });
  drawn("randn", 4, [] { return randn({side, side}); });
  all.push_back({"dropout", 8.0 * side * side, [] {
                   return forward([x = normal({side, side}, DType::f32)] { return dropout(x, 0.1); });
                 }});
}

// As in PyTorch's `allow_tf32`, products of float32 are rounded here.
void add_products(Workloads& all) {
  constexpr int64_t n = 8192;
  for (const DType t : {DType::bf16, DType::f32})
    all.push_back({t == DType::f32 ? "matmul_tf32" : "matmul_bf16", 2.0 * n * n * n,
                   [t] {
                     const Tensor a = normal({n, n}, t), b = normal({n, n}, t);
                     return forward([=] { return matmul(a, b); });
                   },
                   true});
  struct Heads {
    const char* name;
    int64_t batch, heads, length, width;
    bool causal;
  };
  for (const Heads& h :
       {Heads{"attention_d64", 4, 16, 4096, 64, false}, Heads{"attention_d128", 4, 16, 4096, 128, false},
        Heads{"attention_d128_causal", 4, 16, 4096, 128, true}, Heads{"attention_l4608", 2, 24, 4608, 128, false},
        Heads{"attention_l16384", 1, 16, 16384, 128, false}, Heads{"attention_gpt", 32, 12, 1024, 64, true}}) {
    const auto fn = [h](const Tensors& in) {
      return scaled_dot_product_attention(in[0], in[1], in[2], {.causal = h.causal});
    };
    const auto in = [h] {
      const Shape s{h.batch, h.heads, h.length, h.width};
      return Tensors{normal(s), normal(s), normal(s)};
    };
    const double forward_work =
        4.0 * static_cast<double>(h.batch * h.heads * h.length * h.length * h.width) / (h.causal ? 2 : 1);
    all.push_back({h.name + std::string("_forward"), forward_work,
                   [=] { return forward([=, in = in()] { return fn(in); }); }, true});
    all.push_back({h.name + std::string("_backward"), 2.5 * forward_work, [=] { return backward_of(fn, in()); }, true});
  }
  struct Layer {
    const char* name;
    int64_t batch, channels, side, kept, kernel;
  };
  for (const Layer& l : {Layer{"conv_64x56", 64, 64, 56, 64, 3}, Layer{"conv_256x56_1x1", 64, 256, 56, 64, 1},
                         Layer{"conv_512x14", 64, 512, 14, 512, 3}, Layer{"conv_320x128", 8, 320, 128, 320, 3},
                         Layer{"conv_640x64", 8, 640, 64, 640, 3}, Layer{"conv_1280x32", 8, 1280, 32, 1280, 3}}) {
    const auto fn = [l](const Tensors& in) { return conv2d(in[0], in[1], {}, {.padding = l.kernel / 2}); };
    const auto in = [l] {
      return Tensors{channels_last({l.batch, l.channels, l.side, l.side}),
                     channels_last({l.kept, l.channels, l.kernel, l.kernel})};
    };
    const double work =
        2.0 * static_cast<double>(l.batch * l.side * l.side * l.kept * l.channels * l.kernel * l.kernel);
    all.push_back(
        {l.name + std::string("_forward"), work, [=] { return forward([=, in = in()] { return fn(in); }); }, true});
    all.push_back({l.name + std::string("_backward"), 2 * work, [=] { return backward_of(fn, in()); }, true});
  }
}

Workloads workloads() {
  Workloads all;
  for (const auto add : {add_islands, add_rows, add_optimizers, add_indexing, add_pictures, add_random, add_products})
    add(all);
  return all;
}

double seconds_of(const Call& fn, int64_t calls, Device& d) {
  d.synchronize();
  const auto start = Clock::now();
  for (int64_t i = 0; i < calls; ++i) fn();
  d.synchronize();
  return std::chrono::duration<double>(Clock::now() - start).count() / static_cast<double>(calls);
}

// The workload whose times are asked for.
struct Timed {
  Call fn;
  int64_t calls = 0;
  void make(const Workload& w, Device& d) {
    *this = {};
    empty_cache(d);
    manual_seed(0);
    Call made = w.make();
    seconds_of(made, 2, d);
    calls = static_cast<int64_t>(std::clamp(0.02 / seconds_of(made, 3, d), 2.0, 200.0));
    fn = std::move(made);
  }
};

}  // namespace

int main(int argc, char** argv) try {
  const Workloads all = workloads();
  if (argc > 1 && std::string(argv[1]) == "--list") {
    for (const Workload& w : all) std::printf("%s\n", w.name.c_str());
    return 0;
  }
  Device& d = device("cuda:0");
  set_default_device(d);
  set_matmul_precision("high");
  Timed now;
  for (std::string line; std::getline(std::cin, line); std::fflush(stdout)) {
    try {
      if (line == "time") {
        if (!now.fn) throw std::runtime_error("no workload was named");
        std::printf("%.4f\n", 1e6 * seconds_of(now.fn, now.calls, d));
        continue;
      }
      const auto w = std::find_if(all.begin(), all.end(), [&](const Workload& w) { return w.name == line; });
      if (w == all.end()) throw std::runtime_error("no such workload");
      now.make(*w, d);
      std::printf("{\"%s\": %.9g}\n", w->operations ? "operations" : "bytes", w->amount);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "kernels_bench: %s: %s\n", line.c_str(), e.what());
      std::printf("{}\n");
    }
  }
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "kernels_bench: %s\n", e.what());
  return 1;
}
