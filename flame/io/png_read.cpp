// Decoding by libspng, row by row, after its header's sizes are seen to fit the file: deflate expands at most 1032-fold.
// A picture far larger than its file is decoded twice, first into a single row, so that a damaged one takes no memory.
#include <spng.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "flame/core/format.h"
#include "flame/io/image_internal.h"
#include "flame/io/source_internal.h"

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

// The pixels of a row that pass `p` of an interlaced file gives (PNG specification, section 8.2), or all.
struct Pass {
  uint32_t first = 0, step = 1;
};
Pass pass_of(const spng_ihdr& head, int p) {
  constexpr Pass adam7[] = {{0, 8}, {4, 8}, {0, 4}, {2, 4}, {0, 2}, {1, 2}, {0, 1}};
  return head.interlace_method ? adam7[p] : Pass{};
}

class Decoder {
 public:
  Decoder(std::string_view bytes, const std::string& where, Loc loc)
      : bytes_(bytes), where_(where), loc_(loc), context_(spng_ctx_new(0)) {
    if (!context_) checked(SPNG_EMEM);
    checked(spng_set_png_buffer(context_.get(), bytes.data(), bytes.size()));
    const size_t chunk = std::min<size_t>(bytes.size(), std::numeric_limits<int32_t>::max());
    checked(spng_set_chunk_limits(context_.get(), chunk, std::max(chunk, size_t{1} << 25)));  // of texts and profiles
    checked(spng_get_ihdr(context_.get(), &head_));
    if (raw_bytes(head_) / 1032 > bytes.size())
      fail<FormatError>(loc, "{}: byte 16: {} x {} pixels are more than a file of {} bytes can hold", where,
                        head_.width, head_.height, bytes.size());
    target_ = target_of(context_.get(), head_);
  }
  const spng_ihdr& head() const { return head_; }
  int channels() const { return target_.channels; }

  // To the end of the file; pixels are kept if there is an `out`.
  void run(uint8_t* out) {
    const size_t samples = size_t{head_.width} * static_cast<size_t>(target_.channels);
    const bool wide = head_.bit_depth == 16;
    std::vector<uint16_t> row(out && !wide ? 0 : samples);
    checked(spng_decode_image(context_.get(), nullptr, 0, target_.format, target_.flags | SPNG_DECODE_PROGRESSIVE));
    spng_row_info info{};
    for (int state = 0; state != SPNG_EOI;) {
      checked(spng_get_row_info(context_.get(), &info));
      uint8_t* to = out ? out + info.row_num * samples : nullptr;
      void* decoded = out && !wide ? static_cast<void*>(to) : row.data();
      state = spng_decode_row(context_.get(), decoded, samples * (wide ? 2 : 1));
      if (state != SPNG_EOI) checked(state);
      if (out && wide) narrow(to, row.data(), pass_of(head_, info.pass));
    }
    checked(spng_decode_chunks(context_.get()));
    constexpr std::string_view end("\0\0\0\0IEND\xae\x42\x60\x82", 12);  // libspng does not miss the last four
    if (bytes_.rfind(end) == bytes_.npos) fail<FormatError>(loc_, "{}: damaged PNG file: it has no end", where_);
  }

 private:
  void checked(int error) const {
    if (error == SPNG_EMEM) fail<OutOfMemory>(loc_, "{}: no memory to decode the PNG file", where_);
    if (error) fail<FormatError>(loc_, "{}: damaged PNG file: {}", where_, spng_strerror(error));
  }
  void narrow(uint8_t* to, const uint16_t* row, Pass pass) const {
    const auto n = static_cast<size_t>(target_.channels);
    for (size_t x = pass.first; x < head_.width; x += pass.step)
      for (size_t i = x * n; i < (x + 1) * n; ++i) to[i] = static_cast<uint8_t>((row[i] * 255u + 32767u) / 65535u);
  }

  std::string_view bytes_;
  const std::string& where_;
  Loc loc_;
  std::unique_ptr<spng_ctx, FreeContext> context_;
  spng_ihdr head_{};
  Target target_{};
};

}  // namespace

Tensor decode_png(std::string_view bytes, const std::string& where, Loc loc) {
  Decoder decoder(bytes, where, loc);
  const spng_ihdr& head = decoder.head();
  const auto channels = static_cast<uint64_t>(decoder.channels());
  if (uint64_t{head.width} * head.height * channels > bytes.size() + spare_memory)
    Decoder(bytes, where, loc).run(nullptr);
  Tensor out = empty_pixels(head.height, head.width, decoder.channels(), loc);
  decoder.run(static_cast<uint8_t*>(out.data()));
  return out;
}

}  // namespace flame::io
