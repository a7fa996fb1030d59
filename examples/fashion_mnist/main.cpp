// Trains a small convolutional network on Fashion-MNIST: the whole of a real training program, from flags to pictures.
// The network is in net.h, the data in data.h, and what stays in the run's folder in results.cpp.
#include <flame/flame.h>
#include <fmt/format.h>

#include <chrono>
#include <future>

#include "data.h"
#include "../common/program.h"
#include "net.h"
#include "options.h"
#include "results.h"

using namespace flame;

namespace {

// For tools/first-step: where the time until the first step goes.
void tell(const Options& options, const char* what) {
  static const auto start = std::chrono::steady_clock::now();
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  if (options.first_step) fmt::print("{:.3f} s: {}\n", passed.count(), what);
}

// The objects whose state a checkpoint holds, and the loop over them.
class Run {
 public:
  Run(Options& options, const train::RunFolder& folder, const data::ImageSets& images)
      : options_(options),
        folder_(folder),
        test_(images.test),
        training_images_(images.train.size()),
        loader_(images.train, {.batch = options.batch, .shuffle = true, .seed = options.seed}),
        schedule_{.max_lr = options.lr, .total_steps = options.epochs * loader_.size()} {
    optimizer_.set_schedule(schedule_);
  }

  void begin();
  void resume(const io::Checkpoint& c);
  // Trains to the end of the last epoch, or until asked to stop: true if it came to the end.
  bool train(const train::Interrupt& interrupt);
  void finish();

  const Net& net() const { return net_; }
  int64_t step() const { return step_; }

 private:
  void note_loss(std::optional<double> loss);
  void profile();
  void evaluate();
  void save();

  Options& options_;
  const train::RunFolder& folder_;
  const data::TensorDataset test_;
  const int64_t training_images_;
  data::DataLoader<2> loader_;
  Net net_;
  optim::OneCycle schedule_;
  optim::AdamW optimizer_{net_.parameters(), {.weight_decay = 0.01}};
  std::unique_ptr<train::RunMetrics> metrics_;
  int64_t step_ = 0, noted_ = 0;  // steps done, and those whose loss is in the metrics
  int64_t asked_ = 0;             // steps that this process has asked for
  std::unique_ptr<train::Profiler> profiler_;
  double seconds_ = 0;              // spent on training
  std::vector<int64_t> predicted_;  // of the test images, after the last epoch
};

const std::vector<std::string> columns = {"epoch", "loss", "lr", "test_accuracy"};

void Run::begin() {
  folder_.clear();
  metrics_ = std::make_unique<train::RunMetrics>(folder_, columns);
  save();
  tell(options_, "the first checkpoint is written");
}

void Run::resume(const io::Checkpoint& c) {
  const std::string& forget = options_.forget;
  train::RunPosition at = train::run_position(c);
  train::restore_run(c, net_, optimizer_,
                     {.weights = forget != "weights",
                      .moments = forget != "moments",
                      .steps = forget != "step",
                      .generator = forget != "generator"});
  if (forget == "loader") at.loader.position = 0;
  loader_.load_state(at.loader);
  step_ = noted_ = at.step;
  metrics_ = std::make_unique<train::RunMetrics>(folder_, columns, at.step);
}

void Run::save() {
  metrics_->flush();
  train::save_run(folder_.checkpoint(), net_, optimizer_, {step_, loader_.state(), options_.settings().text()});
}

bool Run::train(const train::Interrupt& interrupt) {
  // Recorded: after two ordinary calls, the step is replayed as a flat list of kernels.
  auto step = record([&](const Tensor& images, const Tensor& labels) {
    Tensor loss = cross_entropy(net_.forward(images), labels);
    backward(loss);
    optimizer_.step();  // and drops the gradients
    return loss;
  });

  while (loader_.state().epoch < options_.epochs) {
    train::ProgressBar bar{{.label = fmt::format("epoch {}/{}", loader_.state().epoch + 1, options_.epochs),
                            .total = training_images_,
                            .done = loader_.state().position * options_.batch,
                            .unit = "images"}};
    train::LateValue losses;
    for (auto& [images, labels] : loader_) {
      profile();
      const Tensor loss = step(images.to(default_device()), labels.to(default_device()));
      tell(options_, "the step is asked for");
      const auto late = losses.push(loss);  // of the step before, so that reading it never waits
      note_loss(late);
      bar.update(images.size(0), late);
      ++step_;
      if (options_.first_step) {
        const double weight = net_.parameters()[0].tensor().to_vector<float>()[0];
        fmt::print("first step: loss {:.6f}, first weight {:.6f}\n", loss.item(), weight);
        return false;
      }

      const bool stop = interrupt.requested(), last = loader_.state().position == loader_.size();
      if (!last && (stop || step_ % options_.save_every == 0)) {
        note_loss(losses.take());
        save();
        if (stop) return false;
      }
    }
    note_loss(losses.take());
    bar.finish();
    seconds_ += bar.seconds();
    evaluate();
    save();
    if (interrupt.requested() && loader_.state().epoch < options_.epochs) return false;
  }
  return true;
}

// With --profile: the steps after those that warm up.
void Run::profile() {
  constexpr int64_t first = 10, count = 20;
  const int64_t step = asked_++;
  if (!options_.profile.empty() && step == first)
    profiler_ = std::make_unique<train::Profiler>(train::ProfilerOptions{.trace = options_.profile});
  if (!profiler_ || step != first + count) return;
  profiler_->stop();
  fmt::print("\n{}", profiler_->table());
  profiler_.reset();
}

void Run::note_loss(std::optional<double> loss) {
  if (!loss) return;
  const int64_t epoch = noted_ / loader_.size() + 1;
  metrics_->add(noted_ + 1, {{"epoch", static_cast<double>(epoch)}, {"loss", *loss}, {"lr", schedule_.at(noted_)}});
  ++noted_;
}

void Run::evaluate() {
  predicted_ = predict(net_, test_.tensors()[0]);
  const double percent = accuracy(predicted_, test_.tensors()[1].to_vector<int64_t>());
  const int64_t epoch = loader_.state().epoch;  // the loader already stands at the next one
  metrics_->add(step_, {{"epoch", static_cast<double>(epoch)}, {"test_accuracy", percent}});
  fmt::print("epoch {}  test accuracy {:.2f} %\n", epoch, percent);
}

void Run::finish() {
  if (predicted_.empty()) predicted_ = predict(net_, test_.tensors()[0]);  // resumed after the last epoch
  write_results(folder_, net_, test_, predicted_);
  if (seconds_ > 0) fmt::print("trained in {:.1f} s\n", seconds_);
  fmt::print(
      "results in {}: model.safetensors, metrics.csv, loss.svg, predictions.png, predictions.csv and a TensorBoard "
      "log\n",
      folder_.path());
}

int run(Options options, const char* program) {
  tell(options, "the program starts");
  const train::Interrupt interrupt;
  const train::RunFolder folder(options.out);
  auto all_images = std::async(std::launch::async, load_images);  // while the device is opened
  const std::optional<io::Checkpoint> checkpoint = start(options, folder);
  tell(options, "the device is open");
  const data::ImageSets images = limited(all_images.get(), options.limit);
  tell(options, "the images are read");

  manual_seed(options.seed);
  Run training(options, folder, images);
  fmt::print("device {}, {} threads; {} training and {} test images; {} epochs, batch {}, seed {}\n{}\n",
             default_device().name(), options.threads, images.train.size(), images.test.size(), options.epochs,
             options.batch, options.seed, training.net().summary());
  return train_to_end(training, checkpoint, interrupt, program, folder);
}

}  // namespace

int main(int argc, char** argv) {
  return guarded("fashion_mnist", [&] { return run(parse_options(argc, argv), argv[0]); });
}
