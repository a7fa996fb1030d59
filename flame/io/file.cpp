// Plain POSIX calls, each checked; see file.h. EINTR and short writes are handled in one place, write_all.
#include "flame/io/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "flame/core/format.h"

namespace flame::io {
namespace {

[[noreturn]] void fail_errno(Loc loc, const char* what, const std::string& path) {
  const int e = errno;
  fail<IoError>(loc, "{} '{}': {}", what, path, std::strerror(e));
}

template <class F>
auto retry(F&& call) {
  decltype(call()) r;
  do r = call();
  while (r == -1 && errno == EINTR);
  return r;
}

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

int open_retry(const std::string& path, int flags) {
  return retry([&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0666); });
}

void write_all(int fd, const void* data, size_t size, const std::string& path, Loc loc) {
  const char* p = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = retry([&] { return ::write(fd, p, size); });
    if (n < 0) fail_errno(loc, "cannot write", path);
    p += n;
    size -= static_cast<size_t>(n);
  }
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// The temporary file has a fixed name, so that a killed writer leaves at most one behind, which the next one reuses.
// The lock keeps two writers apart; whoever got it may hold a file that the other has renamed meanwhile: then again.
int open_locked(const std::string& path, Loc loc) {
  for (;;) {
    const int fd = open_retry(path, O_CREAT | O_WRONLY);
    if (fd < 0) fail_errno(loc, "cannot create", path);
    Fd guard(fd);
    const bool locks = retry([&] { return ::flock(fd, LOCK_EX); }) == 0;
    if (!locks && errno != EOPNOTSUPP && errno != ENOLCK) fail_errno(loc, "cannot lock", path);
    struct stat mine {
    }, there{};
    if (::fstat(fd, &mine) != 0) fail_errno(loc, "cannot examine", path);
    if (::stat(path.c_str(), &there) == 0 && mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) {
      if (::ftruncate(fd, 0) != 0) fail_errno(loc, "cannot truncate", path);
      return guard.release();
    }
  }
}

// Renames `temporary` to `path`; with `previous`, what was there ends up under that name. The old file gets a second
// name first and takes the place of the previous one last, so that the two that stand are whole at every moment.
void replace_file(const std::string& temporary, const std::string& path, const std::string& previous, Loc loc) {
  const bool keep = !previous.empty() && file_exists(path);
  const std::string second_name = previous + ".tmp";
  bool linked = false;
  if (keep) {
    if (::unlink(second_name.c_str()) != 0 && errno != ENOENT) fail_errno(loc, "cannot remove", second_name);
    linked = ::link(path.c_str(), second_name.c_str()) == 0;
    // Without links `path` is missing for a moment, and the previous file is the newest.
    if (!linked && ::rename(path.c_str(), previous.c_str()) != 0) fail_errno(loc, "cannot rename", path);
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) fail_errno(loc, "cannot rename to", path);
  if (linked && ::rename(second_name.c_str(), previous.c_str()) != 0) fail_errno(loc, "cannot rename to", previous);
}

void sync_folder(const std::string& folder, Loc loc) {
  Fd dir(open_retry(folder, O_RDONLY | O_DIRECTORY));
  if (dir.get() < 0) fail_errno(loc, "cannot open folder", folder);
  // Some file systems refuse to sync a folder; they need none.
  if (retry([&] { return ::fsync(dir.get()); }) != 0 && errno != EINVAL) fail_errno(loc, "cannot sync folder", folder);
}

}  // namespace

void FileSink::write(const void* data, size_t size) {
  write_all(fd_, data, size, path_, loc_);
  size_ += size;
}

void FileSink::overwrite(uint64_t offset, std::string_view text) {
  if (offset + text.size() > size_)
    fail<IoError>(loc_, "cannot overwrite bytes {}..{} of '{}': only {} were written", offset, offset + text.size(),
                  path_, size_);
  while (!text.empty()) {
    const ssize_t n = retry([&] { return ::pwrite(fd_, text.data(), text.size(), static_cast<off_t>(offset)); });
    if (n < 0) fail_errno(loc_, "cannot write", path_);
    text.remove_prefix(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

void write_file_atomic(const std::string& path, const std::function<void(FileSink&)>& body, const std::string& previous,
                       Loc loc) {
  const std::string temporary = path + ".tmp";
  Fd fd(open_locked(temporary, loc));
  try {
    FileSink sink(fd.get(), path, loc);
    body(sink);
    if (retry([&] { return ::fsync(fd.get()); }) != 0) fail_errno(loc, "cannot sync", temporary);
    replace_file(temporary, path, previous, loc);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_folder(folder_of(path), loc);
}

void write_file_atomic(const std::string& path, std::string_view bytes, Loc loc) {
  write_file_atomic(
      path, [&](FileSink& sink) { sink.write(bytes); }, {}, loc);
}

std::string read_file(const std::string& path, Loc loc) {
  const MappedFile file(path, loc);
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

bool file_exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

void ensure_directory(const std::string& path, Loc loc) {
  if (path.empty()) fail<IoError>(loc, "cannot create folder '': the name is empty");
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), 0777) != 0) {
      const int why = errno;
      struct stat s {};
      if (::stat(part.c_str(), &s) != 0 || !S_ISDIR(s.st_mode)) {
        errno = why == EEXIST ? ENOTDIR : why;
        fail_errno(loc, "cannot create folder", part);
      }
    }
    if (end == std::string::npos) return;
  }
}

MappedFile::MappedFile(const std::string& path, Loc loc) : path_(path) {
  Fd fd(open_retry(path, O_RDONLY));
  if (fd.get() < 0) fail_errno(loc, "cannot open", path);
  struct stat s {};
  if (::fstat(fd.get(), &s) != 0) fail_errno(loc, "cannot examine", path);
  if (!S_ISREG(s.st_mode)) fail<IoError>(loc, "cannot read '{}': not a regular file", path);
  size_ = static_cast<size_t>(s.st_size);
  if (size_ == 0) return;  // an empty mapping is refused by mmap
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (p == MAP_FAILED) fail_errno(loc, "cannot map", path);
  data_ = static_cast<const std::byte*>(p);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(uint64_t at, uint64_t size) const {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t from = (at + page - 1) / page * page, end = (at + size) / page * page;
  if (from < end) ::madvise(const_cast<std::byte*>(data_) + from, end - from, MADV_DONTNEED);  // advice: may do nothing
}

MappedFile::MappedFile(MappedFile&& o) noexcept
    : path_(std::move(o.path_)), data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}
MappedFile& MappedFile::operator=(MappedFile&& o) noexcept {
  std::swap(path_, o.path_);
  std::swap(data_, o.data_);
  std::swap(size_, o.size_);
  return *this;
}

AppendFile::AppendFile(const std::string& path, uint64_t keep, Loc loc) : path_(path), fd_(-1) {
  Fd fd(open_retry(path, O_CREAT | O_WRONLY | O_APPEND));
  if (fd.get() < 0) fail_errno(loc, "cannot open", path);
  struct stat s {};
  if (::fstat(fd.get(), &s) != 0) fail_errno(loc, "cannot examine", path);
  if (static_cast<uint64_t>(s.st_size) < keep)
    fail<IoError>(loc, "cannot keep {} bytes of '{}': it has {}", keep, path, s.st_size);
  if (::ftruncate(fd.get(), static_cast<off_t>(keep)) != 0) fail_errno(loc, "cannot truncate", path);
  fd_ = fd.release();
}

AppendFile::~AppendFile() {
  try {
    flush();
  } catch (const IoError&) {  // a destructor has no one to tell
  }
  ::close(fd_);
}

void AppendFile::append(std::string_view bytes, Loc loc) {
  buffer_.append(bytes);
  if (buffer_.size() >= size_t{1} << 16) flush(loc);
}

void AppendFile::flush(Loc loc) {
  const std::string pending = std::exchange(buffer_, {});  // not written twice if this throws
  write_all(fd_, pending.data(), pending.size(), path_, loc);
}

}  // namespace flame::io
