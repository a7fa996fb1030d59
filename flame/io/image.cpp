// One pass over the pixels changes channels and layout; the decoders are in png_read.cpp and jpeg.cpp.
#include "flame/io/image.h"

#include "flame/core/format.h"
#include "flame/io/file.h"
#include "flame/io/image_internal.h"

namespace flame::io {
namespace {

// Pillow's 16-bit fixed point of ITU-R 601.
uint8_t grey_of(const uint8_t* p) {
  return static_cast<uint8_t>((p[0] * 19595 + p[1] * 38470 + p[2] * 7471 + 0x8000) >> 16);
}

// Channel c of a pixel of `from` channels, seen as one of `to`.
uint8_t channel_of(const uint8_t* p, int from, int to, int c) {
  if (from == to) return p[c];
  const bool colour = from >= 3, has_alpha = from % 2 == 0;
  if (c == 3) return has_alpha ? p[from - 1] : uint8_t{255};
  if (to == 1) return colour ? grey_of(p) : p[0];
  return p[colour ? c : 0];
}

}  // namespace

Tensor decode_image(std::string_view bytes, const std::string& where, const ImageOptions& options, Loc loc) {
  if (options.channels != 0 && options.channels != 1 && options.channels != 3 && options.channels != 4)
    fail<ValueError>(loc, "read_image: {} channels, expected 0, 1, 3 or 4", options.channels);
  Tensor pixels;
  if (bytes.starts_with("\x89PNG")) pixels = decode_png(bytes, where, loc);
  else if (bytes.starts_with("\xff\xd8")) pixels = decode_jpeg(bytes, where, loc);
  else fail<FormatError>(loc, "{}: byte 0: neither a PNG nor a JPEG file", where);

  const int from = static_cast<int>(pixels.shape()[2]), to = options.channels ? options.channels : from;
  if (from == to && options.layout == ImageLayout::hwc) return pixels;
  const int64_t height = pixels.shape()[0], width = pixels.shape()[1], area = height * width;
  const bool chw = options.layout == ImageLayout::chw;
  Tensor out = Tensor::empty(chw ? Shape{to, height, width} : Shape{height, width, to}, DType::u8, cpu(), loc);
  const auto* src = static_cast<const uint8_t*>(pixels.data());
  auto* dst = static_cast<uint8_t*>(out.data());
  for (int64_t i = 0; i < area; ++i)
    for (int c = 0; c < to; ++c) dst[chw ? c * area + i : i * to + c] = channel_of(src + i * from, from, to, c);
  return out;
}

Tensor read_image(const std::string& path, const ImageOptions& options, Loc loc) {
  const MappedFile file(path, loc);
  return decode_image({reinterpret_cast<const char*>(file.data()), file.size()}, "'" + path + "'", options, loc);
}

}  // namespace flame::io
