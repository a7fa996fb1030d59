// Inflates straight into the tensor. gzread is not used: it takes damaged tails and trailing bytes for the end.
#include "flame/io/idx.h"

#include <zlib.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "flame/core/format.h"
#include "flame/io/source_internal.h"

namespace flame::io {
namespace {

// The content of a mapped file, inflated if it is gzip. read() gives fewer bytes than asked only at the end.
class Source {
 public:
  Source(const MappedFile& file, Loc loc) : file_(file), loc_(loc) {
    const auto* p = reinterpret_cast<const unsigned char*>(file.data());
    gzip_ = file.size() >= 2 && p[0] == 0x1f && p[1] == 0x8b;
    if (!gzip_) return;
    stream_.next_in = const_cast<unsigned char*>(p);
    left_ = file.size();
    if (inflateInit2(&stream_, 15 + 16) != Z_OK) fail<FormatError>(loc, "'{}': zlib cannot start", file.path());
    open_ = true;
  }
  ~Source() {
    if (open_) inflateEnd(&stream_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  // More than this cannot come out of the file: deflate expands at most 1032-fold.
  uint64_t upper_bound() const { return gzip_ ? file_.size() * uint64_t{1032} : file_.size(); }

  // What is to come, if that is known before it is read.
  std::optional<uint64_t> plain_left() const {
    return gzip_ ? std::nullopt : std::optional<uint64_t>(file_.size() - plain_at_);
  }

  size_t read(void* dst, size_t size) {
    if (!gzip_) {
      const size_t n = std::min(size, file_.size() - plain_at_);
      copy_released(dst, file_, plain_at_, n);
      plain_at_ += n;
      return n;
    }
    size_t done = 0;
    while (done < size && !ended_) done += inflate_some(static_cast<unsigned char*>(dst) + done, size - done);
    return done;
  }

 private:
  static constexpr size_t chunk = size_t{1} << 30;  // zlib counts in 32 bits

  size_t inflate_some(unsigned char* dst, size_t size) {
    const uInt want = static_cast<uInt>(std::min(size, chunk)), have = static_cast<uInt>(std::min(left_, chunk));
    stream_.next_out = dst;
    stream_.avail_out = want;
    stream_.avail_in = have;
    const int r = inflate(&stream_, Z_NO_FLUSH);
    left_ -= have - stream_.avail_in;
    const size_t at = file_.size() - left_;
    if (r == Z_STREAM_END) {
      if (left_ == 0) ended_ = true;
      else if (*stream_.next_in == 0x1f) inflateReset(&stream_);  // another member follows
      else fail<FormatError>(loc_, "'{}': byte {}: {} stray bytes after the gzip data", file_.path(), at, left_);
    } else if (r == Z_BUF_ERROR || (r == Z_OK && left_ == 0 && stream_.avail_out > 0)) {
      fail<FormatError>(loc_, "'{}': byte {}: the gzip data is cut off", file_.path(), at);
    } else if (r != Z_OK) {
      fail<FormatError>(loc_, "'{}': byte {}: damaged gzip data ({})", file_.path(), at,
                        stream_.msg ? stream_.msg : "zlib error");
    }
    return want - stream_.avail_out;
  }

  const MappedFile& file_;
  Loc loc_;
  z_stream stream_{};
  bool gzip_ = false, open_ = false, ended_ = false;
  size_t left_ = 0, plain_at_ = 0;
};

std::optional<Element> element_of(int code) {
  switch (code) {
    case 0x08: return Element::u8;
    case 0x09: return Element::i8;
    case 0x0b: return Element::i16;
    case 0x0c: return Element::i32;
    case 0x0d: return Element::f32;
    case 0x0e: return Element::f64;
    default: return {};
  }
}

struct Header {
  Element element;
  Shape shape;
};

// Type and sizes, checked so far that the tensor can be allocated.
Header read_header(Source& source, const std::string& path, Loc loc) {
  unsigned char magic[4];
  if (const size_t n = source.read(magic, 4); n < 4)
    fail<FormatError>(loc, "'{}': byte {}: the file ends inside the 4-byte magic number", path, n);
  if (magic[0] != 0 || magic[1] != 0)
    fail<FormatError>(loc, "'{}': byte 0: magic number {:02x} {:02x} {:02x} {:02x}, expected 00 00, a type and a rank",
                      path, magic[0], magic[1], magic[2], magic[3]);
  const auto element = element_of(magic[2]);
  if (!element)
    fail<FormatError>(loc, "'{}': byte 2: unknown element type {:#04x}, expected 0x08 to 0x0e without 0x0a", path,
                      magic[2]);
  const int rank = magic[3];
  if (rank < 1 || rank > max_rank)
    fail<FormatError>(loc, "'{}': byte 3: rank {}, expected 1 to {}", path, rank, max_rank);
  Shape shape;
  uint64_t total = size_of(*element);
  for (int axis = 0; axis < rank; ++axis) {
    unsigned char b[4];
    if (const size_t n = source.read(b, 4); n < 4)
      fail<FormatError>(loc, "'{}': byte {}: the file ends inside the sizes", path,
                        4 + 4 * static_cast<size_t>(axis) + n);
    const uint64_t size = uint64_t{b[0]} << 24 | uint64_t{b[1]} << 16 | uint64_t{b[2]} << 8 | b[3];
    shape.push_back(static_cast<int64_t>(size));
    if (__builtin_mul_overflow(std::max<uint64_t>(total, 1), size, &total) || total > source.upper_bound())
      fail<FormatError>(loc, "'{}': byte {}: sizes {} ask for more bytes than the file can hold", path, 4 + 4 * axis,
                        shape);
  }
  if (!byte_size(size_of(*element), shape))  // where a size of 0 hides the product of the others
    fail<FormatError>(loc, "'{}': sizes {} are beyond any tensor", path, shape);
  return {*element, shape};
}

// How the content after the header fits it.
struct Body {
  const std::string& path;
  const Header& header;
  Loc loc;
  uint64_t start() const { return 4 + 4 * static_cast<uint64_t>(header.shape.rank()); }
  uint64_t size() const { return static_cast<uint64_t>(numel(header.shape)) * size_of(header.element); }

  void expect(uint64_t got) const {
    if (got < size())
      fail<FormatError>(loc, "'{}': the content ends at byte {}, but sizes {} need {}", path, start() + got,
                        header.shape, start() + size());
    if (got > size())
      fail<FormatError>(loc, "'{}': byte {}: data goes on after the {} bytes of sizes {}", path, start() + size(),
                        size(), header.shape);
  }
};

// Reads to the end, at most one byte beyond what is needed, and keeps nothing.
void check_body(const MappedFile& file, const Body& body) {
  Source source(file, body.loc);
  constexpr size_t piece = 1 << 16;
  const auto buffer = std::make_unique<std::byte[]>(piece);
  source.read(buffer.get(), body.start());
  uint64_t got = 0;
  for (size_t n = piece; n == piece && got <= body.size(); got += n) n = source.read(buffer.get(), piece);
  body.expect(got);
}

}  // namespace

Tensor read_idx(const std::string& path, Loc loc) {
  const MappedFile file(path, loc);
  Source source(file, loc);
  const Header header = read_header(source, path, loc);
  const Body body{path, header, loc};
  if (const auto plain = source.plain_left()) body.expect(*plain);
  else if (body.size() > file.size() + 3 * spare_memory) check_body(file, body);  // beside zlib nothing else is held
  const auto& [element, shape] = header;
  Tensor out = Tensor::empty(shape, dtype_of(element), cpu(), loc);
  // What is not as wide as its dtype is read into the back of the tensor and widened from there to the front.
  auto* first = static_cast<std::byte*>(out.data());
  std::byte* raw = first + static_cast<uint64_t>(out.numel()) * size_of(out.dtype()) - body.size();
  uint64_t got = source.read(raw, body.size());
  unsigned char beyond;  // reading on also makes zlib check its checksum
  if (got == body.size()) got += source.read(&beyond, 1);
  body.expect(got);
  const auto count = static_cast<size_t>(out.numel());
  if (size_of(element) > 1) convert_elements(first, raw, count, element, true, {path, body.start()}, loc);
  return out;
}

}  // namespace flame::io
