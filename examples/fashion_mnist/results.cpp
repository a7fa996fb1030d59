// Every file is written whole or not at all.
#include "results.h"

#include <flame/core/format.h>

#include <algorithm>
#include <cmath>

#include "data.h"

using namespace flame;

std::vector<int64_t> predict(Net& net, const Tensor& images) {
  constexpr int64_t batch = 250;  // activations of 25 MB
  NoGrad guard;
  net.eval();
  std::vector<int64_t> out;
  for (int64_t i = 0; i < images.size(0); i += batch) {
    const Tensor some = images.narrow(0, i, std::min(batch, images.size(0) - i)).to(default_device());
    for (const int64_t c : argmax(net.forward(some), 1).to_vector<int64_t>()) out.push_back(c);
  }
  net.train();
  return out;
}

double accuracy(const std::vector<int64_t>& predicted, const std::vector<int64_t>& labels) {
  size_t right = 0;
  for (size_t i = 0; i < labels.size(); ++i) right += predicted[i] == labels[i] ? 1 : 0;
  return 100.0 * static_cast<double>(right) / static_cast<double>(labels.size());
}

namespace {

const char* name_of_class(int64_t c) { return class_names[static_cast<size_t>(c)]; }

void write_predictions(const std::string& path, const std::vector<int64_t>& labels,
                       const std::vector<int64_t>& predicted) {
  std::string text = "index,label,predicted\n";
  for (size_t i = 0; i < labels.size(); ++i) text += fmt::format("{},{},{}\n", i, labels[i], predicted[i]);
  io::write_file_atomic(path, text);
}

// The first test images as they come, not the best ones.
void write_picture(const std::string& path, const Tensor& images, const std::vector<int64_t>& labels,
                   const std::vector<int64_t>& predicted) {
  constexpr size_t shown = 60;
  std::vector<io::GridCell> cells;
  size_t right = 0;
  for (size_t i = 0; i < std::min(shown, labels.size()); ++i) {
    const bool hit = predicted[i] == labels[i];
    right += hit ? 1 : 0;
    std::string caption = name_of_class(predicted[i]);
    if (!hit) caption += fmt::format("\nis {}", name_of_class(labels[i]));
    io::Image image{.width = 28,
                    .height = 28,
                    .channels = 1,
                    .pixels = images.select(0, static_cast<int64_t>(i)).to_vector<uint8_t>()};
    cells.push_back({std::move(image), caption, hit ? io::Mark::right : io::Mark::wrong});
  }
  const std::string title =
      fmt::format("The first {} test images: {} right, {} wrong. Of all {}: {:.2f} % right.", cells.size(), right,
                  cells.size() - right, labels.size(), accuracy(predicted, labels));
  io::write_png(path, io::image_grid(cells, {.columns = 12, .title = title}));
}

// The loss of every step, faint, and its running mean; the loss is the training batch's.
void write_loss_plot(const train::RunFolder& folder) {
  const auto metrics = train::read_metrics(folder.metrics());
  const std::vector<double>&step = metrics.at("step"), &loss = metrics.at("loss");
  io::Series raw{.name = "each step", .x = {}, .y = {}, .faint = true},
      mean{.name = "running mean of 50 steps", .x = {}, .y = {}};
  double sum = 0;
  for (size_t i = 0; i < step.size(); ++i) {
    if (std::isnan(loss[i])) continue;  // a row of the test accuracy
    raw.x.push_back(step[i]);
    raw.y.push_back(loss[i]);
    constexpr size_t window = 50;
    sum += loss[i];
    const size_t n = raw.y.size();
    if (n > window) sum -= raw.y[n - window - 1];
    mean.x.push_back(step[i]);
    mean.y.push_back(sum / static_cast<double>(std::min(n, window)));
  }
  io::write_svg(folder.file("loss.svg"), {.title = "Training loss on Fashion-MNIST",
                                          .x_label = "step",
                                          .y_label = "cross-entropy",
                                          .series = {raw, mean},
                                          .log_y = true});
}

}  // namespace

void write_results(const train::RunFolder& folder, const Net& net, const data::TensorDataset& test,
                   const std::vector<int64_t>& predicted) {
  std::vector<io::NamedTensor> weights;
  for (const auto& [name, state] : net.state_dict()) weights.emplace_back(name, state.tensor());
  io::save_safetensors(folder.file("model.safetensors"), weights);
  const Tensor &images = test.tensors()[0], &labels = test.tensors()[1];
  const std::vector<int64_t> truth = labels.to_vector<int64_t>();
  write_predictions(folder.file("predictions.csv"), truth, predicted);
  write_picture(folder.file("predictions.png"), images, truth, predicted);
  write_loss_plot(folder);
}
