// What bench/compare_bench.cpp trains: the models of examples/models, their batches and precision, in full or small.
#pragma once
#include <flame/flame.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../examples/models/cnn.h"
#include "../examples/models/dit.h"
#include "../examples/models/gpt2.h"
#include "../examples/models/mlp.h"
#include "../examples/models/resnet.h"

using Tensors = std::vector<flame::Tensor>;

// One tensor of a batch: standard normal numbers, or int64 below `classes`.
struct Source {
  flame::Shape item;
  int64_t classes = 0;
  bool channels_last = false;
};

struct Task {
  using Fn = std::function<flame::Tensor(const Tensors&)>;
  std::shared_ptr<flame::nn::Module> model;
  Fn body, forward, loss;  // of a batch: what goes into the last layer, the logits, and the loss
  std::vector<Source> sources;
  int64_t batch, batches;  // samples a step; different batches on the device
  int64_t items;           // a step, for the throughput
  const char* unit;
  const char* precision;  // of products and convolutions: "tf32", or "bf16" by autocast
  double max_norm = 0;    // of the gradients; 0: not clipped
};

inline Task gpt2_task(bool small) {
  const Gpt2Options o =
      small ? Gpt2Options{.vocabulary = 97, .context = 16, .width = 32, .heads = 2, .layers = 2} : Gpt2Options{};
  const auto m = std::make_shared<Gpt2>(o);
  const Source tokens{.item = {o.context}, .classes = small ? 97 : 50257};
  const int64_t batch = small ? 4 : 32;
  return {.model = m,
          .body = [m](const Tensors& in) { return m->body(in[0]); },
          .forward = [m](const Tensors& in) { return m->forward(in[0]); },
          .loss = [m](const Tensors& in) { return m->loss(in[0], in[1]); },
          .sources = {tokens, tokens},
          .batch = batch,
          .batches = 8,
          .items = batch * o.context,
          .unit = "tokens/s",
          .precision = "bf16",
          .max_norm = 1};
}

inline Task dit_task(bool small) {
  const DitOptions o =
      small ? DitOptions{.patches = 16, .width = 32, .heads = 2, .layers = 2, .classes = 11, .time = 32} : DitOptions{};
  const auto m = std::make_shared<Dit>(o);
  const Source patches{.item = {o.patches, o.patch}};
  const int64_t batch = small ? 4 : 128;
  return {.model = m,
          .body = [m](const Tensors& in) { return m->body(in[0], in[1], in[2]); },
          .forward = [m](const Tensors& in) { return m->forward(in[0], in[1], in[2]); },
          .loss = [m](const Tensors& in) { return m->loss(in[0], in[1], in[2], in[3]); },
          .sources = {patches, {.item = {o.time}}, {.item = {}, .classes = o.classes - 1}, patches},
          .batch = batch,
          .batches = 8,
          .items = batch,
          .unit = "images/s",
          .precision = "bf16"};
}

// Pictures and their classes.
template <class Model>
Task picture_task(std::shared_ptr<Model> m, const flame::Shape& picture, int64_t classes, int64_t batch,
                  const char* precision) {
  return {.model = m,
          .body = [m](const Tensors& in) { return m->body(in[0]); },
          .forward = [m](const Tensors& in) { return m->forward(in[0]); },
          .loss = [m](const Tensors& in) { return m->loss(in[0], in[1]); },
          .sources = {{.item = picture, .channels_last = true}, {.item = {}, .classes = classes}},
          .batch = batch,
          .batches = 8,
          .items = batch,
          .unit = "images/s",
          .precision = precision};
}

inline Task task_of(const std::string& name, bool small) {
  if (name == "gpt2_124m") return gpt2_task(small);
  if (name == "dit_b2") return dit_task(small);
  if (name == "resnet50") {
    if (!small) return picture_task(std::make_shared<ResNet>(), {3, 224, 224}, 1000, 256, "bf16");
    const ResNetOptions o{.blocks = {1, 2, 1, 1}, .width = 8, .classes = 10};
    return picture_task(std::make_shared<ResNet>(o), {3, 64, 64}, 10, 8, "bf16");
  }
  if (name == "cnn") return picture_task(std::make_shared<Cnn>(), {1, 28, 28}, 10, small ? 8 : 128, "tf32");
  if (name == "mlp") return picture_task(std::make_shared<Mlp>(), {1, 28, 28}, 10, small ? 8 : 128, "tf32");
  throw std::invalid_argument("no workload '" + name + "'; there are gpt2_124m, dit_b2, resnet50, cnn and mlp");
}
