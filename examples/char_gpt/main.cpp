// Trains a small GPT on the characters of a text (the Jargon File), and lets it write. The model is in net.h.
#include <flame/flame.h>
#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>

#include "../common/program.h"
#include "net.h"
#include "options.h"
#include "text.h"

using namespace flame;

namespace {

Tensor loss_of(Gpt& net, const Tensor& x, const Tensor& y) {
  return cross_entropy(net.forward(x).flatten(0, 1), y.flatten());
}

// The objects whose state a checkpoint holds, and the loop over them.
class Run {
 public:
  Run(Options& options, const train::RunFolder& folder, const std::string& text)
      : options_(options),
        folder_(folder),
        vocabulary_(text),
        validation_(vocabulary_.encode(text.substr(text.size() / 10 * 9)), options.context),
        loader_(Windows(vocabulary_.encode(text.substr(0, text.size() / 10 * 9)), options.context),
                {.batch = options.batch, .shuffle = true, .seed = options.seed, .drop_last = true}) {
    optimizer_.set_schedule(schedule_);
    vocabulary_.encode(options.prompt);  // better refused now than after the training
  }

  void begin() {
    folder_.clear();
    metrics_ = std::make_unique<train::RunMetrics>(folder_, columns_);
    save();
  }
  void resume(const io::Checkpoint& c) {
    const train::RunPosition at = train::run_position(c);
    train::restore_run(c, net_, optimizer_);
    loader_.load_state(at.loader);
    step_ = noted_ = at.step;
    metrics_ = std::make_unique<train::RunMetrics>(folder_, columns_, at.step);
  }
  bool train(const train::Interrupt& interrupt);  // false if asked to stop before the end
  void finish();

  const Gpt& net() const { return net_; }
  int64_t step() const { return step_; }

 private:
  void note_loss(std::optional<double> loss);
  void evaluate();
  void save();
  std::string write(std::string text, int64_t count);

  const std::vector<std::string> columns_ = {"loss", "lr", "validation_loss"};
  Options& options_;
  const train::RunFolder& folder_;
  const Vocabulary vocabulary_;
  const Windows validation_;
  data::DataLoader<2> loader_;
  Gpt net_{{.vocabulary = vocabulary_.size(),
            .context = options_.context,
            .width = options_.width,
            .layers = options_.layers,
            .heads = options_.heads,
            .dropout = options_.dropout}};
  const optim::OneCycle schedule_{.max_lr = options_.lr, .total_steps = options_.steps, .pct_start = 0.1};
  optim::AdamW optimizer_{net_.parameters(), {.betas = {0.9, 0.99}, .weight_decay = 0.1}};
  std::unique_ptr<train::RunMetrics> metrics_;
  int64_t step_ = 0, noted_ = 0;  // steps done, and those whose loss is in the metrics
  double seconds_ = 0;            // spent on training
};

bool Run::train(const train::Interrupt& interrupt) {
  auto step = record([&](const Tensor& x, const Tensor& y) {
    Tensor loss = loss_of(net_, x, y);
    backward(loss);
    optimizer_.step({.max_norm = 1});  // clipped to a norm of 1
    return loss;
  });
  const int64_t characters = options_.batch * options_.context;
  train::ProgressBar bar{
      {.label = "training", .total = options_.steps * characters, .done = step_ * characters, .unit = "characters"}};
  train::LateValue losses;
  while (step_ < options_.steps) {
    for (auto& [x, y] : loader_) {
      const auto late = losses.push(step(x.to(default_device()), y.to(default_device())));
      note_loss(late);
      bar.update(characters, late);
      ++step_;
      const bool last = step_ == options_.steps, stop = interrupt.requested() && !last;
      if (stop || last || step_ % options_.evaluate_every == 0) {
        note_loss(losses.take());
        if (!stop) evaluate();
        save();
        if (stop) return false;
      }
      if (last) break;
    }
  }
  bar.finish();
  seconds_ = bar.seconds();
  return true;
}

void Run::note_loss(std::optional<double> loss) {
  if (!loss) return;
  metrics_->add(noted_ + 1, {{"loss", *loss}, {"lr", schedule_.at(noted_)}});
  ++noted_;
}

// The mean loss over windows spread evenly through the validation text.
void Run::evaluate() {
  NoGrad guard;
  net_.eval();
  constexpr int64_t batches = 8;
  double sum = 0;
  for (int64_t b = 0; b < batches; ++b) {
    std::vector<int64_t> places;
    for (int64_t i = 0; i < options_.batch; ++i)
      places.push_back((b * options_.batch + i) * (validation_.size() - 1) / (batches * options_.batch));
    const std::vector<Tensor> batch = validation_.get_batch(places);
    sum += loss_of(net_, batch[0].to(default_device()), batch[1].to(default_device())).item();
  }
  net_.train();
  metrics_->add(step_, {{"validation_loss", sum / batches}});
  fmt::print("step {}  validation loss {:.4f}\n", step_, sum / batches);
}

void Run::save() {
  metrics_->flush();
  train::save_run(folder_.checkpoint(), net_, optimizer_, {step_, loader_.state(), options_.settings().text()});
}

// `count` characters more, each drawn from the model's distribution.
std::string Run::write(std::string text, int64_t count) {
  NoGrad guard;
  net_.eval();
  Generator generator(options_.seed + 1);  // its own, so that the training's numbers stay what they are
  for (int64_t i = 0; i < count; ++i) {
    const std::vector<uint8_t> seen =
        vocabulary_.encode(text.substr(text.size() - std::min(text.size(), static_cast<size_t>(options_.context))));
    const Tensor x = Tensor::from(seen, {1, static_cast<int64_t>(seen.size())}).to(DType::i64);
    const Tensor next = net_.forward(x).select(1, -1).flatten();
    const auto p = softmax(next / options_.temperature, 0).to(DType::f64).to_vector<double>();
    double left = rand({}, {.generator = &generator}).item();
    size_t chosen = 0;
    while (chosen + 1 < p.size() && (left -= p[chosen]) > 0) ++chosen;
    text += vocabulary_.character(static_cast<int64_t>(chosen));
  }
  return text;
}

void Run::finish() {
  std::vector<io::NamedTensor> weights;
  for (const auto& [name, state] : net_.state_dict()) weights.emplace_back(name, state.tensor());
  io::save_safetensors(folder_.file("model.safetensors"), weights);

  const auto metrics = train::read_metrics(folder_.metrics());
  io::Series training{.name = "training", .x = {}, .y = {}, .faint = true}, validation{.name = "validation"};
  for (size_t i = 0; i < metrics.at("step").size(); ++i) {
    const bool validated = !std::isnan(metrics.at("validation_loss")[i]);
    io::Series& s = validated ? validation : training;
    s.x.push_back(metrics.at("step")[i]);
    s.y.push_back(metrics.at(validated ? "validation_loss" : "loss")[i]);
  }
  io::write_svg(folder_.file("loss.svg"), {.title = "A GPT on the characters of a text",
                                           .x_label = "step",
                                           .y_label = "cross-entropy a character",
                                           .series = {training, validation}});

  const std::string text = write(options_.prompt, options_.sample);
  io::write_file_atomic(folder_.file("sample.txt"), text + "\n");
  fmt::print("---\n{}\n---\n", text);
  if (seconds_ > 0) fmt::print("trained in {:.1f} s\n", seconds_);
  fmt::print("results in {}: model.safetensors, metrics.csv, loss.svg, sample.txt and a TensorBoard log\n",
             folder_.path());
}

int run(Options options, const char* program) {
  const train::Interrupt interrupt;
  const train::RunFolder folder(options.out);
  const std::optional<io::Checkpoint> checkpoint = start(options, folder);
  if (!io::file_exists(options.text))
    throw IoError("no text '" + options.text +
                      "': install it by `apt-get install jargon-text` (images without /usr/share/doc leave it out), or "
                      "name another by --text",
                  Loc::current());
  const std::string text = read_text(options.text);
  const auto crc = static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(text.data()), text.size()));
  if (checkpoint && crc != options.text_crc)
    throw ValueError("--resume: '" + options.text + "' is not the text that the run was begun with", Loc::current());
  options.text_crc = crc;

  manual_seed(options.seed);
  Run training(options, folder, text);
  fmt::print("device {}, {} threads; {} characters; {} steps, batch {}, context {}, seed {}\n{}\n",
             default_device().name(), options.threads, text.size(), options.steps, options.batch, options.context,
             options.seed, training.net().summary());
  return train_to_end(training, checkpoint, interrupt, program, folder);
}

}  // namespace

int main(int argc, char** argv) {
  return guarded("char_gpt", [&] { return run(parse_options(argc, argv), argv[0]); });
}
