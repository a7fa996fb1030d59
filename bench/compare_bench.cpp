// Trains a model of examples/models as bench/compare asks: makes the first step at once and says its loss on a line of JSON, then
// answers lines of input, each by a line:
//   steps N   N steps, each waited for: their seconds and losses
//   time S N  at least S seconds and N steps between two waits
//   about     peak memory, dtypes, what was recorded
// Systems: flame, recorded steps; flame_eager, the same function; flame_repeat, 50 recorded steps a call on batches drawn on the
// device, of which all but the first step's figures are means.
// compare_bench WORKLOAD --weights FILE [--data FILE] [--system flame] [--size full | small] [--device cuda:0]
//               [--precision float32 | tf32 | bf16] [--max-norm 1] [--check FILE]
// --check writes the first sample's logits, loss, gradients and the weights after one step to a file instead.
#include <flame/flame.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>

#include "compare_tasks.h"

using namespace flame;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

namespace {

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

using Flags = std::map<std::string, std::string>;
Flags flags_of(int argc, char** argv) {
  Flags f{{"--system", "flame"}, {"--size", "full"}, {"--device", "cuda:0"}};
  for (int i = 2; i < argc; i += 2) {
    static const std::set<std::string> known{"--weights", "--data",      "--system",   "--size",
                                             "--device",  "--precision", "--max-norm", "--check"};
    if (!known.contains(argv[i]) || i + 1 == argc)
      throw std::invalid_argument("unknown flag, or one without a value: " + std::string(argv[i]));
    f[argv[i]] = argv[i + 1];
  }
  if (f["--system"] != "flame" && f["--system"] != "flame_eager" && f["--system"] != "flame_repeat")
    throw std::invalid_argument("no system '" + f["--system"] + "'; there are flame, flame_eager and flame_repeat");
  if (f["--size"] != "full" && f["--size"] != "small")
    throw std::invalid_argument("no size '" + f["--size"] + "'; there are full and small");
  return f;
}

Tensor channels_last(const Tensor& x) { return x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2}); }
// The batches of a source, one after the other.
Tensor drawn(const Source& s, int64_t samples) {
  Dims shape{samples};
  for (const int64_t n : s.item) shape.push_back(n);
  if (s.classes > 0) return randint(0, s.classes, shape);
  if (!s.channels_last) return randn(shape);
  return randn({samples, s.item[1], s.item[2], s.item[0]}).permute({0, 3, 1, 2});
}

class Training {
 public:
  Training(const std::string& workload, Flags f)
      : flags_(std::move(f)),
        task_(task_of(workload, flags_["--size"] == "small")),
        precision_(flags_.contains("--precision") ? flags_["--precision"] : task_.precision),
        max_norm_(flags_.contains("--max-norm") ? std::stod(flags_["--max-norm"]) : task_.max_norm) {
    if (precision_ != "float32" && precision_ != "tf32" && precision_ != "bf16")
      throw std::invalid_argument("no precision '" + precision_ + "'; there are float32, tf32 and bf16");
    set_matmul_precision(precision_ == "float32" ? "highest" : "high");
    task_.model->load_state(io::load_safetensors(flags_.at("--weights")));
    const bool reads = flags_.contains("--data");
    for (size_t i = 0; i < task_.sources.size(); ++i) {
      const Source& s = task_.sources[i];
      if (reads) data_.push_back(io::SafetensorsFile(flags_["--data"]).load(std::to_string(i)));
      else data_.push_back(drawn(s, task_.batch * task_.batches));
      if (reads && s.channels_last) data_.back() = channels_last(data_.back());
      data_.back().data();
    }
    if (flags_["--system"] != "flame_repeat") return;
    if (data_.size() != 2) throw std::invalid_argument("flame_repeat: only for batches of two tensors");
    const auto fn = [this](const Tensor& x, const Tensor& y) { return train({x, y}); };
    repeated_.emplace(repeat(50, std::function<Tensor(const Tensor&, const Tensor&)>(fn),
                             DeviceBatches(data_, {.batch = task_.batch})));
  }

  int steps_a_call() const { return repeated_ ? 50 : 1; }
  // The losses of a call.
  Tensor call() {
    if (repeated_) return (*repeated_)();
    const Tensors in = batch(count_++);
    return flags_["--system"] == "flame" ? recorded_(in)[0] : train(in);
  }
  void check(const std::string& path);
  json about();
  const Task& task() const { return task_; }

 private:
  // Batch i, views of what is on the device.
  Tensors batch(int64_t i) const {
    Tensors in;
    for (const Tensor& all : data_)
      in.push_back(all.narrow(0, i % (all.size(0) / task_.batch) * task_.batch, task_.batch));
    return in;
  }
  // fn(in) in the precision that was asked for.
  Tensor cast(const Task::Fn& fn, const Tensors& in) const {
    const AutocastScope scope(precision_ == "bf16" ? std::optional(DType::bf16) : std::nullopt);
    return fn(in);
  }
  Tensor train(const Tensors& in) {
    const Tensor loss = cast(task_.loss, in);
    backward(loss);
    optimizer_.step({.max_norm = max_norm_});
    return loss.detach();
  }

  Flags flags_;
  Task task_;
  const std::string precision_;
  const double max_norm_;
  Tensors data_;
  int64_t count_ = 0;
  optim::AdamW optimizer_{task_.model->parameters(), {.lr = 1e-4}};
  using Repeated =
      decltype(repeat(1, std::function<Tensor(const Tensor&, const Tensor&)>(), std::declval<DeviceBatches>()));
  std::optional<Repeated> repeated_;
  RecordedStep recorded_{[this](const Tensors& in) { return Tensors{train(in)}; }, {}};
};

void Training::check(const std::string& path) {
  const Tensors in = batch(0);
  const Tensor logits = no_grad([&] { return cast(task_.forward, in).narrow(0, 0, 1); }), loss = cast(task_.loss, in);
  std::vector<io::NamedTensor> out{{"logits", logits}, {"loss", loss.detach()}};
  backward(loss);
  for (const auto& [name, p] : task_.model->named_parameters()) out.emplace_back("gradient." + name, p.grad());
  optimizer_.step({.max_norm = max_norm_});
  for (const auto& [name, p] : task_.model->named_parameters()) out.emplace_back("after." + name, p.tensor());
  io::save_safetensors(path, out);
}

json Training::about() {
  const MemoryStats m = memory_stats();  // before the steps below
  const RecordStats r = repeated_ ? repeated_->stats() : recorded_.stats();
  std::set<std::string> weights, gradients, moments;
  backward(cast(task_.loss, batch(0)));
  for (const Parameter& p : task_.model->parameters()) {
    weights.emplace(name_of(p.dtype()));
    gradients.emplace(name_of(p.grad().dtype()));
  }
  task_.model->zero_grad();
  for (const auto& [name, t] : optimizer_.state_dict())
    if (name != "steps" && name != "options") moments.emplace(name_of(t.dtype()));
  const NoGrad guard;
  return {{"peak_memory", m.peak},
          {"recording_memory", m.recordings},
          {"precision", precision_},
          {"dtypes",
           {{"weights", weights},
            {"gradients", gradients},
            {"moments", moments},
            {"residual", std::string(name_of(cast(task_.body, batch(0)).dtype()))},
            {"logits", std::string(name_of(cast(task_.forward, batch(0)).dtype()))}}},
          {"recorded",
           {{"calls", r.calls},
            {"replays", r.replays},
            {"recordings", r.recordings},
            {"misses", r.misses},
            {"last_miss", r.last_miss},
            {"launches", r.launches},
            {"arena_bytes", r.arena_bytes}}}};
}

json steps(Training& t, int64_t count) {
  std::vector<double> seconds, losses;
  for (int64_t i = 0; i < count; i += t.steps_a_call()) {
    const auto start = Clock::now();
    for (const float loss : t.call().flatten().to_vector<float>()) losses.push_back(loss);
    seconds.resize(losses.size(), seconds_since(start) / t.steps_a_call());
  }
  return {{"seconds", seconds}, {"losses", losses}};
}

json timed(Training& t, double least, int64_t least_steps) {
  const auto run = [&](int64_t calls) {
    default_device().synchronize();
    const auto start = Clock::now();
    for (int64_t i = 0; i < calls; ++i) t.call();
    default_device().synchronize();
    return seconds_since(start);
  };
  const int64_t each = t.steps_a_call();
  run(3);
  const auto count =
      std::max<int64_t>((least_steps + each - 1) / each, static_cast<int64_t>(1.1 * least / (run(10) / 10)) + 1);
  const Stats before = stats();
  const double seconds = run(count);
  const Stats after = stats();
  empty_cache();
  return {{"seconds", seconds},
          {"steps", count * each},
          {"launches", after.launches - before.launches},
          {"misses", after.recording_misses - before.recording_misses}};
}

}  // namespace

int main(int argc, char** argv) try {
  const auto start = Clock::now();
  if (argc < 2)
    throw std::invalid_argument("which workload? " + std::string("compare_bench WORKLOAD --weights FILE ..."));
  Flags flags = flags_of(argc, argv);
  set_default_device(device(flags["--device"]));
  manual_seed(0);
  Training training(argv[1], flags);
  if (flags.contains("--check")) return training.check(flags["--check"]), 0;
  const double loss = training.call().flatten().select(0, 0).item();
  const auto say = [](const json& answer) { std::cout << answer.dump() << std::endl; };
  say({{"loss", loss},
       {"since_main", seconds_since(start)},
       {"items", training.task().items},
       {"unit", training.task().unit}});
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string what;
    double n = 0;
    int64_t least = 50;
    words >> what >> n >> least;
    if (what == "steps") say(steps(training, static_cast<int64_t>(n)));
    else if (what == "time") say(timed(training, n, least));
    else if (what == "about") say(training.about()), empty_cache();
    else throw std::invalid_argument("cannot " + line);
  }
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "compare_bench: %s\n", e.what());
  return 1;
}
