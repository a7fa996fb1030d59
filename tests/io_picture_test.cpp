// Pictures: SVG plots are well-formed, keep spikes and gaps; PNG files hold the pixels they were given.
#include <gtest/gtest.h>
#include <spng.h>

#include <cmath>
#include <limits>

#include "flame/io/file.h"
#include "flame/io/png.h"
#include "flame/io/svg.h"
#include "readers/reader.h"

using namespace flame;
using namespace flame::io;
using flame_test::Scratch;

namespace {

size_t count(const std::string& s, const std::string& part) {
  size_t n = 0;
  for (size_t at = s.find(part); at != std::string::npos; at = s.find(part, at + 1)) ++n;
  return n;
}

const double nan_value = std::nan(""), infinity = std::numeric_limits<double>::infinity();

Image decode(const std::string& png) {
  spng_ctx* c = spng_ctx_new(0);
  spng_set_png_buffer(c, png.data(), png.size());
  spng_ihdr head{};
  EXPECT_EQ(spng_get_ihdr(c, &head), 0);
  EXPECT_EQ(head.bit_depth, 8);
  Image out{static_cast<int>(head.width),
            static_cast<int>(head.height),
            head.color_type == SPNG_COLOR_TYPE_TRUECOLOR ? 3 : 1,
            {}};
  out.pixels.resize(size_t{head.width} * head.height * static_cast<size_t>(out.channels));
  EXPECT_EQ(spng_decode_image(c, out.pixels.data(), out.pixels.size(), SPNG_FMT_PNG, 0), 0);
  spng_ctx_free(c);
  return out;
}

}  // namespace

TEST(Svg, NiceTicks) {
  EXPECT_EQ(nice_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(nice_ticks(0.3, 9.1, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(nice_ticks(-3, 3, 3), (std::vector<double>{-4, -2, 0, 2, 4}));
  for (double low : {-1e9, -1.0, 0.0, 1e-7, 12345.0})
    for (double span : {1e-5, 0.7, 3.0, 1e4, 1e12}) {
      const auto t = nice_ticks(low, low + span, 6);
      EXPECT_LE(t.front(), low + span * 1e-6);
      EXPECT_GE(t.back(), low + span - span * 1e-6);
      EXPECT_GE(t.size(), 3u);
      EXPECT_LE(t.size(), 9u) << low << " " << span;
    }
}

TEST(Svg, EveryKindOfSeriesIsWellFormed) {
  std::vector<Plot> plots(12);
  for (size_t i = 0; i < plots.size(); ++i) plots[i].log_y = i % 2;
  plots[1].series = {{"one & <only>", {3}, {4}}};
  plots[2].series = {{"", {1, 2, 3}, {nan_value, infinity, -infinity}}};
  plots[3].series = {{"gaps", {1, 2, 3, 4, 5}, {1, nan_value, 2, -1, 3}}};
  plots[4].series = {{"flat", {1, 2}, {0, 0}}};
  plots[5].series = {{"wide", {1, 2}, {1e-300, 1e299}}};
  plots[6].series = {{"huge", {-1e299, 1e299}, {-1e299, 1e299}}};
  plots[7].series = {{"near", {1, 2}, {5.0, 5.0000001}}};
  plots[8].series = {{"tiny", {0, 1e-310}, {1e-310, 2e-310}}};
  plots[9].series = {{"decade", {0, 1, 2}, {1.1, 1.2, 1.3}}};
  plots[10].series = {{"empty", {}, {}}};
  plots[11].series = {{"a", {0, 1}, {1, 100}}, {"b", {0, 1}, {1000, 1e-6}, true}};
  const std::string python = flame_test::python_with("xml.etree");
  const Scratch dir;
  for (size_t i = 0; i < plots.size(); ++i) {
    plots[i].title = "a < b & \"c\"";
    const std::string svg = render_svg(plots[i]);
    EXPECT_EQ(count(svg, "nan") + count(svg, "inf"), 0u) << i << svg;
    EXPECT_GE(count(svg, "<text"), 3u) << i;
    write_svg(dir / ("p" + std::to_string(i) + ".svg"), plots[i]);
  }
  if (python.empty()) GTEST_SKIP() << "no Python to parse the XML";
  const auto out =
      flame_test::run(python + " -c \"import sys, xml.etree.ElementTree as e; [e.parse(f) for f in sys.argv[1:]]\" " +
                      dir.path() + "/*.svg");
  EXPECT_EQ(out.status, 0) << out.text;
}

TEST(Svg, GapsPointsAndSpikes) {
  const std::string gaps = render_svg({.series = {{"", {1, 2, 3, 4, 5, 6}, {1, 2, nan_value, 4, nan_value, 6}}}});
  EXPECT_EQ(count(gaps, "<path"), 1u);
  EXPECT_EQ(count(gaps, "<circle"), 2u);
  Series s{"long", {}, {}};
  for (int i = 0; i < 500'000; ++i) {
    s.x.push_back(i);
    s.y.push_back(i == 123'457 ? 50 : std::sin(i * 1e-4));
  }
  const std::string svg = render_svg({.series = {s}});
  EXPECT_LT(svg.size(), 60'000u) << "not thinned out";
  double top = 1e9;  // the smallest y of the path is the spike
  for (size_t at = svg.find("<path"); at < svg.size(); ++at)
    if (svg[at] == ' ' && isdigit(svg[at + 1])) top = std::min(top, std::stod(svg.substr(at + 1, 8)));
  EXPECT_LT(top, 30) << "the spike is lost";
  EXPECT_THROW(render_svg({.series = {{"", {1}, {}}}}), ValueError);
  EXPECT_THROW(render_svg({.series = {}, .width = 10}), ValueError);
}

TEST(Png, PixelsComeBack) {
  for (const int channels : {1, 3}) {
    Image image{37, 11, channels, {}};
    for (int i = 0; i < 37 * 11 * channels; ++i) image.pixels.push_back(static_cast<uint8_t>(i * 31));
    const Image back = decode(encode_png(image));
    EXPECT_EQ(back.width, 37);
    EXPECT_EQ(back.channels, channels);
    EXPECT_EQ(back.pixels, image.pixels);
  }
  EXPECT_THROW(encode_png({2, 2, 1, {1, 2, 3}}), ShapeError);
  EXPECT_THROW(encode_png({0, 2, 1, {}}), ValueError);
  EXPECT_THROW(encode_png({1, 1, 2, {1, 2}}), ValueError);
}

TEST(Png, GridMarksRightAndWrong) {
  const Image black{4, 4, 1, std::vector<uint8_t>(16, 0)};
  const std::vector<GridCell> cells{
      {black, "a right one, too long", Mark::right}, {black, "b\nc", Mark::wrong}, {black, "", Mark::none}};
  const Image grid = image_grid(cells, {.columns = 2, .scale = 3});
  EXPECT_EQ(grid.width, 8 + 2 * (18 + 8));
  EXPECT_EQ(grid.height, 8 + 2 * (18 + 4 + 22 + 8));
  const auto pixel = [&](int x, int y) {
    const uint8_t* p =
        &grid.pixels[(static_cast<size_t>(y) * static_cast<size_t>(grid.width) + static_cast<size_t>(x)) * 3];
    return std::array<int, 3>{p[0], p[1], p[2]};
  };
  const auto right = pixel(8, 8), wrong = pixel(34, 8), none = pixel(8, 60);
  EXPECT_GT(right[1], 2 * right[0]);
  EXPECT_GT(wrong[0], 2 * wrong[1]);
  EXPECT_EQ(none[0], none[1]);
  EXPECT_EQ(pixel(11, 11), (std::array<int, 3>{0, 0, 0}));
  EXPECT_EQ(pixel(22, 22), (std::array<int, 3>{0, 0, 0}));
  EXPECT_EQ(pixel(23, 23), right);
  const Scratch dir;
  write_png(dir / "g.png", grid);
  EXPECT_EQ(decode(read_file(dir / "g.png")).pixels, grid.pixels);
  EXPECT_THROW(image_grid({}, {}), ValueError);
  EXPECT_THROW(image_grid(cells, {.columns = 0}), ValueError);
  EXPECT_THROW(image_grid(std::vector<GridCell>(1, {{1 << 15, 1, 1, std::vector<uint8_t>(1 << 15)}, "", Mark::none}),
                          {.scale = 2}),
               ValueError);
}
