// Raw deflate (RFC 1951) by zlib, which counts in 32 bits: large entries go through it in pieces.
#include <zlib.h>

#include <algorithm>

#include "flame/core/format.h"
#include "flame/io/zip_stream_internal.h"

namespace flame::io {
namespace {

constexpr uint64_t piece = uint64_t{4} << 20;  // read before what went into it is released

uint32_t crc_of(uint32_t before, const void* bytes, uint64_t size) {
  return static_cast<uint32_t>(crc32_z(before, static_cast<const Bytef*>(bytes), size));
}

}  // namespace

class Inflate {
 public:
  Inflate(const MappedFile& file, const ZipEntry& e) : file_(file), at_(e.data_at), end_(e.data_at + e.packed) {
    ready_ = inflateInit2(&stream_, -15) == Z_OK;
    state_ = ready_ ? Z_OK : Z_MEM_ERROR;
  }
  ~Inflate() {
    if (ready_) inflateEnd(&stream_);
  }
  Inflate(const Inflate&) = delete;
  Inflate& operator=(const Inflate&) = delete;

  // How many bytes of at most `size` <= piece came out: fewer only at the end or at damage.
  uint64_t run(void* dst, uint64_t size) {
    stream_.next_out = static_cast<Bytef*>(dst);
    stream_.avail_out = static_cast<uInt>(size);
    while (state_ == Z_OK && stream_.avail_out > 0) {
      const auto have = static_cast<uInt>(std::min(end_ - at_, piece));
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(file_.data() + at_));
      stream_.avail_in = have;
      state_ = inflate(&stream_, Z_NO_FLUSH);
      file_.release(at_, have - stream_.avail_in);
      at_ += have - stream_.avail_in;
    }
    return size - stream_.avail_out;
  }
  // True if nothing more comes out and all of the packed bytes were used.
  bool ended() {
    char beyond;
    return run(&beyond, 1) == 0 && state_ == Z_STREAM_END && at_ == end_;
  }

 private:
  const MappedFile& file_;
  uint64_t at_, end_;
  z_stream stream_{};
  bool ready_ = false;
  int state_ = Z_OK;
};

ZipStream::ZipStream(const ZipFile& zip, const ZipEntry& e, Loc loc) : zip_(zip), entry_(e), loc_(loc), left_(e.size) {
  if (e.deflated) {
    inflate_ = std::make_unique<Inflate>(zip.file(), e);
    return;
  }
  uint32_t crc = 0;
  for (uint64_t done = 0; done < e.size; done += piece) {
    const uint64_t n = std::min(piece, e.size - done);
    crc = crc_of(crc, zip.file().data() + e.data_at + done, n);
    zip.file().release(e.data_at + done, n);
  }
  check(crc);
}
ZipStream::~ZipStream() = default;

void ZipStream::not_deflated() const {
  fail<FormatError>(loc_, "'{}': byte {}: entry '{}' is no deflated data of {} bytes", zip_.path(), entry_.data_at,
                    printable(entry_.name), entry_.size);
}

void ZipStream::check(uint32_t crc) const {
  if (crc != entry_.crc)
    fail<FormatError>(loc_, "'{}': byte {}: entry '{}' is damaged: its CRC-32 is {:08x}, expected {:08x}", zip_.path(),
                      entry_.data_at, printable(entry_.name), crc, entry_.crc);
}

void ZipStream::read(void* dst, uint64_t size) {
  if (!inflate_) copy_released(dst, zip_.file(), entry_.data_at + entry_.size - left_, size);
  else
    for (uint64_t done = 0; done < size; done += piece) {
      void* to = static_cast<std::byte*>(dst) + done;
      const uint64_t n = std::min(piece, size - done);
      if (inflate_->run(to, n) != n) not_deflated();
      crc_ = crc_of(crc_, to, n);
    }
  left_ -= size;
}

void ZipStream::finish() {
  if (!inflate_) return;
  if (left_ > 0 || !inflate_->ended()) not_deflated();
  check(crc_);
}

}  // namespace flame::io
