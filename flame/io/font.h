// Internal: a 5x7 pixel font for captions, printable ASCII.
#pragma once
#include <array>
#include <cstdint>

namespace flame::io {

inline constexpr int glyph_width = 5, glyph_height = 7;
// The five columns of a character from the left; bit 0 is the top row. A box for anything but printable ASCII.
const std::array<uint8_t, glyph_width>& glyph(char c);

}  // namespace flame::io
