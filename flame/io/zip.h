// Zip archives, as npz and PyTorch's files are: entries stored or deflated, zip64 where sizes need it. Nothing is
// extracted to disk, and no size is believed before the file is seen to be able to hold it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "flame/io/file.h"

namespace flame::io {

struct ZipEntry {
  std::string name;
  uint64_t size = 0;       // of the content
  uint64_t packed = 0;     // of the bytes in the file
  uint64_t header_at = 0;  // of the local header, in the file
  uint64_t data_at = 0;    // of the bytes
  uint32_t crc = 0;        // CRC-32 of the content
  bool deflated = false;
};

// The content of an entry: a view of the file, or bytes of its own where it was deflated.
class ZipContent {
 public:
  explicit ZipContent(std::string_view view) : view_(view) {}
  ZipContent(std::unique_ptr<char[]> own, size_t size) : own_(std::move(own)), view_(own_.get(), size) {}
  std::string_view bytes() const { return view_; }

 private:
  std::unique_ptr<char[]> own_;
  std::string_view view_;
};

// Relative, no empty or dotted parts, no backslash or NUL; a last '/' says a folder.
bool is_plain_zip_path(std::string_view name);

// Opening reads the central directory and each local header. FormatError for encrypted entries, other methods, several
// disks, entries that overlap, two of one name, and names that are absolute or climb ("../x").
class ZipFile {
 public:
  explicit ZipFile(const std::string& path, Loc loc = Loc::current());
  const std::string& path() const { return file_.path(); }
  const std::vector<ZipEntry>& entries() const { return entries_; }  // in the order of the directory
  const ZipEntry* find(std::string_view name) const;                 // null if there is none
  // Whole, checked against its CRC-32. FormatError also for one that is far larger than the file.
  ZipContent read(const ZipEntry& e, Loc loc = Loc::current()) const;
  // True if the contents of all entries together are far larger than the file.
  bool swollen() const;
  const MappedFile& file() const { return file_; }

 private:
  void read_directory(Loc loc);
  ZipEntry read_entry(uint64_t& at, uint64_t end, Loc loc) const;
  void check_local_header(ZipEntry& e, Loc loc) const;
  void check_names_and_places(Loc loc);
  MappedFile file_;
  std::vector<ZipEntry> entries_;
  std::map<std::string, size_t, std::less<>> by_name_;
};

// Writes an archive; the same entries give the same bytes (all dated 1980-01-01). ValueError beyond the 4 GiB or 65,535
// entries that need zip64.
class ZipWriter {
 public:
  ZipWriter(FileSink& sink, const std::string& path, Loc loc) : sink_(sink), path_(path), loc_(loc) {}
  void add(const std::string& name, std::string_view content, bool deflate);
  void finish();  // the directory

 private:
  FileSink& sink_;
  const std::string& path_;
  Loc loc_;
  std::string directory_;
  size_t count_ = 0;
};

}  // namespace flame::io
