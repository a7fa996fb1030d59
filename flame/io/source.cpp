// What is not as wide as its dtype is read into the back of the tensor and widened from there to the front.
#include <algorithm>
#include <cstring>
#include <memory>

#include "flame/io/source_internal.h"

namespace flame::io {

void copy_released(void* dst, const MappedFile& file, uint64_t at, uint64_t size) {
  constexpr uint64_t piece = uint64_t{4} << 20;
  for (uint64_t done = 0; done < size; done += piece) {
    const uint64_t n = std::min(piece, size - done);
    std::memcpy(static_cast<std::byte*>(dst) + done, file.data() + at + done, n);
    file.release(at + done, n);
  }
}

void FileSource::read(void* dst, uint64_t size) {
  copy_released(dst, file_, at_, size);
  at_ += size;
}

Tensor read_elements(ByteSource& source, const Shape& shape, Element e, bool swap, const Origin& from, Loc loc) {
  Tensor out = Tensor::empty(shape, dtype_of(e), cpu(), loc);
  const auto count = static_cast<size_t>(out.numel());
  auto* first = static_cast<std::byte*>(out.data());
  std::byte* raw = first + count * (size_of(out.dtype()) - size_of(e));
  source.read(raw, count * size_of(e));
  source.finish();
  convert_elements(first, raw, count, e, swap, from, loc);
  return out;
}

void check_elements(ByteSource& source, Element e, const Origin& from, Loc loc) {
  constexpr uint64_t piece = 1 << 16;
  const auto buffer = std::make_unique<std::byte[]>(piece);
  Origin at = from;
  while (source.left() > 0) {
    const uint64_t n = std::min(piece, source.left());
    source.read(buffer.get(), n);
    if (e == Element::boolean) convert_elements(buffer.get(), buffer.get(), n, e, false, at, loc);
    at.at += n;
  }
  source.finish();
}

}  // namespace flame::io
