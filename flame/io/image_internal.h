// Internal: the decoders of each format. All give uint8 [height, width, channels] with the channels of the file.
#pragma once
#include <string>
#include <string_view>

#include "flame/tensor/tensor.h"

namespace flame::io {

Tensor decode_png(std::string_view bytes, const std::string& where, Loc loc);
Tensor decode_jpeg(std::string_view bytes, const std::string& where, Loc loc);

// [height, width, channels], uninitialised: memory that a cut file never fills is never touched.
inline Tensor empty_pixels(uint64_t height, uint64_t width, int channels, Loc loc) {
  return Tensor::empty({static_cast<int64_t>(height), static_cast<int64_t>(width), channels}, DType::u8, cpu(), loc);
}

}  // namespace flame::io
