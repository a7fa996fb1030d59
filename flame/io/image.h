// Pictures from PNG and JPEG files, as uint8 tensors.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "flame/tensor/tensor.h"

namespace flame::io {

enum class ImageLayout : uint8_t { chw, hwc };
struct ImageOptions {
  int channels = 0;  // 0: as in the file; else 1 (grey), 3 (RGB) or 4 (RGBA)
  ImageLayout layout = ImageLayout::chw;
};

// uint8 [channels, height, width], or [height, width, channels]. The first bytes tell the format.
// PNG: every colour type, 1 to 16 bits, interlaced or not; a palette gives RGB, or RGBA where it has transparent
// colours; grey with alpha gives 2 channels; samples of other than 8 bits are scaled and rounded.
// JPEG: grey or colour, baseline or progressive; CMYK is refused by name. Its orientation tag is not applied.
// FormatError for more pixels than the file's bytes can hold, and for a JPEG in several scans with more than 4 million
// pixels and 64 for each of its bytes.
// Dropping alpha mixes in no background; colour becomes grey by ITU-R 601 (0.299 R + 0.587 G + 0.114 B).
Tensor read_image(const std::string& path, const ImageOptions& options = {}, Loc loc = Loc::current());
// A file that stands in memory; `where` names it in messages.
Tensor decode_image(std::string_view bytes, const std::string& where, const ImageOptions& options = {},
                    Loc loc = Loc::current());

}  // namespace flame::io
