// Decoding by libspng, after its header's sizes are seen to fit the file: deflate expands at most 1032-fold.
#include <spng.h>

#include <memory>
#include <vector>

#include "flame/core/format.h"
#include "flame/io/image_internal.h"

namespace flame::io {
namespace {

struct FreeContext {
  void operator()(spng_ctx* c) const { spng_ctx_free(c); }
};

// The channels and libspng's format for the pixels of a file; 16-bit samples come as they are.
struct Target {
  int channels;
  int format;
  int flags = 0;
};
Target target_of(spng_ctx* context, const spng_ihdr& head) {
  switch (head.color_type) {
    case SPNG_COLOR_TYPE_GRAYSCALE: return {1, head.bit_depth < 8 ? SPNG_FMT_G8 : SPNG_FMT_PNG};
    case SPNG_COLOR_TYPE_GRAYSCALE_ALPHA: return {2, SPNG_FMT_PNG};
    case SPNG_COLOR_TYPE_TRUECOLOR: return {3, SPNG_FMT_PNG};
    case SPNG_COLOR_TYPE_TRUECOLOR_ALPHA: return {4, SPNG_FMT_PNG};
    default: break;  // a palette
  }
  spng_trns transparent{};
  if (spng_get_trns(context, &transparent) == 0) return {4, SPNG_FMT_RGBA8, SPNG_DECODE_TRNS};
  return {3, SPNG_FMT_RGB8};
}

// Bytes of the rows before compression, or the largest number; an interlaced file has a few more.
uint64_t raw_bytes(const spng_ihdr& head) {
  constexpr uint64_t samples[] = {1, 0, 3, 1, 2, 0, 4};
  const uint64_t row = (uint64_t{head.width} * samples[head.color_type] * head.bit_depth + 7) / 8;
  uint64_t bytes = 0;
  return __builtin_mul_overflow(row, uint64_t{head.height}, &bytes) ? ~uint64_t{0} : bytes;
}

}  // namespace

Tensor decode_png(std::string_view bytes, const std::string& where, Loc loc) {
  const auto checked = [&](int error) {
    if (error == SPNG_EMEM) fail<OutOfMemory>(loc, "{}: no memory to decode the PNG file", where);
    if (error) fail<FormatError>(loc, "{}: damaged PNG file: {}", where, spng_strerror(error));
  };
  const std::unique_ptr<spng_ctx, FreeContext> context(spng_ctx_new(0));
  if (!context) fail<OutOfMemory>(loc, "{}: no memory to decode the PNG file", where);
  checked(spng_set_png_buffer(context.get(), bytes.data(), bytes.size()));
  checked(spng_set_chunk_limits(context.get(), bytes.size(), size_t{1} << 25));  // of texts and profiles
  spng_ihdr head{};
  checked(spng_get_ihdr(context.get(), &head));
  if (raw_bytes(head) / 1032 > bytes.size())
    fail<FormatError>(loc, "{}: byte 16: {} x {} pixels are more than a file of {} bytes can hold", where, head.width,
                      head.height, bytes.size());
  const Target target = target_of(context.get(), head);
  Tensor out = empty_pixels(head.height, head.width, target.channels, loc);
  const auto count = static_cast<size_t>(out.numel());
  if (head.bit_depth == 16) {
    const auto wide = std::make_unique_for_overwrite<uint16_t[]>(count);
    checked(spng_decode_image(context.get(), wide.get(), count * 2, target.format, target.flags));
    auto* to = static_cast<uint8_t*>(out.data());
    for (size_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>((wide[i] * 255u + 32767u) / 65535u);
  } else {
    checked(spng_decode_image(context.get(), out.data(), count, target.format, target.flags));
  }
  checked(spng_decode_chunks(context.get()));                          // to the end of the file
  constexpr std::string_view end("\0\0\0\0IEND\xae\x42\x60\x82", 12);  // libspng does not miss the last four
  if (bytes.rfind(end) == bytes.npos) fail<FormatError>(loc, "{}: damaged PNG file: it has no end", where);
  return out;
}

}  // namespace flame::io
