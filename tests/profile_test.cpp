// The profiler: what it notes of ops, launches, scopes and memory, with bytes and operations counted by hand, and that its file is a
// Chrome trace.
#include "flame/train/profiler.h"

#include <flame/flame.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "flame/device/profile.h"
#include "flame/fuse/island.h"
#include "flame/train/profile_internal.h"
#include "tests/support/error.h"

namespace flame {
namespace {

using Json = nlohmann::json;
using train::Profiler;
using train::ProfileRow;
using train::ProfileScope;

class Profiling : public testing::Test {
 protected:
  std::filesystem::path folder_ = std::filesystem::path(testing::TempDir()) / ("profile_" + std::to_string(getpid()));
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string file() const { return (folder_ / "trace.json").string(); }
  Json events() const { return Json::parse(io::read_file(file()))["traceEvents"]; }
};

Tensor ready(const Shape& s) {
  Tensor x = full(s, 0.5);
  materialize(*x.value_ref());
  return x;
}
void run(const Tensor& x) { materialize(*x.value_ref()); }

const ProfileRow& row(const std::vector<ProfileRow>& rows, const std::string& name) {
  for (const ProfileRow& r : rows)
    if (r.name == name) return r;
  ADD_FAILURE() << "no row " << name;
  static const ProfileRow none;
  return none;
}
std::vector<Json> those(const Json& events, const std::string& key, const std::string& value) {
  std::vector<Json> out;
  for (const Json& e : events)
    if (e.value(key, "") == value) out.push_back(e);
  return out;
}
bool inside(const Json& inner, const Json& outer) {
  const double slack = 1e-3;  // times are printed as doubles of microseconds
  const auto end = [](const Json& e) { return e["ts"].get<double>() + e["dur"].get<double>(); };
  return inner["tid"] == outer["tid"] && inner["ts"].get<double>() >= outer["ts"].get<double>() - slack &&
         end(inner) <= end(outer) + slack;
}
// As chrome://tracing wants each phase.
void check_event(const Json& e) {
  const std::string ph = e.at("ph");
  ASSERT_TRUE(e.at("name").is_string() && e.at("pid").is_number_integer() && e.at("tid").is_number_integer()) << e;
  ASSERT_TRUE(e.at("ts").is_number() && e["ts"] >= 0) << e;
  if (ph == "X") {
    ASSERT_TRUE(e.at("dur").is_number() && e["dur"] >= 0 && e.at("cat").is_string()) << e;
  } else if (ph == "C") {
    for (const auto& [kind, value] : e.at("args").items()) ASSERT_TRUE(value.is_number()) << e;
  } else if (ph == "M") {
    ASSERT_TRUE(e["name"] == "process_name" || e["name"] == "thread_name") << e;
    ASSERT_TRUE(e.at("args").at("name").is_string()) << e;
  } else {
    ASSERT_TRUE(ph == "s" || (ph == "f" && e.at("bp") == "e")) << e;
    ASSERT_TRUE(e.at("id").is_number() && e.at("cat").is_string()) << e;
  }
}

TEST_F(Profiling, IsAChromeTraceOfScopesOpsAndLaunches) {
  nn::Linear layer({.in = 8, .out = 4});
  const Tensor x = ready({16, 8});
  Profiler p{{.trace = file()}};
  {
    const ProfileScope step("step");
    Tensor loss;
    {
      const ProfileScope scope("forward \"quoted\"\n\xff");
      loss = relu(layer(x)).sum();
    }
    {
      const ProfileScope scope("backward");
      backward(loss);
    }
    std::thread([] {
      const ProfileScope scope("beside");
      matmul(ready({4, 4}), ready({4, 4}));
    }).join();
  }
  p.stop();
  const ProfileScope late("after the end");
  run(x + 1);

  const Json all = events();
  for (const Json& e : all) check_event(e);
  const auto scope = [&](const std::string& name) {
    const std::vector<Json> found = those(all, "name", name);
    EXPECT_EQ(found.size(), 1u) << name;
    return found.empty() ? Json() : found[0];
  };
  const Json step = scope("step"), forward = scope("forward \"quoted\"\n\xef\xbf\xbd"), back = scope("backward"),
             beside = scope("beside");
  EXPECT_TRUE(inside(forward, step));
  EXPECT_TRUE(inside(back, step));
  EXPECT_FALSE(inside(back, forward));
  EXPECT_NE(beside["tid"], step["tid"]);
  const std::vector<Json> linear = those(all, "name", "linear");
  ASSERT_EQ(linear.size(), 2u);  // the op, and its node in the backward, which ends later
  EXPECT_EQ(linear[0]["cat"], "op");
  EXPECT_TRUE(inside(linear[0], forward));
  EXPECT_EQ(linear[1]["cat"], "backward");
  EXPECT_TRUE(inside(linear[1], back));
  EXPECT_NE(linear[1]["args"]["at"].get<std::string>().find("profile_test.cpp:"), std::string::npos);
  const Json gemm = scope("linear: gemm");
  EXPECT_EQ(gemm["cat"], "kernel");
  EXPECT_TRUE(inside(gemm, linear[0]));
  EXPECT_EQ(gemm["args"]["bytes"], 4 * (16 * 8 + 4 * 8 + 4 + 16 * 4));
  EXPECT_EQ(gemm["args"]["flops"], 2 * 16 * 8 * 4);
  EXPECT_EQ(gemm["args"]["dtype"], "float32");
  EXPECT_TRUE(those(all, "name", "after the end").empty());
  std::vector<Json> products = those(all, "name", "matmul: gemm");
  ASSERT_FALSE(products.empty());
  EXPECT_TRUE(std::any_of(products.begin(), products.end(), [&](const Json& e) { return inside(e, beside); }));
}

TEST_F(Profiling, CountsTheBytesAndOperationsOfLaunches) {
  const Tensor a = ready({64, 32}), b = ready({32, 16}), x = ready({6, 100}), row_of = ready({100}),
               one = ready({6, 1}), images = ready({2, 6, 9, 9}), filter = ready({4, 3, 3, 3}), q = ready({2, 4, 5, 8}),
               k = ready({2, 4, 7, 8});
  std::vector<int64_t> places{1, 0, 3};
  const Tensor index = Tensor::from(places, {3});
  Profiler p;
  for (int i = 0; i < 3; ++i) matmul(a, b);
  run([&] { return x * row_of + 2; }());  // one island: two leaves, one output
  conv2d(images, filter, {}, {.stride = 2, .groups = 2});
  scaled_dot_product_attention(q, k, k, {.causal = true});
  index_select(a, 0, index);
  run(one.expand({6, 100}) - x);  // a repeated axis counts once
  p.stop();
  const std::vector<ProfileRow>& rows = p.rows();
  const ProfileRow& gemm = row(rows, "matmul: gemm");
  EXPECT_EQ(gemm.calls, 3u);
  EXPECT_EQ(gemm.bytes, 3 * 4 * (64 * 32 + 32 * 16 + 64 * 16));
  EXPECT_EQ(gemm.flops, 3 * 2 * 64 * 32 * 16);
  EXPECT_EQ(gemm.device, "cpu");
  EXPECT_GT(gemm.seconds, 0);
  EXPECT_GT(gemm.floor, 0);
  EXPECT_EQ(row(rows, "scaled_dot_product_attention: attention").flops,
            2 * 2 * 4 * (5 * 6 / 2) * (8 + 8));  // causal: 15 pairs of 35
  for (size_t i = 1; i < rows.size(); ++i) EXPECT_GE(rows[i - 1].seconds, rows[i].seconds);
  int64_t convolution = 0;
  for (const ProfileRow& r : rows)
    if (r.name.find("conv2d") == 0) convolution += r.flops;
  EXPECT_EQ(convolution, 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3));

  p.write_trace(file());
  std::vector<int64_t> islands;
  for (const Json& e : events())
    if (e["name"].get<std::string>().find(": island(") != std::string::npos) islands.push_back(e["args"]["bytes"]);
  ASSERT_GE(islands.size(), 3u);
  EXPECT_EQ(islands.front(), 4 * (600 + 100 + 600));
  EXPECT_EQ(islands.back(), 4 * (6 + 600 + 600));
  EXPECT_EQ(row(rows, "mul+add: island(2 ops)").calls, 1u);
}

TEST_F(Profiling, CountsWhatAnOptimizerMoves) {
  nn::Linear layer({.in = 10, .out = 3});
  optim::AdamW opt{layer.parameters(), {.lr = 0.1}};
  backward(layer(ready({2, 10})).sum());
  Profiler p;
  opt.step();
  p.stop();
  EXPECT_EQ(row(p.rows(), "AdamW").bytes, (30 + 3) * 4 * (1 + 2 + 2 + 2));  // gradient; parameter, two moments twice
}

TEST_F(Profiling, SeesReplaysOfRecordedSteps) {
  const Tensor w = ready({8, 8});
  auto step = record([&](const Tensor& x) { return exp(matmul(x, w)).sum(); });
  const Tensor x = ready({4, 8});
  for (int i = 0; i < 3; ++i) step(x);
  Profiler p{{.trace = file()}};
  for (int i = 0; i < 5; ++i) step(x);
  p.stop();
  const Json all = events();
  const std::vector<Json> steps = those(all, "name", "recorded step"), products = those(all, "name", "matmul: gemm");
  ASSERT_EQ(steps.size(), 5u);
  ASSERT_EQ(products.size(), 5u);
  for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(inside(products[i], steps[i]));
  EXPECT_EQ(row(p.rows(), "matmul: gemm").bytes, 5 * 4 * (4 * 8 + 8 * 8 + 4 * 8));
}

TEST_F(Profiling, ShowsMemoryByKind) {
  const size_t before = memory_stats().tensors;
  Profiler p{{.trace = file()}};
  {
    const Ref<Storage> large = make_ref<Storage>(cpu(), size_t{1} << 20, Loc::current());
    const Ref<Storage> scratch = make_ref<Storage>(cpu(), size_t{1} << 16, Loc::current(), MemoryKind::workspace);
    EXPECT_EQ(memory_stats().tensors, before + (size_t{1} << 20));
  }
  p.stop();
  EXPECT_EQ(memory_stats().tensors, before);
  std::vector<Json> args;
  for (const Json& e : those(events(), "name", "memory of cpu")) args.push_back(e["args"]);
  ASSERT_EQ(args.size(), 5u);  // at the start, two allocations, two returns
  const auto rise = [&](size_t i, const char* kind) {
    return args[i][kind].get<int64_t>() - args[0][kind].get<int64_t>();
  };
  EXPECT_EQ(rise(1, "tensors"), 1 << 20);
  EXPECT_EQ(rise(1, "workspace"), 0);
  EXPECT_EQ(rise(2, "workspace"), 1 << 16);
  EXPECT_EQ(rise(3, "workspace"), 0);
  EXPECT_EQ(rise(4, "tensors"), 0);
}

TEST_F(Profiling, PrintsATable) {
  std::vector<ProfileRow> rows{{"gemm", "cpu", 4, 2e-3, 1e-3, 8'000'000, 4'000'000'000},
                               {"fill", "cpu", 2, 1e-3, 0, 0, 0},
                               {"island(2 ops)", "cpu", 1, 1e-3, 1e-4, 4'000'000, 0}};
  EXPECT_EQ(train::table_of(rows, {}),
            "name           device    calls   total ms      %    mean us    MB/call     GB/s  TFLOP/s   floor\n"
            "gemm           cpu           4      2.000   50.0      500.0      2.000      4.0    2.000    50 %\n"
            "fill           cpu           2      1.000   25.0      500.0          -        -        -       -\n"
            "island(2 ops)  cpu           1      1.000   25.0     1000.0      4.000      4.0        -    10 %\n");
  const auto first = [&](train::ProfileSort s) {
    const std::string text = train::table_of(rows, {.sort = s, .rows = 1});
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
    const size_t line = text.find('\n') + 1;
    return text.substr(line, text.find("  ", line) - line);
  };
  EXPECT_EQ(first(train::ProfileSort::mean), "island(2 ops)");
  EXPECT_EQ(first(train::ProfileSort::calls), "gemm");
  EXPECT_EQ(first(train::ProfileSort::bytes), "gemm");
  EXPECT_EQ(first(train::ProfileSort::lost), "gemm");
  EXPECT_EQ(first(train::ProfileSort::name), "fill");
  EXPECT_EQ(train::table_of({}, {}).find("name"), 0u);
}

// What a GPU tells: kernels by their launches, and those of a graph by its nodes where each was seen.
TEST_F(Profiling, GivesKernelsToTheirLaunches) {
  Profile p;
  const auto parts = std::make_shared<std::vector<ProfilePart>>();
  parts->push_back({"linear: gemm", {.bytes = 100, .flops = 0}, 2});
  parts->push_back({"island(3 ops)", {.bytes = 7}, 1, {"island"}});
  p.ranges.push_back({RangeKind::launch, 0, "sort", 0, 10, 1, &cpu(), {.bytes = 40}});
  p.ranges.push_back({RangeKind::launch, 0, "recorded step", 10, 20, 2, &cpu(), {}, parts});
  p.ranges.push_back({RangeKind::launch, 0, "recorded step", 20, 30, 3, &cpu(), {}, parts});
  p.ranges.push_back({RangeKind::launch, 0, "recorded step", 30, 40, 4, &cpu(), {}, parts});
  p.activities = {{"radix", 5, 7, "cuda:0", 7, 1, 0},      {"radix", 2, 4, "cuda:0", 7, 1, 0},
                  {"island", 16, 17, "cuda:0", 9, 2, 103}, {"sgemm", 12, 14, "cuda:0", 7, 2, 101},
                  {"splitk", 14, 15, "cuda:0", 7, 2, 102}, {"copy host to device", 30, 31, "cuda:0", 8, 0, 0},
                  {"sgemm", 22, 24, "cuda:0", 7, 3, 101},  {"island", 32, 33, "cuda:0", 7, 4, 101},
                  {"sgemm", 33, 34, "cuda:0", 7, 4, 102},  {"splitk", 34, 35, "cuda:0", 7, 4, 103}};
  const std::vector<train::ActivityCause> causes = train::causes_of(p);
  std::string text;
  for (const train::ActivityCause& c : causes)
    text += c.name + (c.first ? " " : " again ") + std::to_string(c.work.bytes) + "\n";
  EXPECT_EQ(text,
            "sort again 40\nsort 40\nisland(3 ops) 7\nlinear: gemm 100\nlinear: gemm again 100\ncopy host to device 0\n"
            "sgemm 0\n"                        // of the second step one node was seen: it goes by its own name
            "island 0\nsgemm 0\nsplitk 0\n");  // and in the third a kernel of a known name stands where it must not
  std::vector<ProfileRow> rows = train::rows_of(p);
  std::erase_if(rows, [](const ProfileRow& r) { return r.device != "cuda:0"; });
  const ProfileRow& sort = row(rows, "sort");
  EXPECT_EQ(sort.calls, 1u);
  EXPECT_EQ(sort.bytes, 40);
  EXPECT_DOUBLE_EQ(sort.seconds, 4e-9);
  train::write_chrome_trace(p, file(), Loc::current());
  const Json all = events();
  for (const Json& e : all) check_event(e);
  EXPECT_EQ(those(all, "ph", "f").size(), 4u);  // an arrow to the first kernel of each launch
  EXPECT_EQ(those(all, "ph", "M").size(), 6u);  // the host, its thread, the GPU, three streams
}

TEST_F(Profiling, RefusesWhatCannotBe) {
  const auto message = [](const auto& fn) { return test::message_of<ValueError>(fn); };
  {
    Profiler p;
    EXPECT_NE(message([&] { p.rows(); }).find("expected stop() before rows()"), std::string::npos);
    EXPECT_NE(message([&] { p.table(); }).find("table()"), std::string::npos);
    EXPECT_NE(message([&] { p.write_trace(file()); }).find("write_trace()"), std::string::npos);
    EXPECT_NE(message([] { Profiler second; }).find("another one is at work"), std::string::npos);
    EXPECT_TRUE(profiling());
  }
  EXPECT_FALSE(profiling());
  Profiler p{{.trace = (folder_ / "no" / "such" / "folder.json").string()}};
  EXPECT_THROW(p.stop(), IoError);
  EXPECT_FALSE(profiling());
  p.stop();  // again: nothing
  EXPECT_TRUE(p.rows().empty());
}

}  // namespace
}  // namespace flame
