// Files that are never half-written, mapped files, append-only logs. A failure is an IoError with path and cause.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "flame/core/error.h"

namespace flame::io {

// An open file that is being written; all bytes of a call are written or it throws.
class FileSink {
 public:
  FileSink(int fd, const std::string& path, Loc loc) : fd_(fd), path_(path), loc_(loc) {}
  void write(const void* data, size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void overwrite(uint64_t offset, std::string_view text);  // bytes that were written before
  uint64_t size() const { return size_; }

 private:
  int fd_;
  const std::string& path_;
  Loc loc_;
  uint64_t size_ = 0;
};

// `path` holds its old bytes or all the new ones at every moment: `body` writes a temporary file beside it, which is
// flushed to disk and renamed. If `body` throws, the old file stays. With `previous`, the old file is kept there.
void write_file_atomic(const std::string& path, const std::function<void(FileSink&)>& body,
                       const std::string& previous = {}, Loc loc = Loc::current());
void write_file_atomic(const std::string& path, std::string_view bytes, Loc loc = Loc::current());

std::string read_file(const std::string& path, Loc loc = Loc::current());
bool file_exists(const std::string& path);
void ensure_directory(const std::string& path, Loc loc = Loc::current());  // with its parents

// A read-only view of a whole file.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path, Loc loc = Loc::current());
  ~MappedFile();
  MappedFile(MappedFile&& o) noexcept;
  MappedFile& operator=(MappedFile&& o) noexcept;
  const std::string& path() const { return path_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // These bytes were copied: their pages leave this process's memory, and come back if they are read again.
  void release(uint64_t at, uint64_t size) const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// A log that is cut to `keep` bytes when opened and then only grows. Buffered: flush() hands the bytes to the system.
class AppendFile {
 public:
  AppendFile(const std::string& path, uint64_t keep, Loc loc = Loc::current());
  ~AppendFile();  // flushes; an error is dropped here, so call flush() where it matters
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  void append(std::string_view bytes, Loc loc = Loc::current());
  void flush(Loc loc = Loc::current());
  const std::string& path() const { return path_; }

 private:
  std::string path_, buffer_;
  int fd_;
};

}  // namespace flame::io
