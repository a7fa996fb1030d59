// Logs that a resumed run goes on with: TensorBoard events, as TensorBoard itself reads them, and metrics.csv.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <sstream>

#include "flame/io/event_log.h"
#include "flame/io/metrics.h"
#include "readers/reader.h"

using namespace flame;
using namespace flame::io;
using flame_test::Scratch;
using flame_test::write_plain;

namespace {

using Events = std::map<std::pair<std::string, int64_t>, uint32_t>;  // tag, step -> bits of the value

Events tensorboard_reads(const std::string& python, const std::string& path) {
  const auto out = flame_test::run("TF_CPP_MIN_LOG_LEVEL=3 " + python + " " + flame_test::reader("read_events.py") +
                                   " " + path + " 2>/dev/null");
  EXPECT_EQ(out.status, 0) << out.text;
  Events events;
  std::istringstream in(out.text);
  std::string tag, bits;
  int64_t step;
  while (in >> tag >> step >> bits) events[{tag, step}] = static_cast<uint32_t>(std::stoul(bits, nullptr, 16));
  return events;
}

float loss(int64_t step) { return 2.3f / static_cast<float>(1 + step); }

void log_steps(EventLog& log, Events& expected, int64_t from, int64_t to) {
  for (int64_t s = from; s < to; ++s) {
    log.add_scalar("train/loss", loss(s), s);
    log.add_scalar("lr", 1e-3f, s);
    expected[{"train/loss", s}] = std::bit_cast<uint32_t>(loss(s));
    expected[{"lr", s}] = std::bit_cast<uint32_t>(1e-3f);
  }
}

}  // namespace

TEST(EventLog, TensorBoardReadsTheValuesBack) {
  const std::string python = flame_test::python_with("tensorboard");
  if (python.empty()) GTEST_SKIP() << "no Python with tensorboard";
  const Scratch dir;
  const std::string path = dir / "events.out.tfevents.1";
  Events expected;
  {
    EventLog log(path);
    log_steps(log, expected, 0, 2000);
    for (const float v : {0.0f, -0.0f, 1e-45f, 3.4e38f, std::numeric_limits<float>::infinity()}) {
      const int64_t step = 5'000'000'000 + static_cast<int64_t>(expected.size());
      log.add_scalar("odd", v, step);
      expected[{"odd", step}] = std::bit_cast<uint32_t>(v);
    }
  }
  EXPECT_EQ(tensorboard_reads(python, path), expected);
}

TEST(EventLog, ResumeCutsTornAndLaterEvents) {
  const Scratch dir;
  const std::string path = dir / "events.out.tfevents.1";
  Events expected, ignored;
  {
    EventLog log(path);
    log_steps(log, expected, 0, 50);
    log_steps(log, ignored, 50, 80);
  }
  {
    AppendFile torn(path, read_file(path).size() - 7);  // killed within a write
  }
  {
    EventLog log(path, {.keep_until = 49});
    log_steps(log, expected, 50, 60);
  }
  // 1 version event and 120 scalars, and each byte accounted for: resuming at the end keeps the file as it is.
  const std::string whole = read_file(path);
  { EventLog log(path, {.keep_until = 59}); }
  EXPECT_EQ(read_file(path), whole);
  const std::string python = flame_test::python_with("tensorboard");
  if (python.empty()) GTEST_SKIP() << "no Python with tensorboard";
  EXPECT_EQ(tensorboard_reads(python, path), expected);
}

TEST(EventLog, EveryTornLengthResumes) {
  const Scratch dir;
  const std::string path = dir / "events.out.tfevents.1";
  {
    EventLog log(path);
    for (int64_t s = 0; s < 3; ++s) log.add_scalar("a", 1.0f, s);
  }
  const std::string whole = read_file(path);
  size_t before = 0;
  for (size_t n = 0; n <= whole.size(); ++n) {
    write_plain(path, whole.substr(0, n));
    { EventLog log(path, {.keep_until = 100}); }
    const std::string kept = read_file(path);
    EXPECT_GE(kept.size(), before);
    if (n > 60) { EXPECT_EQ(kept, whole.substr(0, kept.size())) << n; }
    before = kept.size();
  }
  EXPECT_EQ(before, whole.size());
  { EventLog log(path); }  // without keep_until: a new file
  EXPECT_LT(read_file(path).size(), 60u);
  write_plain(path, std::string(500, 'x'));
  EXPECT_THROW(EventLog(path, {.keep_until = 1}), FormatError);
  EXPECT_EQ(read_file(path), std::string(500, 'x')) << "another program's file was changed";
  EXPECT_THROW(EventLog(dir / "no/tfevents"), IoError);
}

TEST(MetricsFile, NumbersReadBackExactly) {
  const Scratch dir;
  {
    MetricsFile m(dir / "m.csv", {"loss", "accuracy"});
    m.add_row(1, {0.1f, 0.9125});
    m.add_row(2, {std::nan(""), 1e-30});
    m.add_row(2, {3, 0.1});
    m.add_row(30, {std::numeric_limits<double>::infinity(), 1.0 / 3});
    EXPECT_THROW(m.add_row(4, {1, 2}), ValueError);
    EXPECT_THROW(m.add_row(40, {1}), ValueError);
  }
  EXPECT_EQ(read_file(dir / "m.csv"),
            "step,loss,accuracy\n1,0.1,0.9125\n2,,1e-30\n2,3,0.1\n30,inf,0.3333333333333333\n");
  EXPECT_THROW(MetricsFile(dir / "m.csv", {"a,b"}), ValueError);
  EXPECT_THROW(MetricsFile(dir / "m.csv", {""}), ValueError);
}

TEST(MetricsFile, AResumedRunEndsWithTheSameFile) {
  const Scratch dir;
  const auto run_steps = [](MetricsFile& m, int64_t from, int64_t to) {
    for (int64_t s = from; s <= to; ++s) m.add_row(s, {loss(s), s % 10 ? std::nan("") : 0.5});
  };
  const std::vector<std::string> columns{"loss", "accuracy"};
  {
    MetricsFile m(dir / "whole.csv", columns);
    run_steps(m, 1, 100);
  }
  const std::string whole = read_file(dir / "whole.csv");
  for (size_t torn = 0; torn <= whole.size(); torn += 13) {  // killed with this much of the file written
    write_plain(dir / "part.csv", whole.substr(0, torn));
    const std::string text = whole.substr(0, torn);
    const int64_t rows = std::max<int64_t>(0, std::count(text.begin(), text.end(), '\n') - 1);
    {
      MetricsFile m(dir / "part.csv", columns, {.keep_until = rows / 2});  // the checkpoint is older than the log
      run_steps(m, rows / 2 + 1, 100);
    }
    ASSERT_EQ(read_file(dir / "part.csv"), whole) << torn;
  }
  EXPECT_THROW(MetricsFile(dir / "whole.csv", {"other"}, {.keep_until = 5}), FormatError);
  write_plain(dir / "bad.csv", "step,loss,accuracy\nx,1,2\n");
  EXPECT_THROW(MetricsFile(dir / "bad.csv", columns, {.keep_until = 5}), FormatError);
  EXPECT_EQ(read_file(dir / "whole.csv"), whole);
}
