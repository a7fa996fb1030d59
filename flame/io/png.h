// 8-bit pictures: a PNG writer and a grid of captioned images for looking at predictions.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flame/core/error.h"

namespace flame::io {

struct Image {
  int width = 0, height = 0;
  int channels = 1;             // 1 (grey) or 3 (RGB)
  std::vector<uint8_t> pixels;  // rows from the top, channels innermost
};

std::string encode_png(const Image& image, Loc loc = Loc::current());
void write_png(const std::string& path, const Image& image, Loc loc = Loc::current());  // atomic

enum class Mark : uint8_t { none, right, wrong };  // a grey, green or red border
struct GridCell {
  Image image;
  std::string caption;  // under the image, ASCII, a line each; the first in the mark's colour
  Mark mark = Mark::none;
};
struct GridOptions {
  int columns = 10;
  int scale = 3;           // pixels of the picture a pixel of the image
  std::string title = {};  // one line above
};
// An RGB picture. Cells may differ in size; captions are cut to their cell.
Image image_grid(std::span<const GridCell> cells, const GridOptions& options = {}, Loc loc = Loc::current());

}  // namespace flame::io
