// PNG and JPEG: every colour type against known pixels (tools/image_fixtures.py), channels, layouts, damage.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "flame/data/image_folder.h"
#include "flame/data/loader.h"
#include "flame/io/file.h"
#include "flame/io/image.h"
#include "flame/io/png.h"
#include "support/error.h"
#include "support/file_formats.h"

using namespace flame;
using namespace flame::io;
using flame::test::message_of;
using flame_test::Scratch;
using flame_test::write_plain;

namespace {

const std::string folder = FLAME_SOURCE_DIR "/tests/files/images/";

std::string big_endian(uint32_t v) {
  return {static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8), static_cast<char>(v)};
}

std::vector<flame_test::BadFile> bad_files() {
  const std::string png = read_file(folder + "c2d8.png"), jpg = read_file(folder + "colour420.jpg");
  std::string wide = png, sum = png, data = png, colour = png, depth = png, frame = jpg;
  wide.replace(16, 8, big_endian(0x7fffffff) + big_endian(0x7fffffff));
  sum[30] ^= 1;
  data[50] ^= 0x55;
  colour[25] = 1;
  depth[24] = 3;
  const size_t sof = jpg.find("\xff\xc0");
  frame.replace(sof + 5, 4, std::string("\xf0\0\xf0\0", 4));
  return {
      {"", "neither a PNG nor a JPEG"},
      {"GIF89a", "neither a PNG nor a JPEG"},
      {"\x89PNG", "damaged PNG file"},
      {png.substr(0, 20), "damaged PNG file"},
      {png.substr(0, png.size() - 12), "damaged PNG file"},
      {wide, "damaged PNG file"},
      {sum, "damaged PNG file"},
      {data, "damaged PNG file"},
      {colour, "damaged PNG file"},
      {depth, "damaged PNG file"},
      {"\xff\xd8", "damaged JPEG file"},
      {jpg.substr(0, 300), "damaged JPEG file"},
      {jpg.substr(0, jpg.size() - 2), "damaged JPEG file"},
      {jpg.substr(0, jpg.size() - 40), "damaged JPEG file"},
      {frame, "61440 x 61440 pixels are more than a file of"},
      {read_file(folder + "refused_cmyk.jpg"), "a JPEG file in CMYK"},
  };
}

std::vector<Tensor> load(const std::string& path) { return {read_image(path)}; }
std::vector<std::string> files(std::initializer_list<const char*> names) {
  std::vector<std::string> out;
  for (const char* name : names) out.push_back(read_file(folder + name));
  return out;
}
const flame_test::AddFileFormat png{{.name = "png",
                                     .load = load,
                                     .good =
                                         [] {
                                           return files({"c0d1i.png", "c2d8.png", "c3d4t.png", "c6d16i.png"});
                                         },
                                     .bad = bad_files,
                                     .hot = 60,
                                     .refused = 0.7,
                                     .zeros = true}};
const flame_test::AddFileFormat jpeg{{.name = "jpeg",
                                      .load = load,
                                      .good =
                                          [] {
                                            return files({"grey.jpg", "colour420.jpg", "progressive.jpg"});
                                          },
                                      .hot = 300,
                                      .refused = 0.2,
                                      .zeros = true}};

}  // namespace

TEST(Images, EveryKindGivesItsPixels) {
  const auto all = nlohmann::json::parse(std::ifstream(folder + "contents.json"));
  EXPECT_EQ(all.size(), 42u);
  for (const auto& [name, contents] : all.items()) {
    const Tensor t = read_image(folder + name, {.layout = ImageLayout::hwc});
    const auto shape = contents["shape"].get<std::vector<int64_t>>();
    ASSERT_EQ(t.shape(), Dims(std::span<const int64_t>(shape))) << name;
    const auto got = t.to_vector<uint8_t>();
    const auto want = contents["data"].get<std::vector<int>>();
    const int tolerance = name.ends_with(".jpg") ? 1 : 0;  // another version of libjpeg-turbo may round otherwise
    for (size_t i = 0; i < got.size(); ++i) ASSERT_LE(std::abs(got[i] - want[i]), tolerance) << name << " at " << i;
    const Tensor chw = read_image(folder + name);
    EXPECT_EQ(chw.shape(), (Shape{shape[2], shape[0], shape[1]}));
    EXPECT_EQ(chw.permute({1, 2, 0}).to_vector<uint8_t>(), got) << name;
  }
}

TEST(Images, ChannelsAreConverted) {
  const Tensor rgb = read_image(folder + "c2d8.png"), grey = read_image(folder + "c2d8.png", {.channels = 1});
  const auto p = rgb.to_vector<uint8_t>(), g = grey.to_vector<uint8_t>();
  EXPECT_EQ(grey.shape(), (Shape{1, 7, 9}));
  for (size_t i = 0; i < 63; ++i) EXPECT_NEAR(g[i], 0.299 * p[i] + 0.587 * p[63 + i] + 0.114 * p[126 + i], 0.51) << i;
  const auto rgba = read_image(folder + "c2d8.png", {.channels = 4}).to_vector<uint8_t>();
  EXPECT_EQ(std::vector<uint8_t>(rgba.begin(), rgba.begin() + 189), p);
  EXPECT_EQ(std::vector<uint8_t>(rgba.begin() + 189, rgba.end()), std::vector<uint8_t>(63, 255));
  const auto la = read_image(folder + "c4d8.png").to_vector<uint8_t>();
  const auto wide = read_image(folder + "c4d8.png", {.channels = 4}).to_vector<uint8_t>();
  EXPECT_EQ(std::vector<uint8_t>(wide.begin() + 126, wide.end()), la) << "blue and alpha";
  EXPECT_EQ(read_image(folder + "c4d8.png", {.channels = 1}).to_vector<uint8_t>(),
            std::vector<uint8_t>(la.begin(), la.begin() + 63));
  EXPECT_EQ(read_image(folder + "grey.jpg", {.channels = 3}).shape(), (Shape{3, 13, 18}));
  EXPECT_THROW(read_image(folder + "c4d8.png", {.channels = 2}), ValueError);
}

TEST(Images, WhatIsWrittenIsRead) {
  const Image image{3, 2, 3, {0, 1, 2, 3, 4, 5, 6, 7, 8, 250, 251, 252, 253, 254, 255, 9, 8, 7}};
  const Tensor t = decode_image(encode_png(image), "it", {.layout = ImageLayout::hwc});
  EXPECT_EQ(t.to_vector<uint8_t>(), image.pixels);
}

TEST(Images, APngOfMoreThan32MiB) {
  Image image{4000, 2900, 3, std::vector<uint8_t>(4000 * 2900 * 3)};
  uint32_t x = 1;
  for (uint8_t& v : image.pixels) v = static_cast<uint8_t>((x = x * 1664525 + 1013904223) >> 24);
  const std::string png = encode_png(image);
  EXPECT_GT(png.size(), size_t{32} << 20);
  EXPECT_EQ(decode_image(png, "it", {.layout = ImageLayout::hwc}).to_vector<uint8_t>(), image.pixels);
}

TEST(ImageFolder, AClassAFolder) {
  const Scratch dir;
  for (const char* name : {"dog", "cat", ".hidden"}) std::filesystem::create_directory(dir / name);
  const auto grey = [](uint8_t v) {
    return encode_png({.width = 2, .height = 2, .channels = 1, .pixels = {v, v, v, v}});
  };
  write_plain(dir / "dog/b.png", grey(3));
  write_plain(dir / "dog/a.PNG", grey(2));
  write_plain(dir / "cat/z.png", grey(1));
  write_plain(dir / "cat/notes.txt", "no picture");
  write_plain(dir / "cat/.a.png", "hidden");
  const data::ImageFolder d(dir.path());
  EXPECT_EQ(d.classes(), (std::vector<std::string>{"cat", "dog"}));
  ASSERT_EQ(d.size(), 3);
  EXPECT_EQ(d.file(1), dir / "dog/a.PNG");
  data::DataLoader loader{d, {.batch = 3, .workers = 2}};
  for (auto& [images, labels] : loader) {
    EXPECT_EQ(images.shape(), (Shape{3, 3, 2, 2}));
    EXPECT_EQ(images.select(1, 0).select(1, 0).select(1, 0).to_vector<uint8_t>(), (std::vector<uint8_t>{1, 2, 3}));
    EXPECT_EQ(labels.to_vector<int64_t>(), (std::vector<int64_t>{0, 1, 1}));
  }
  EXPECT_THROW(d.get(3), IndexError);
  EXPECT_THROW(data::ImageFolder(dir.path(), {.channels = 2}), ValueError);
  EXPECT_THROW(data::ImageFolder(dir / "none"), IoError);
  EXPECT_THROW(data::ImageFolder(dir / "cat"), FormatError);
  std::filesystem::create_directory(dir / "empty");
  const std::string m = message_of<FormatError>([&] { data::ImageFolder f(dir.path()); });
  EXPECT_NE(m.find("/empty' has no .png"), m.npos) << m;
  std::filesystem::remove(dir / "empty");
  write_plain(dir / "dog/a.PNG", "damaged");
  data::DataLoader bad{data::ImageFolder(dir.path()), {.batch = 1, .workers = 2}};
  const std::string damaged = message_of<FormatError>([&] {
    for (auto& [images, labels] : bad) EXPECT_EQ(labels.numel(), 1);
  });
  EXPECT_NE(damaged.find("dog/a.PNG'"), damaged.npos) << damaged;
}
