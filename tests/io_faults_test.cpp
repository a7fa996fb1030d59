// Checkpoints under a file system that fails: every file call of a save in turn gives ENOSPC, EIO, EINTR or half a
// write, or the process dies there. The newest checkpoint or the one before always loads, whole.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "flame/io/checkpoint.h"
#include "flame/io/npy.h"
#include "readers/reader.h"

namespace {

enum class Fault { no_space, io_error, interrupted, short_write, death };

// Set around a save: the call number `at` (from 0) of those below fails so. Calls of other threads do not count.
thread_local Fault fault = Fault::io_error;
thread_local int fault_at = 0, calls = 0;
thread_local bool watching = false;

// True if this call is the one to fail, with errno set; the process may end here.
bool hit() {
  if (!watching || calls++ != fault_at || fault == Fault::short_write) return false;
  if (fault == Fault::death) _exit(42);
  errno = fault == Fault::no_space ? ENOSPC : fault == Fault::interrupted ? EINTR : EIO;
  return true;
}
// How much of a write passes: less of it, as a nearly full disk or a signal does.
size_t shortened(size_t size) {
  if (!watching || fault != Fault::short_write || calls != fault_at || size < 2) return size;
  ++calls;
  return size / 2;
}

int result(long r) { return static_cast<int>(r); }

}  // namespace

// These stand before the C library's for the whole program, the library under test included.
extern "C" {
ssize_t write(int fd, const void* data, size_t size) {
  const size_t part = shortened(size);
  if (part == size && hit()) return -1;
  return syscall(SYS_write, fd, data, part);
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  const size_t part = shortened(size);
  if (part == size && hit()) return -1;
  return syscall(SYS_pwrite64, fd, data, part, offset);
}
int fsync(int fd) { return hit() ? -1 : result(syscall(SYS_fsync, fd)); }
int ftruncate(int fd, off_t size) noexcept { return hit() ? -1 : result(syscall(SYS_ftruncate, fd, size)); }
int rename(const char* from, const char* to) noexcept { return hit() ? -1 : result(syscall(SYS_rename, from, to)); }
int link(const char* from, const char* to) noexcept { return hit() ? -1 : result(syscall(SYS_link, from, to)); }
int unlink(const char* path) noexcept { return hit() ? -1 : result(syscall(SYS_unlink, path)); }
}

namespace {

using namespace flame;
using namespace flame::io;
using flame_test::Scratch;

void save_version(const std::string& path, int64_t n) {
  const std::vector<NamedTensor> tensors{{"w", Tensor::from(std::vector<float>(5000, static_cast<float>(n)), {5000})},
                                         {"step", Tensor::from(std::vector<int64_t>{n}, {})}};
  save_checkpoint(path, tensors, {{"n", std::to_string(n)}});
}
int64_t whole_version(const std::string& path) {
  const Checkpoint c = load_checkpoint(path);
  const int64_t n = c.tensor("step").to_vector<int64_t>().at(0);
  EXPECT_EQ(c.tensor("w").to_vector<float>(), std::vector<float>(5000, static_cast<float>(n)));
  EXPECT_EQ(c.text("n"), std::to_string(n));
  return n;
}

// Runs `body` with a fault at one call; true if it threw IoError. `used`: how many calls it made.
template <class F>
bool with_fault(Fault f, int at, int& used, F&& body) {
  fault = f, fault_at = at, calls = 0, watching = true;
  bool threw = false;
  try {
    body();
  } catch (const IoError&) { threw = true; }
  watching = false;
  used = calls;
  return threw;
}

}  // namespace

TEST(CheckpointFaults, EveryCallFailingInTurn) {
  for (const Fault f : {Fault::no_space, Fault::io_error, Fault::interrupted, Fault::short_write}) {
    const Scratch dir;
    const std::string path = dir / "c.safetensors";
    save_version(path, 1);
    save_version(path, 2);
    int64_t last = 2;
    int used = 0, threw = 0, at = 0;
    for (bool reached = true; reached; ++at) {
      const int64_t next = last + 1;
      const bool failed = with_fault(f, at, used, [&] { save_version(path, next); });
      threw += failed;
      reached = used > at;
      const int64_t n = whole_version(path);
      ASSERT_TRUE(n == next || n == last) << n << " after call " << at << " of fault " << static_cast<int>(f);
      EXPECT_TRUE(failed || n == next) << "call " << at;
      EXPECT_GE(whole_version(previous_checkpoint(path)), n - 2);
      last = n;
    }
    EXPECT_GE(at, 10) << "fewer calls than a save makes: nothing is caught";
    const bool fails = f == Fault::no_space || f == Fault::io_error;
    EXPECT_TRUE(fails ? threw >= 7 : f != Fault::short_write || threw == 0) << threw << " saves threw";
    save_version(path, 1000);
    EXPECT_EQ(whole_version(path), 1000);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2) << "temporary files are left";
  }
}

TEST(CheckpointFaults, DyingAtEveryCall) {
  const Scratch dir;
  const std::string path = dir / "c.safetensors";
  save_version(path, 1);
  save_version(path, 2);
  int64_t last = 2;
  bool died = true;
  int at = 0;
  for (; died; ++at) {
    const pid_t pid = fork();
    if (pid == 0) {
      int used;
      with_fault(Fault::death, at, used, [&] { save_version(path, last + 1); });
      _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    died = WEXITSTATUS(status) == 42;
    const int64_t n = whole_version(path);
    ASSERT_TRUE(n == last || n == last + 1) << n << " after dying at call " << at;
    EXPECT_EQ(n == last + 1, n != last);
    whole_version(previous_checkpoint(path));
    last = n;
  }
  EXPECT_GE(at, 10);
  save_version(path, last + 1);
  EXPECT_EQ(whole_version(path), last + 1);
}

TEST(CheckpointFaults, OtherFilesStayWhole) {
  const Scratch dir;
  const auto tensors = [](int64_t n) { return std::vector<NamedTensor>{{"a", Tensor::from<int64_t>({n, n}, {2})}}; };
  save_npz(dir / "a.npz", tensors(0));
  int64_t stored = 0;
  int used = 1;
  for (int at = 0; used > at; ++at) {
    const bool failed = with_fault(Fault::no_space, at, used, [&] { save_npz(dir / "a.npz", tensors(at + 1)); });
    const auto got = load_npz(dir / "a.npz")[0].second.to_vector<int64_t>();
    EXPECT_TRUE(got[0] == at + 1 || (failed && got[0] == stored)) << at;
    stored = got[0];
  }
}
