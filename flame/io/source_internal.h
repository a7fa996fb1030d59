// Internal: the content of a file, or of a part of one, read from front to back: what a header says is checked before
// the elements behind it take memory, and an archive's entry is never inflated whole beside its tensor.
#pragma once
#include "flame/io/elements_internal.h"
#include "flame/io/file.h"
#include "flame/tensor/tensor.h"

namespace flame::io {

// What a file may take beside twice its size is 64 MiB, when it is refused; this much of it is for its contents.
constexpr uint64_t spare_memory = uint64_t{16} << 20;

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual uint64_t left() const = 0;  // bytes that are to come, as far as the file tells
  // The next `size` bytes, at most left(). FormatError if they are not there.
  virtual void read(void* dst, uint64_t size) = 0;
  // FormatError unless all was read and is what the file says it should be.
  virtual void finish() = 0;
};

// A plain file. What was read leaves memory.
class FileSource : public ByteSource {
 public:
  explicit FileSource(const MappedFile& file) : file_(file) {}
  uint64_t left() const override { return file_.size() - at_; }
  void read(void* dst, uint64_t size) override;
  void finish() override {}

 private:
  const MappedFile& file_;
  uint64_t at_ = 0;
};

// Copies a part of a mapped file, and releases it piece by piece.
void copy_released(void* dst, const MappedFile& file, uint64_t at, uint64_t size);

// A tensor on the CPU of all that is left, which must be as much as `shape` needs; finishes the source.
Tensor read_elements(ByteSource& source, const Shape& shape, Element e, bool swap, const Origin& from, Loc loc);

// The checks of read_elements without the tensor.
void check_elements(ByteSource& source, Element e, const Origin& from, Loc loc);

}  // namespace flame::io
