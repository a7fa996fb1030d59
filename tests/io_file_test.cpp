// Atomic files under errors, full disks and kill -9; append files, maps, checksums.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <random>
#include <thread>

#include "flame/io/crc32c.h"
#include "flame/io/file.h"
#include "readers/reader.h"
#include "support/error.h"

using namespace flame;
using namespace flame::io;
using flame_test::Scratch;

namespace {

using test::message_of;
bool has(const std::string& s, const std::string& part) { return s.find(part) != std::string::npos; }

// Runs `body` in a child process and gives its wait status.
template <class F>
int in_child(F&& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return status;
}

}  // namespace

TEST(Crc32c, KnownAnswers) {  // RFC 3720, appendix B.4
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string up, down;
  for (int i = 0; i < 32; ++i) up += static_cast<char>(i), down += static_cast<char>(31 - i);
  EXPECT_EQ(crc32c(up), 0x46dd794eu);
  EXPECT_EQ(crc32c(down), 0x113fdb5cu);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  const std::string text = "The quick brown fox jumps over the lazy dog";
  for (size_t cut = 0; cut <= text.size(); ++cut)
    EXPECT_EQ(crc32c(text.substr(cut), crc32c(text.substr(0, cut))), crc32c(text));
}

TEST(AtomicFile, WritesReplacesAndKeepsThePrevious) {
  const Scratch dir;
  const std::string path = dir / "a", previous = dir / "b";
  write_file_atomic(path, "one");
  EXPECT_EQ(read_file(path), "one");
  for (const char* text : {"two", "three"})
    write_file_atomic(
        path, [&](FileSink& s) { s.write(text); }, previous);
  EXPECT_EQ(read_file(path), "three");
  EXPECT_EQ(read_file(previous), "two");
  const std::string big(5'000'000, 'x');
  write_file_atomic(path, big);
  EXPECT_EQ(read_file(path), big);
  write_file_atomic(path, "");
  EXPECT_EQ(read_file(path), "");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2) << "temporary files are left";
}

TEST(AtomicFile, AThrowingWriterChangesNothing) {
  const Scratch dir;
  write_file_atomic(dir / "a", "old");
  EXPECT_THROW(write_file_atomic(dir / "a",
                                 [](FileSink& s) {
                                   s.write("ne");
                                   throw std::runtime_error("stop");
                                 }),
               std::runtime_error);
  EXPECT_EQ(read_file(dir / "a"), "old");
  EXPECT_FALSE(file_exists(dir / "a.tmp"));
  EXPECT_THROW(write_file_atomic(dir / "a",
                                 [](FileSink& s) {
                                   s.write("abc");
                                   s.overwrite(2, "xy");
                                 }),
               IoError);
  write_file_atomic(dir / "a", [](FileSink& s) {
    s.write("abc");
    s.overwrite(1, "xy");
  });
  EXPECT_EQ(read_file(dir / "a"), "axy");
}

TEST(AtomicFile, ErrorsNamePathAndCause) {
  const Scratch dir;
  const std::string missing = message_of<IoError>([&] { write_file_atomic(dir / "no/such/file", "x"); });
  EXPECT_TRUE(has(missing, "no/such/file") && has(missing, "No such file or directory")) << missing;
  std::filesystem::create_directory(dir / "folder");
  const std::string folder = message_of<IoError>([&] { write_file_atomic(dir / "folder", "x"); });
  EXPECT_TRUE(has(folder, "folder") && has(folder, "Is a directory")) << folder;
  EXPECT_FALSE(file_exists(dir / "folder.tmp"));
  EXPECT_TRUE(has(message_of<IoError>([&] { read_file(dir / "none"); }), "No such file"));
  EXPECT_TRUE(has(message_of<IoError>([&] { read_file(dir.path()); }), "not a regular file"));
}

// A file size limit makes the system write part of a block and then refuse, as a full disk does.
TEST(AtomicFile, AFullDiskKeepsTheOldFile) {
  const Scratch dir;
  write_file_atomic(dir / "a", "old");
  const int status = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{10'000, 10'000};
    setrlimit(RLIMIT_FSIZE, &limit);
    const std::string m = message_of<IoError>([&] { write_file_atomic(dir / "a", std::string(100'000, 'n')); });
    if (!has(m, "File too large")) _exit(1);
    if (file_exists(dir / "a.tmp")) _exit(2);
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read_file(dir / "a"), "old");
}

// A child writes versions of a file without pause and is killed at a random moment.
TEST(AtomicFile, KillLeavesOldOrNew) {
  const Scratch dir;
  const std::string path = dir / "a", previous = dir / "b";
  // The length tells the letter, so that a version is known whole from itself.
  const auto version = [](int n) {
    return std::string(200'000 + static_cast<size_t>(n % 26), static_cast<char>('a' + n % 26));
  };
  const auto whole = [&](const std::string& s) {
    return s.size() >= 200'000 && s.size() < 200'026 && s == version(static_cast<int>(s.size() - 200'000));
  };
  write_file_atomic(path, version(0));
  write_file_atomic(
      path, [&](FileSink& s) { s.write(version(1)); }, previous);
  std::mt19937 random(7);
  int torn_temporaries = 0;
  const int trials = flame_test::full_size() ? 500 : 50;
  for (int trial = 0; trial < trials; ++trial) {
    const pid_t pid = fork();
    if (pid == 0)
      for (int n = 0;; ++n)
        write_file_atomic(
            path,
            [&](FileSink& s) {
              const std::string v = version(n);
              for (size_t at = 0; at < v.size(); at += 5000) s.write(std::string_view(v).substr(at, 5000));
            },
            previous);
    std::this_thread::sleep_for(std::chrono::microseconds(1000 + random() % 20'000));
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    ASSERT_TRUE(whole(read_file(path))) << "trial " << trial;
    ASSERT_TRUE(whole(read_file(previous))) << "trial " << trial;
    torn_temporaries += file_exists(path + ".tmp");
  }
  EXPECT_GT(torn_temporaries, 0) << "no kill hit a write: the test shows nothing";
  ASSERT_LE(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 4) << "temporary files pile up";
  write_file_atomic(
      path, [](FileSink& s) { s.write("end"); }, previous);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2);
}

TEST(AtomicFile, ThreadsWritingOneFileDoNotMix) {
  const Scratch dir;
  std::vector<std::thread> writers;
  writers.reserve(4);
  for (int t = 0; t < 4; ++t)
    writers.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i)
        write_file_atomic(dir / "a", [&](FileSink& s) {
          for (int k = 0; k < 50; ++k) s.write(std::string(100, static_cast<char>('a' + t)));
        });
    });
  for (auto& w : writers) w.join();
  const std::string text = read_file(dir / "a");
  EXPECT_EQ(text, std::string(5000, text[0]));
  EXPECT_FALSE(file_exists(dir / "a.tmp"));
}

TEST(Folders, AreMadeWithTheirParents) {
  const Scratch dir;
  ensure_directory(dir / "x/y/z");
  ensure_directory(dir / "x/y/z");
  ensure_directory(dir / "x/");
  EXPECT_TRUE(std::filesystem::is_directory(dir / "x/y/z"));
  write_file_atomic(dir / "file", "x");
  const std::string m = message_of<IoError>([&] { ensure_directory(dir / "file/below"); });
  EXPECT_TRUE(has(m, "/file'") && has(m, "Not a directory")) << m;
  EXPECT_THROW(ensure_directory(""), IoError);
  EXPECT_THROW(ensure_directory("/proc/flame"), IoError);
}

TEST(MappedFile, MovesAndEmptyFiles) {
  const Scratch dir;
  write_file_atomic(dir / "a", "bytes");
  write_file_atomic(dir / "e", "");
  MappedFile a(dir / "a"), e(dir / "e");
  EXPECT_EQ(e.size(), 0u);
  MappedFile b(std::move(a));
  EXPECT_EQ(b.size(), 5u);
  EXPECT_EQ(a.size(), 0u);  // NOLINT(bugprone-use-after-move,clang-analyzer-cplusplus.Move): moved-from is empty
  e = std::move(b);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(e.data()), e.size()), "bytes");
}

TEST(AppendFile, CutsAndGrows) {
  const Scratch dir;
  {
    AppendFile f(dir / "log", 0);
    f.append("hello");
    EXPECT_EQ(read_file(dir / "log"), "");
    f.flush();
    EXPECT_EQ(read_file(dir / "log"), "hello");
    f.append(" world");
  }
  EXPECT_EQ(read_file(dir / "log"), "hello world");
  { AppendFile(dir / "log", 5).append("!"); }
  EXPECT_EQ(read_file(dir / "log"), "hello!");
  EXPECT_TRUE(has(message_of<IoError>([&] { AppendFile(dir / "log", 100); }), "has 6"));
  EXPECT_THROW(AppendFile(dir / "no/log", 0), IoError);
  if (access("/dev/full", W_OK) == 0) {  // a device: cannot be cut, or refuses every byte
    EXPECT_THROW(
        {
          AppendFile f("/dev/full", 0);
          f.append("x");
          f.flush();
        },
        IoError);
  }
}
