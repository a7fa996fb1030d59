// The helpers of a training run: progress lines, late values, run folders and metrics, interrupts, and exact resume.
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <fstream>

#include "flame/autograd/autograd.h"
#include "flame/io/checkpoint.h"
#include "flame/nn/basic.h"
#include "flame/nn/linear.h"
#include "flame/ops/create.h"
#include "flame/ops/cross_entropy.h"
#include "flame/ops/random.h"
#include "flame/optim/adamw.h"
#include "flame/train/interrupt.h"
#include "flame/train/late_value.h"
#include "flame/train/progress.h"
#include "flame/train/resume.h"
#include "flame/train/run_folder.h"
#include "readers/reader.h"
#include "support/error.h"

using namespace flame;
using namespace flame::train;
using flame_test::Scratch;

namespace {

using test::message_of;
bool has(const std::string& s, const std::string& part) { return s.find(part) != std::string::npos; }

std::string shown(ProgressOptions::Style style, int steps, bool finish = true) {
  std::FILE* f = std::tmpfile();
  {
    ProgressBar bar({.label = "epoch 1/2", .total = 100, .unit = "images", .style = style, .out = f});
    for (int i = 0; i < steps; ++i) bar.update(1, 0.5);
    if (finish) bar.finish();
  }
  std::rewind(f);
  std::string text(1 << 16, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), f));
  std::fclose(f);
  return text;
}

}  // namespace

TEST(Progress, LineSaysSpeedValueAndTimeLeft) {
  const ProgressState s{"epoch 1/5", "images", "loss", 15000, 60000, 15000, 3.0, 0.41234};
  EXPECT_EQ(progress_line(s, 200, false, false), "epoch 1/5   25%  5,000 images/s  loss 0.4123  ETA 0:09");
  EXPECT_EQ(progress_line(s, 200, false, true), "epoch 1/5   25%  5,000 images/s  loss 0.4123  3.0 s");
}

TEST(Progress, SpeedLeavesOutWhatAnEarlierRunDid) {
  const ProgressState s{"e", "images", "loss", 50000, 60000, 10000, 100.0, {}};
  EXPECT_EQ(progress_line(s, 200, false, false), "e   83%  100 images/s  ETA 1:40");
}

TEST(Progress, NeverWiderThanTheTerminal) {
  const ProgressState s{"epoch 1/5", "images", "loss", 30000, 60000, 30000, 4000.0, 0.5};
  for (int width = 1; width < 120; ++width)
    EXPECT_LE(progress_line(s, width, true, false).size(), static_cast<size_t>(width));
  EXPECT_TRUE(has(progress_line(s, 120, true, false), "[===============>              ]"));
  EXPECT_FALSE(has(progress_line(s, 60, true, false), "["));
  EXPECT_TRUE(has(progress_line(s, 120, true, false), "ETA 1:06:40"));
}

TEST(Progress, PlainOutputIsALineEveryTenth) {
  const std::string text = shown(ProgressOptions::Style::plain, 100);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 10);
  EXPECT_EQ(text.find_first_of("\r\x1b"), std::string::npos);
  EXPECT_TRUE(has(text, "epoch 1/2   10%")) << text;
  EXPECT_TRUE(has(text, "epoch 1/2  100%")) << text;
  EXPECT_TRUE(has(text, "loss 0.5000")) << text;
  EXPECT_EQ(shown(ProgressOptions::Style::automatic, 100).find('\r'), std::string::npos);  // a file is no terminal
}

TEST(Progress, LiveOutputRedrawsOneLine) {
  const std::string text = shown(ProgressOptions::Style::live, 100);
  EXPECT_EQ(text.substr(0, 10), "\repoch 1/2");
  EXPECT_TRUE(has(text, "\x1b[K\n")) << text;  // what an older, longer line left behind is wiped
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_EQ(text.back(), '\n');
}

TEST(Progress, StoppedHalfwaySaysHowFarItCame) {
  EXPECT_TRUE(has(shown(ProgressOptions::Style::plain, 42, false), "epoch 1/2   42%"));
  EXPECT_EQ(shown(ProgressOptions::Style::silent, 100), "");
  const std::string m = message_of<ValueError>([] { ProgressBar bar({.total = 3, .done = 4}); });
  EXPECT_TRUE(has(m, "ProgressBar: 4 done of 3, expected 0 to 3")) << m;
}

TEST(LateValue, GivesTheValueOfTheStepBefore) {
  LateValue late;
  EXPECT_EQ(late.take(), std::nullopt);
  EXPECT_EQ(late.push(full({}, 1)), std::nullopt);
  EXPECT_EQ(late.push(full({}, 2)), 1.0);
  EXPECT_EQ(late.push(full({1}, 3, DType::f64)), 2.0);  // another shape and dtype
  EXPECT_EQ(late.take(), 3.0);
  EXPECT_EQ(late.take(), std::nullopt);
  const std::string m = message_of<ShapeError>([&] { late.push(full({2}, 1)); });
  EXPECT_TRUE(has(m, "LateValue: expected one element, got shape [2]")) << m;
}

TEST(LateValue, KeepsItsOwnCopy) {  // as the result of a recorded step is overwritten by the next call
  const State reused(full({}, 1));
  LateValue late;
  late.push(reused);
  reused.assign(full({}, 9));
  EXPECT_EQ(late.take(), 1.0);
}

TEST(Interrupt, FirstSignalSetsAFlagAndTheHandlerIsGivenBack) {
  const auto before = signal(SIGTERM, SIG_IGN);
  {
    const Interrupt interrupt;
    EXPECT_FALSE(interrupt.requested());
    raise(SIGTERM);
    EXPECT_TRUE(interrupt.requested());
    EXPECT_EQ(interrupt.signal(), SIGTERM);
    struct sigaction now {};
    sigaction(SIGTERM, nullptr, &now);
    EXPECT_EQ(now.sa_handler, SIG_DFL);  // a second one ends the process
  }
  EXPECT_EQ(signal(SIGTERM, before), SIG_IGN);
  EXPECT_FALSE(Interrupt().requested());
}

TEST(RunFolder, IsMadeWithItsParentsAndMustBeWritable) {
  const Scratch scratch;
  const RunFolder folder(scratch / "a/b/c//");
  EXPECT_EQ(folder.path(), scratch / "a/b/c");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));  // the probe is gone
  EXPECT_FALSE(folder.has_checkpoint());
  std::ofstream(scratch / "file") << "x";
  const std::string m = message_of<IoError>([&] { RunFolder f(scratch / "file/run"); });
  EXPECT_TRUE(has(m, "/file': Not a directory")) << m;
  EXPECT_TRUE(has(message_of<IoError>([] { RunFolder f("/proc/run"); }), "/proc/run"));
}

TEST(RunMetrics, ResumedFilesEqualThoseOfAnUninterruptedRun) {
  const Scratch scratch;
  const auto write = [](RunMetrics& m, int from, int to) {
    for (int i = from; i <= to; ++i) m.add(i, {{"loss", 1.0 / i}, {"lr", 1e-3}});
    m.add(to, {{"test_accuracy", 90.25}});
    m.flush();
  };
  const RunFolder whole(scratch / "whole"), cut(scratch / "cut");
  const std::vector<std::string> columns = {"loss", "lr", "test_accuracy"};
  RunMetrics a(whole, columns);
  write(a, 1, 9);
  {
    RunMetrics b(cut, columns);
    write(b, 1, 6);
  }
  RunMetrics b(cut, columns, 4);
  write(b, 5, 9);
  EXPECT_EQ(io::read_file(whole.metrics()), io::read_file(cut.metrics()));

  const auto read = read_metrics(cut.metrics());
  EXPECT_EQ(read.at("step"), (std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8, 9, 9}));
  EXPECT_EQ(static_cast<float>(read.at("loss")[2]), 1.0f / 3);
  EXPECT_TRUE(std::isnan(read.at("test_accuracy")[0]));
  EXPECT_EQ(read.at("test_accuracy")[9], 90.25);
  const std::string m = message_of<ValueError>([&] { b.add(10, {{"los", 1}}); });
  EXPECT_TRUE(has(m, "expected one of the columns loss, lr, test_accuracy, got 'los'")) << m;
}

TEST(RunMetrics, DamagedFilesAreNamed) {
  const Scratch scratch;
  const auto reading = [&](const std::string& text) {
    std::ofstream(scratch / "m.csv") << text;
    return message_of<FormatError>([&] { read_metrics(scratch / "m.csv"); });
  };
  EXPECT_TRUE(has(reading("step,loss\n1,2\n2,"), "the last line has no end"));
  EXPECT_TRUE(has(reading("step,loss\n1,2,3\n"), "line 2: 3 fields, expected 2"));
  EXPECT_TRUE(has(reading("step,loss\n1,zwei\n"), "line 2: 'zwei' is no number"));
  EXPECT_TRUE(has(reading(""), "the last line has no end"));
}

namespace {

struct Net : nn::Module {
  nn::Linear fc1{*this, "fc1", {.in = 4, .out = 16}};
  nn::Dropout dropout{*this, "dropout", {.p = 0.5}};
  nn::Linear fc2{*this, "fc2", {.in = 16, .out = 1}};
  Tensor forward(const Tensor& x) { return fc2(dropout(fc1(x))); }
};

struct Training {
  Training() { optimizer.set_schedule(optim::OneCycle{.max_lr = 0.05, .total_steps = 20}); }
  void steps(int n) {
    for (int i = 0; i < n; ++i, ++done) {
      const Tensor x = full({8, 4}, 0.1 * (done + 1));
      backward(mse_loss(net.forward(x), zeros({8, 1})));
      optimizer.step();
    }
  }
  std::vector<float> weights() const { return net.parameters()[0].tensor().to_vector<float>(); }
  Net net;
  optim::AdamW optimizer{net.parameters(), {.lr = 0.05}};
  int done = 0;
};

}  // namespace

TEST(Resume, GoesOnBitForBitAndEachPartMatters) {
  const Scratch scratch;
  Generator generator(7);
  const GeneratorScope scope(generator);
  Training whole;
  whole.steps(10);
  save_run(scratch / "c.safetensors", whole.net, whole.optimizer,
           {.step = 10, .loader = {2, 3}, .settings = {{"batch", "8"}}});
  whole.steps(10);

  const auto resumed = [&](const RestoreOptions& o) {
    generator.set_state({8, 0});
    Training t;
    const io::Checkpoint c = io::load_checkpoint(scratch / "c.safetensors");
    const RunPosition at = run_position(c);
    EXPECT_EQ(at.step, 10);
    EXPECT_EQ(at.loader, (data::LoaderState{2, 3}));
    EXPECT_EQ(at.settings, (io::Metadata{{"batch", "8"}}));
    restore_run(c, t.net, t.optimizer, o);
    t.done = 10;
    t.steps(10);
    return t.weights();
  };
  EXPECT_EQ(resumed({}), whole.weights());
  EXPECT_NE(resumed({.weights = false}), whole.weights());
  EXPECT_NE(resumed({.moments = false}), whole.weights());
  EXPECT_NE(resumed({.steps = false}), whole.weights());
  EXPECT_NE(resumed({.generator = false}), whole.weights());
}

TEST(Resume, ACheckpointOfSomethingElseIsNamed) {
  const Scratch scratch;
  const std::vector<io::NamedTensor> none;
  io::save_checkpoint(scratch / "c.safetensors", none, {{"step", "many"}});
  const io::Checkpoint c = io::load_checkpoint(scratch / "c.safetensors");
  const std::string m = message_of<FormatError>([&] { run_position(c); });
  EXPECT_TRUE(has(m, "the checkpoint's 'step' is 'many', expected a number")) << m;
}
