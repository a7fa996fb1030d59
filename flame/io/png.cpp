// Encoding by libspng; the grid is drawn pixel by pixel with the small font of font.h.
#include "flame/io/png.h"

#include <spng.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "flame/core/format.h"
#include "flame/io/file.h"
#include "flame/io/font.h"

namespace flame::io {
namespace {

using Colour = std::array<uint8_t, 3>;
constexpr Colour text_grey = {90, 90, 90};
constexpr Colour mark_colours[] = {{190, 190, 190}, {24, 140, 60}, {205, 35, 35}};
constexpr int border = 3, gap = 8, line_height = 11, letter = glyph_width + 1;

void check_image(const char* op, const Image& m, Loc loc) {
  if (m.channels != 1 && m.channels != 3) fail<ValueError>(loc, "{}: {} channels, expected 1 or 3", op, m.channels);
  if (m.width < 1 || m.height < 1 || m.width > 1 << 15 || m.height > 1 << 15)
    fail<ValueError>(loc, "{}: size {} x {}, expected 1 to {} each", op, m.width, m.height, 1 << 15);
  const size_t expected =
      static_cast<size_t>(m.width) * static_cast<size_t>(m.height) * static_cast<size_t>(m.channels);
  if (m.pixels.size() != expected)
    fail<ShapeError>(loc, "{}: {} bytes for {} x {} x {}, expected {}", op, m.pixels.size(), m.width, m.height,
                     m.channels, expected);
}

void set_pixel(Image& m, int x, int y, const Colour& c) {
  if (x < 0 || y < 0 || x >= m.width || y >= m.height) return;
  std::copy(c.begin(), c.end(), m.pixels.begin() + (static_cast<ptrdiff_t>(y) * m.width + x) * 3);
}

void fill(Image& m, int left, int top, int width, int height, const Colour& c) {
  for (int y = top; y < top + height; ++y)
    for (int x = left; x < left + width; ++x) set_pixel(m, x, y, c);
}

void draw_text(Image& m, int left, int top, std::string_view s, int scale, const Colour& c) {
  for (const char ch : s) {
    const auto& columns = glyph(ch);
    for (int x = 0; x < glyph_width; ++x)
      for (int y = 0; y < glyph_height; ++y)
        if (columns[static_cast<size_t>(x)] >> y & 1) fill(m, left + x * scale, top + y * scale, scale, scale, c);
    left += letter * scale;
  }
}

std::vector<std::string_view> lines_of(std::string_view s) {
  std::vector<std::string_view> lines;
  while (!s.empty()) {
    const size_t end = std::min(s.find('\n'), s.size());
    lines.push_back(s.substr(0, end));
    s.remove_prefix(std::min(end + 1, s.size()));
  }
  return lines;
}

// Centred in `width`, cut to it.
void draw_centred(Image& m, int left, int width, int top, std::string_view s, const Colour& c) {
  s = s.substr(0, static_cast<size_t>(width / letter));
  draw_text(m, left + (width - static_cast<int>(s.size()) * letter + 1) / 2, top, s, 1, c);
}

void draw_image(Image& m, int left, int top, const Image& image, int scale) {
  const uint8_t* p = image.pixels.data();
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x, p += image.channels) {
      const Colour c = image.channels == 3 ? Colour{p[0], p[1], p[2]} : Colour{p[0], p[0], p[0]};
      fill(m, left + x * scale, top + y * scale, scale, scale, c);
    }
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};
struct FreeContext {
  void operator()(spng_ctx* c) const { spng_ctx_free(c); }
};

}  // namespace

std::string encode_png(const Image& image, Loc loc) {
  check_image("encode_png", image, loc);
  const std::unique_ptr<spng_ctx, FreeContext> context(spng_ctx_new(SPNG_CTX_ENCODER));
  const auto checked = [&](int error) {
    if (error) fail<IoError>(loc, "encode_png: {}", spng_strerror(error));
  };
  if (!context) fail<OutOfMemory>(loc, "encode_png: no memory for the encoder");
  checked(spng_set_option(context.get(), SPNG_ENCODE_TO_BUFFER, 1));
  spng_ihdr head{};
  head.width = static_cast<uint32_t>(image.width);
  head.height = static_cast<uint32_t>(image.height);
  head.bit_depth = 8;
  head.color_type = image.channels == 3 ? SPNG_COLOR_TYPE_TRUECOLOR : SPNG_COLOR_TYPE_GRAYSCALE;
  checked(spng_set_ihdr(context.get(), &head));
  checked(
      spng_encode_image(context.get(), image.pixels.data(), image.pixels.size(), SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE));
  size_t size = 0;
  int error = 0;
  const std::unique_ptr<void, Free> bytes(spng_get_png_buffer(context.get(), &size, &error));
  checked(error);
  return {static_cast<const char*>(bytes.get()), size};
}

void write_png(const std::string& path, const Image& image, Loc loc) {
  write_file_atomic(path, encode_png(image, loc), loc);
}

Image image_grid(std::span<const GridCell> cells, const GridOptions& options, Loc loc) {
  if (cells.empty()) fail<ValueError>(loc, "image_grid: no cells");
  if (options.columns < 1 || options.scale < 1 || options.scale > 64)
    fail<ValueError>(loc, "image_grid: {} columns at scale {}, expected at least 1 and 1 to 64", options.columns,
                     options.scale);
  int width = 0, height = 0, lines = 0;
  for (const GridCell& c : cells) {
    check_image("image_grid", c.image, loc);
    width = std::max(width, c.image.width * options.scale);
    height = std::max(height, c.image.height * options.scale);
    lines = std::max(lines, static_cast<int>(lines_of(c.caption).size()));
  }
  const int columns = std::min(options.columns, static_cast<int>(cells.size()));
  const int rows = (static_cast<int>(cells.size()) + columns - 1) / columns;
  const int cell_width = width + 2 * border, cell_height = height + 2 * border + (lines ? 4 + lines * line_height : 0);
  const int top = options.title.empty() ? gap : 30;

  const int64_t total_width = gap + int64_t{columns} * (cell_width + gap);
  const int64_t total_height = top + int64_t{rows} * (cell_height + gap);
  if (total_width > 1 << 15 || total_height > 1 << 15)
    fail<ValueError>(loc, "image_grid: the picture would be {} x {} pixels, above {}", total_width, total_height,
                     1 << 15);
  Image out{static_cast<int>(total_width), static_cast<int>(total_height), 3, {}};
  out.pixels.assign(static_cast<size_t>(out.width) * static_cast<size_t>(out.height) * 3, 255);
  draw_text(out, gap, 9, options.title, 2, {50, 50, 50});
  for (size_t i = 0; i < cells.size(); ++i) {
    const GridCell& c = cells[i];
    const Colour& colour = mark_colours[static_cast<size_t>(c.mark)];
    const int left = gap + static_cast<int>(i) % columns * (cell_width + gap);
    int y = top + static_cast<int>(i) / columns * (cell_height + gap);
    fill(out, left, y, cell_width, height + 2 * border, colour);
    fill(out, left + border, y + border, width, height, {255, 255, 255});
    draw_image(out, left + border + (width - c.image.width * options.scale) / 2, y + border, c.image, options.scale);
    y += height + 2 * border + 4;
    const auto captions = lines_of(c.caption);
    for (size_t l = 0; l < captions.size(); ++l, y += line_height)
      draw_centred(out, left, cell_width, y, captions[l], l == 0 && c.mark != Mark::none ? colour : text_grey);
  }
  return out;
}

}  // namespace flame::io
