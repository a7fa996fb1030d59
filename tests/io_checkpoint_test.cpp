// Checkpoints: the same bytes back, damage recognised, the previous one as a way back, kills at random moments.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <thread>

#include "flame/io/checkpoint.h"
#include "readers/reader.h"

using namespace flame;
using namespace flame::io;
using flame_test::Scratch;
using flame_test::write_plain;

namespace {

// Everything in version n tells n.
void save_version(const std::string& path, int64_t n) {
  const std::vector<NamedTensor> tensors{
      {"weight", Tensor::from(std::vector<float>(20'000, static_cast<float>(n)), {100, 200})},
      {"moment", Tensor::from(std::vector<double>(300, static_cast<double>(n)), {300})},
      {"step", Tensor::from(std::vector<int64_t>{n}, {})}};
  save_checkpoint(path, tensors, {{"loader", "{\"epoch\": " + std::to_string(n) + "}"}, {"seed", "7"}});
}

int64_t version_of(const Checkpoint& c) {
  const int64_t n = c.tensor("step").to_vector<int64_t>().at(0);
  EXPECT_EQ(c.tensors.size(), 3u);
  EXPECT_EQ(c.tensor("weight").to_vector<float>(), std::vector<float>(20'000, static_cast<float>(n)));
  EXPECT_EQ(c.tensor("moment").to_vector<double>(), std::vector<double>(300, static_cast<double>(n)));
  EXPECT_EQ(c.metadata, (Metadata{{"loader", "{\"epoch\": " + std::to_string(n) + "}"}, {"seed", "7"}}));
  return n;
}

}  // namespace

TEST(CheckpointFile, KeepsTheNewestAndTheOneBefore) {
  const Scratch dir;
  const std::string path = dir / "checkpoint.safetensors", previous = previous_checkpoint(path);
  EXPECT_EQ(previous, dir / "checkpoint.prev.safetensors");
  EXPECT_EQ(previous_checkpoint("a.b/model"), "a.b/model.prev");
  EXPECT_EQ(previous_checkpoint("a/.hidden"), "a/.hidden.prev");
  EXPECT_FALSE(checkpoint_exists(path));
  EXPECT_THROW(load_checkpoint(path), IoError);
  for (int64_t n = 1; n <= 3; ++n) {
    save_version(path, n);
    const Checkpoint c = load_checkpoint(path);
    EXPECT_EQ(version_of(c), n);
    EXPECT_EQ(c.note, "");
    EXPECT_THROW(c.tensor("none"), FormatError);
    EXPECT_THROW(c.text("none"), FormatError);
    EXPECT_EQ(c.text("seed"), "7");
  }
  EXPECT_EQ(version_of(load_checkpoint(previous)), 2);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2);
  EXPECT_EQ(load_safetensors(path).size(), 3u) << "a checkpoint is a plain safetensors file";
  EXPECT_THROW(save_checkpoint(path, {}, {{"flame.crc32c", "x"}}), ValueError);
}

TEST(CheckpointFile, SameContentSameBytes) {
  const Scratch dir;
  save_version(dir / "a", 5);
  save_version(dir / "b", 5);
  save_version(dir / "c", 6);
  EXPECT_EQ(read_file(dir / "a"), read_file(dir / "b"));
  EXPECT_NE(read_file(dir / "a"), read_file(dir / "c"));
}

TEST(CheckpointFile, DamageIsRecognised) {
  const Scratch dir;
  const std::string path = dir / "c.safetensors";
  save_version(path, 1);
  save_version(path, 2);
  const std::string good = read_file(path);
  std::mt19937 random(1);
  const int trials = flame_test::full_size() ? 3000 : 300;
  for (int i = 0; i < trials; ++i) {
    std::string bad = good;
    const size_t at = i < 200 ? static_cast<size_t>(i) : random() % bad.size();
    if (i % 3 == 2) bad.resize(at);
    else bad[at] = static_cast<char>(bad[at] ^ (1 << random() % 8));  // one bit anywhere
    write_plain(path, bad);
    const Checkpoint c = load_checkpoint(path);
    ASSERT_EQ(version_of(c), 1) << "byte " << at;
    ASSERT_NE(c.note.find("went back to"), std::string::npos);
  }
  // A save on top of a damaged newest one never loses the only whole one.
  save_version(path, 3);
  EXPECT_EQ(version_of(load_checkpoint(path)), 3);
  write_plain(path, "x");
  write_plain(previous_checkpoint(path), "y");
  EXPECT_THROW(load_checkpoint(path), FormatError);
}

TEST(CheckpointFile, AMissingNewestOneIsNoLoss) {
  const Scratch dir;
  const std::string path = dir / "c.safetensors";
  save_version(path, 1);
  save_version(path, 2);
  std::filesystem::remove(path);
  EXPECT_TRUE(checkpoint_exists(path));
  const Checkpoint c = load_checkpoint(path);
  EXPECT_EQ(version_of(c), 1);
  EXPECT_NE(c.note.find("is missing"), std::string::npos) << c.note;
  std::filesystem::remove(previous_checkpoint(path));
  write_plain(path, "x");
  EXPECT_THROW(load_checkpoint(path), FormatError);
}

// Saved without pause and killed at random moments: the newest always loads, and versions never go back.
TEST(CheckpointFile, KillDuringSaveLeavesAWholeOne) {
  const Scratch dir;
  const std::string path = dir / "c.safetensors";
  save_version(path, 1);
  save_version(path, 2);
  std::mt19937 random(9);
  int64_t last = 2;
  const int trials = flame_test::full_size() ? 500 : 50;
  for (int trial = 0; trial < trials; ++trial) {
    const pid_t pid = fork();
    if (pid == 0)
      for (int64_t n = last + 1;; ++n) save_version(path, n);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 15'000));
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    const Checkpoint c = load_checkpoint(path);
    const int64_t n = version_of(c);
    ASSERT_EQ(c.note, "") << "trial " << trial;
    ASSERT_GE(n, last) << "trial " << trial;
    const int64_t before = version_of(load_checkpoint(previous_checkpoint(path)));
    ASSERT_TRUE(before == n - 1 || before == n - 2) << before << " beside " << n;
    last = n;
  }
  EXPECT_GT(last, 2);
}
