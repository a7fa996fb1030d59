// Internal: an entry of a zip archive that is inflated only as far as it is read.
#pragma once
#include <memory>

#include "flame/io/source_internal.h"
#include "flame/io/zip.h"

namespace flame::io {

class Inflate;

// The archive must live as long. Stored entries are checked against their CRC-32 at once, deflated ones at the end.
class ZipStream : public ByteSource {
 public:
  ZipStream(const ZipFile& zip, const ZipEntry& e, Loc loc);
  ~ZipStream() override;
  uint64_t left() const override { return left_; }
  void read(void* dst, uint64_t size) override;
  void finish() override;

 private:
  [[noreturn]] void not_deflated() const;
  void check(uint32_t crc) const;
  const ZipFile& zip_;
  const ZipEntry& entry_;
  Loc loc_;
  uint64_t left_;
  uint32_t crc_ = 0;
  std::unique_ptr<Inflate> inflate_;  // of a deflated entry
};

}  // namespace flame::io
