// After APPNOTE.TXT 6.3.10 (PKWARE): sections 4.3.7 local header, 4.3.12 directory, 4.3.14-16 its end, 4.5.3 zip64.
#include "flame/io/zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "flame/core/format.h"
#include "flame/io/elements_internal.h"
#include "flame/io/zip_stream_internal.h"

namespace flame::io {
namespace {

constexpr uint32_t local_mark = 0x04034b50, entry_mark = 0x02014b50, end_mark = 0x06054b50;
constexpr uint32_t end64_mark = 0x06064b50, locator64_mark = 0x07064b50;
constexpr size_t local_size = 30, entry_size = 46, end_size = 22, end64_size = 56, locator64_size = 20;
constexpr uint32_t in_zip64 = 0xffffffff;
constexpr uint64_t max_entries = uint64_t{1} << 18;
constexpr uint64_t max_ratio = 1032;  // deflate makes at most this many bytes of one

template <class T>
T number(std::string_view bytes, uint64_t at) {
  T v;
  std::memcpy(&v, bytes.data() + at, sizeof v);
  return v;
}

// Replaces those of the given numbers that are in_zip64 by what the extra field of id 1 holds, in their order.
bool take_zip64(std::string_view extra, std::initializer_list<uint64_t*> numbers) {
  std::string_view field;
  for (size_t at = 0; at + 4 <= extra.size();) {
    const size_t id = number<uint16_t>(extra, at), size = number<uint16_t>(extra, at + 2);
    if (size > extra.size() - at - 4) break;
    if (id == 1) field = extra.substr(at + 4, size);
    at += 4 + size;
  }
  for (uint64_t* n : numbers) {
    if (*n != in_zip64) continue;
    if (field.size() < 8) return false;
    *n = number<uint64_t>(field, 0);
    field.remove_prefix(8);
  }
  return true;
}

std::string_view text_of(const MappedFile& f) { return {reinterpret_cast<const char*>(f.data()), f.size()}; }

// Where the end record stands: the last mark whose comment reaches exactly to the end of the file.
uint64_t find_end(std::string_view bytes, const std::string& path, Loc loc) {
  if (bytes.size() >= end_size)
    for (uint64_t at = bytes.size() - end_size, tried = 0; tried <= 0xffff; --at, ++tried) {
      if (number<uint32_t>(bytes, at) == end_mark && at + end_size + number<uint16_t>(bytes, at + 20) == bytes.size())
        return at;
      if (at == 0) break;
    }
  fail<FormatError>(loc, "'{}': no zip file, or a cut one: the end of its directory is missing", path);
}

uint32_t crc_of(std::string_view bytes) {
  return static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

}  // namespace

bool is_plain_zip_path(std::string_view name) {
  if (name.empty() || name.find('\0') != name.npos || name.find('\\') != name.npos) return false;
  if (name.back() == '/') name.remove_suffix(1);  // a folder
  for (size_t from = 0; from <= name.size();) {
    const size_t end = std::min(name.find('/', from), name.size());
    const std::string_view part = name.substr(from, end - from);
    if (part.empty() || part == "." || part == "..") return false;
    from = end + 1;
  }
  return true;
}

ZipFile::ZipFile(const std::string& path, Loc loc) : file_(path, loc) {
  read_directory(loc);
  for (ZipEntry& e : entries_) check_local_header(e, loc);
  check_names_and_places(loc);
}

void ZipFile::read_directory(Loc loc) {
  const std::string_view bytes = text_of(file_);
  const uint64_t end_at = find_end(bytes, path(), loc);
  uint64_t count = number<uint16_t>(bytes, end_at + 10), size = number<uint32_t>(bytes, end_at + 12);
  uint64_t at = number<uint32_t>(bytes, end_at + 16), directory_end = end_at;
  bool several_disks = number<uint32_t>(bytes, end_at + 4) != 0;
  if (end_at >= locator64_size && number<uint32_t>(bytes, end_at - locator64_size) == locator64_mark) {
    const auto end64_at = number<uint64_t>(bytes, end_at - locator64_size + 8);
    const uint64_t last = end_at - locator64_size;
    if (end64_at > last || last - end64_at < end64_size || number<uint32_t>(bytes, end64_at) != end64_mark)
      fail<FormatError>(loc, "'{}': byte {}: the zip64 end record is not where its locator says", path(), last);
    several_disks = number<uint32_t>(bytes, end64_at + 16) != 0 || number<uint32_t>(bytes, end64_at + 20) != 0;
    count = number<uint64_t>(bytes, end64_at + 32);
    size = number<uint64_t>(bytes, end64_at + 40);
    at = number<uint64_t>(bytes, end64_at + 48);
    directory_end = end64_at;
  }
  if (several_disks) fail<FormatError>(loc, "'{}': byte {}: a zip archive over several disks", path(), end_at);
  if (at > directory_end || size != directory_end - at)
    fail<FormatError>(loc, "'{}': byte {}: the directory of {} bytes at {} does not end at its end record, byte {}",
                      path(), end_at, size, at, directory_end);
  if (count > max_entries)
    fail<FormatError>(loc, "'{}': byte {}: {} entries are above the limit {}", path(), end_at, count, max_entries);
  if (count > size / entry_size)
    fail<FormatError>(loc, "'{}': byte {}: {} entries do not fit in a directory of {} bytes", path(), end_at, count,
                      size);
  entries_.reserve(count);
  for (uint64_t i = 0; i < count; ++i) entries_.push_back(read_entry(at, directory_end, loc));
  if (at != directory_end)
    fail<FormatError>(loc, "'{}': byte {}: the directory goes on after its {} entries", path(), at, count);
}

ZipEntry ZipFile::read_entry(uint64_t& at, uint64_t end, Loc loc) const {
  const std::string_view bytes = text_of(file_);
  if (end - at < entry_size || number<uint32_t>(bytes, at) != entry_mark)
    fail<FormatError>(loc, "'{}': byte {}: the directory has no entry here", path(), at);
  const size_t flags = number<uint16_t>(bytes, at + 8), method = number<uint16_t>(bytes, at + 10);
  const size_t name_size = number<uint16_t>(bytes, at + 28), extra_size = number<uint16_t>(bytes, at + 30);
  const uint64_t total = entry_size + name_size + extra_size + number<uint16_t>(bytes, at + 32);
  if (total > end - at) fail<FormatError>(loc, "'{}': byte {}: the entry is cut off", path(), at);
  ZipEntry e;
  e.name = bytes.substr(at + entry_size, name_size);
  e.crc = number<uint32_t>(bytes, at + 16);
  e.packed = number<uint32_t>(bytes, at + 20);
  e.size = number<uint32_t>(bytes, at + 24);
  e.header_at = number<uint32_t>(bytes, at + 42);
  e.deflated = method == 8;
  if (!is_plain_zip_path(e.name))
    fail<FormatError>(loc, "'{}': byte {}: the name '{}' is empty, absolute or climbs", path(), at, printable(e.name));
  if (flags & 1) fail<FormatError>(loc, "'{}': byte {}: entry '{}' is encrypted", path(), at, printable(e.name));
  if (method != 0 && method != 8)
    fail<FormatError>(loc, "'{}': byte {}: entry '{}' has compression method {}, expected 0 (stored) or 8 (deflated)",
                      path(), at, printable(e.name), method);
  const std::string_view extra = bytes.substr(at + entry_size + name_size, extra_size);
  if (!take_zip64(extra, {&e.size, &e.packed, &e.header_at}))
    fail<FormatError>(loc, "'{}': byte {}: entry '{}' lacks its zip64 sizes", path(), at, printable(e.name));
  if (e.deflated ? e.size / max_ratio > e.packed : e.size != e.packed)
    fail<FormatError>(loc, "'{}': byte {}: entry '{}' cannot make {} bytes of {}", path(), at, printable(e.name),
                      e.size, e.packed);
  at += total;
  return e;
}

void ZipFile::check_local_header(ZipEntry& e, Loc loc) const {
  const std::string_view bytes = text_of(file_);
  const uint64_t at = e.header_at;
  if (at > bytes.size() || bytes.size() - at < local_size || number<uint32_t>(bytes, at) != local_mark)
    fail<FormatError>(loc, "'{}': entry '{}': byte {} has no local header", path(), printable(e.name), at);
  const size_t name_size = number<uint16_t>(bytes, at + 26), extra_size = number<uint16_t>(bytes, at + 28);
  const uint64_t left = bytes.size() - at - local_size;
  if (name_size + extra_size > left || e.packed > left - name_size - extra_size)
    fail<FormatError>(loc, "'{}': entry '{}': {} bytes at {} reach beyond the file", path(), printable(e.name),
                      e.packed, at);
  if (bytes.substr(at + local_size, name_size) != e.name)
    fail<FormatError>(loc, "'{}': byte {}: the directory calls this entry '{}', its header does not", path(), at,
                      printable(e.name));
  const size_t flags = number<uint16_t>(bytes, at + 6), method = number<uint16_t>(bytes, at + 8);
  uint64_t packed = number<uint32_t>(bytes, at + 18), size = number<uint32_t>(bytes, at + 22);
  const bool sizes_follow = flags & 8;  // after the data
  if ((flags & 1) || (method == 8) != e.deflated ||
      !take_zip64(bytes.substr(at + local_size + name_size, extra_size), {&size, &packed}) ||
      (!sizes_follow && (packed != e.packed || size != e.size || number<uint32_t>(bytes, at + 14) != e.crc)))
    fail<FormatError>(loc, "'{}': byte {}: the header of entry '{}' differs from the directory", path(), at,
                      printable(e.name));
  e.data_at = at + local_size + name_size + extra_size;
}

void ZipFile::check_names_and_places(Loc loc) {
  std::vector<const ZipEntry*> sorted;
  for (const ZipEntry& e : entries_) {
    if (!by_name_.emplace(e.name, sorted.size()).second)
      fail<FormatError>(loc, "'{}': two entries are named '{}'", path(), printable(e.name));
    sorted.push_back(&e);
  }
  std::sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return a->header_at < b->header_at; });
  for (size_t i = 1; i < sorted.size(); ++i)
    if (sorted[i - 1]->data_at + sorted[i - 1]->packed > sorted[i]->header_at)
      fail<FormatError>(loc, "'{}': byte {}: entries '{}' and '{}' overlap", path(), sorted[i]->header_at,
                        printable(sorted[i - 1]->name), printable(sorted[i]->name));
}

const ZipEntry* ZipFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &entries_[it->second];
}

ZipContent ZipFile::read(const ZipEntry& e, Loc loc) const {
  ZipStream stream(*this, e, loc);
  if (!e.deflated) return ZipContent(text_of(file_).substr(e.data_at, e.packed));
  if (e.size > file_.size() + spare_memory)
    fail<FormatError>(loc, "'{}': byte {}: entry '{}' takes {} bytes, far more than the file of {}", path(), e.data_at,
                      printable(e.name), e.size, file_.size());
  auto own = std::make_unique_for_overwrite<char[]>(e.size);
  stream.read(own.get(), e.size);
  stream.finish();
  return {std::move(own), e.size};
}

bool ZipFile::swollen() const {
  uint64_t left = file_.size() + spare_memory;
  for (const ZipEntry& e : entries_) {
    if (e.size > left) return true;
    left -= e.size;
  }
  return false;
}

namespace {

template <class... T>
void put(std::string& out, T... numbers) {
  (out.append(reinterpret_cast<const char*>(&numbers), sizeof numbers), ...);
}

std::string deflated(std::string_view content, Loc loc) {
  z_stream z{};
  if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    fail<OutOfMemory>(loc, "zip: no memory to compress");
  std::string out(deflateBound(&z, content.size()), '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  z.avail_in = static_cast<uInt>(content.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  const int r = deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  if (r != Z_STREAM_END) fail<IoError>(loc, "zip: zlib stopped with {}", r);
  return out;
}

}  // namespace

void ZipWriter::add(const std::string& name, std::string_view content, bool deflate) {
  constexpr uint64_t limit = 0xffff'0000;  // leaves room for headers and what deflate may add
  if (content.size() > limit || sink_.size() > limit || name.size() > 0xffff || count_ == 0xfffe)
    fail<ValueError>(loc_, "'{}': entry '{}' of {} bytes would need zip64, which is not written", path_, name,
                     content.size());
  const std::string packed = deflate ? deflated(content, loc_) : std::string();
  const std::string_view bytes = deflate ? std::string_view(packed) : content;
  const auto at = static_cast<uint32_t>(sink_.size());
  const auto name_size = static_cast<uint16_t>(name.size());
  std::string common;  // to both headers: version 2.0, flags (names are UTF-8), method, 1980-01-01 00:00, CRC, sizes
  put(common, uint16_t{20}, uint16_t{0x800}, static_cast<uint16_t>(deflate ? 8 : 0), uint16_t{0}, uint16_t{0x21},
      crc_of(content), static_cast<uint32_t>(bytes.size()), static_cast<uint32_t>(content.size()), name_size,
      uint16_t{0});
  std::string header;
  put(header, local_mark);
  sink_.write(header + common + name);
  sink_.write(bytes);
  put(directory_, entry_mark, uint16_t{20});
  directory_ += common;
  put(directory_, uint16_t{0}, uint16_t{0}, uint16_t{0}, uint32_t{0}, at);  // comment, disk, attributes
  directory_ += name;
  ++count_;
}

void ZipWriter::finish() {
  if (sink_.size() + directory_.size() > 0xffff'ffff)
    fail<ValueError>(loc_, "'{}': the archive would need zip64, which is not written", path_);
  const auto count = static_cast<uint16_t>(count_);
  std::string end;
  put(end, end_mark, uint32_t{0}, count, count, static_cast<uint32_t>(directory_.size()),
      static_cast<uint32_t>(sink_.size()), uint16_t{0});
  sink_.write(directory_);
  sink_.write(end);
}

}  // namespace flame::io
