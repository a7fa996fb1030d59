// IDX files: plain and gzip'd, the real data set, and every kind of damage.
#include <gtest/gtest.h>
#include <zlib.h>

#include <random>

#include "flame/data/idx_dataset.h"
#include "flame/io/file.h"
#include "flame/io/idx.h"
#include "flame/io/safetensors.h"
#include "readers/reader.h"
#include "support/file_formats.h"

using namespace flame;
using namespace flame::io;
using flame_test::Scratch;
using flame_test::write_plain;

namespace {

std::string idx_bytes(const std::vector<uint32_t>& sizes, const std::string& data, unsigned char type = 8) {
  std::string s = {'\0', '\0', static_cast<char>(type), static_cast<char>(sizes.size())};
  for (const uint32_t n : sizes)
    for (int shift = 24; shift >= 0; shift -= 8) s += static_cast<char>(n >> shift & 0xff);
  return s + data;
}

std::string gzip(const std::string& data) {
  z_stream z{};
  deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&z, data.size()) + 64, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  z.avail_in = static_cast<uInt>(data.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

std::vector<flame_test::BadFile> bad_files() {
  const std::string good = idx_bytes({2, 3}, "abcdef"), packed = gzip(good);
  std::string bad_sum = packed, bad_body = packed;
  bad_sum[packed.size() - 6] ^= 1;
  bad_body[packed.size() - 11] ^= 0x55;
  return {
      {"", "byte 0: the file ends inside the 4-byte magic number"},
      {std::string("\0\0\10", 3), "byte 3: the file ends inside"},
      {"PNG..", "byte 0: magic number 50 4e 47 2e"},
      {idx_bytes({6}, "abcdef", 0x0d), "byte 4: sizes [6] ask for more bytes than the file can hold"},
      {idx_bytes({1}, "abcdef", 0x0b), "byte 10: data goes on after the 2 bytes of sizes [1]"},
      {idx_bytes({1u << 28, 1u << 28}, "abcdef", 0x0e), "more bytes than the file can hold"},
      {idx_bytes({6}, "abcdef", 0x0a), "byte 2: unknown element type 0x0a"},
      {idx_bytes({6}, "abcdef", 0x10), "byte 2: unknown element type 0x10"},
      {idx_bytes({}, "a"), "byte 3: rank 0"},
      {idx_bytes({1, 1, 1, 1, 1, 1, 1, 1, 1}, "a"), "byte 3: rank 9"},
      {good.substr(0, 10), "byte 10: the file ends inside the sizes"},
      {good.substr(0, 17), "the content ends at byte 17, but sizes [2, 3] need 18"},
      {good + "x", "byte 18: data goes on"},
      {idx_bytes({0xffffffff, 0xffffffff, 0xffffffff}, "abc"), "more bytes than the file can hold"},
      {gzip(idx_bytes({1u << 31, 1u << 31}, "abc")), "more bytes than the file can hold"},
      {gzip(good + "x"), "byte 18: data goes on"},
      {gzip(good.substr(0, 15)), "the content ends at byte 15"},
      {packed.substr(0, packed.size() - 1), "the gzip data is cut off"},
      {packed.substr(0, packed.size() - 9), "the gzip data is cut off"},
      {packed.substr(0, 5), "the gzip data is cut off"},
      {packed + "garbage", "7 stray bytes after the gzip data"},
      {bad_sum, "damaged gzip data (incorrect data check)"},
      {bad_body, "gzip data"},
  };
}

std::vector<std::string> good_files() {
  std::string data;
  for (int i = 0; i < 1600; ++i) data += static_cast<char>(1 + i % 7);
  const std::string bytes = idx_bytes({4, 20, 20}, data), shorts = idx_bytes({40, 20}, data, 0x0b);
  return {bytes, gzip(bytes), shorts, gzip(shorts)};
}
const flame_test::AddFileFormat format{{.name = "idx",
                                        .load = [](const std::string& path) { return std::vector{read_idx(path)}; },
                                        .good = good_files,
                                        .bad = bad_files,
                                        .hot = 16}};

}  // namespace

TEST(Idx, PlainAndGzip) {
  const Scratch dir;
  std::string data;
  for (int i = 0; i < 24; ++i) data += static_cast<char>(i * 11);
  const std::string plain = idx_bytes({2, 3, 4}, data);
  const std::string half = plain.substr(0, 20), rest = plain.substr(20);
  for (const std::string& bytes : {plain, gzip(plain), gzip(half) + gzip(rest)}) {
    write_plain(dir / "a", bytes);
    const Tensor t = read_idx(dir / "a");
    EXPECT_EQ(t.shape(), (Shape{2, 3, 4}));
    const auto v = t.to_vector<uint8_t>();
    EXPECT_EQ(std::string(v.begin(), v.end()), data);
  }
  write_plain(dir / "a", idx_bytes({0, 5}, ""));
  EXPECT_EQ(read_idx(dir / "a").shape(), (Shape{0, 5}));
}

TEST(Idx, EveryElementType) {
  const Scratch dir;
  const auto read = [&](const std::string& data, unsigned char type, uint32_t count) {
    for (const std::string& bytes : {idx_bytes({count}, data, type), gzip(idx_bytes({count}, data, type))})
      write_plain(dir / (bytes[0] == 0 ? "plain" : "packed"), bytes);
    const Tensor t = read_idx(dir / "plain"), packed = read_idx(dir / "packed");
    EXPECT_EQ(row_major_bytes(t, Loc::current()), row_major_bytes(packed, Loc::current()));
    return t;
  };
  EXPECT_EQ(read("\x80\x7f", 0x09, 2).to_vector<int8_t>(), (std::vector<int8_t>{-128, 127}));
  EXPECT_EQ(read(std::string("\xff\xfe\0\3\x80\0", 6), 0x0b, 3).to_vector<int32_t>(),
            (std::vector<int32_t>{-2, 3, -32768}));
  EXPECT_EQ(read(std::string("\0\1\0\2\xff\xff\xff\xff", 8), 0x0c, 2).to_vector<int32_t>(),
            (std::vector<int32_t>{65538, -1}));
  EXPECT_EQ(read(std::string("\x3f\x80\0\0\xc0\x20\0\0", 8), 0x0d, 2).to_vector<float>(),
            (std::vector<float>{1, -2.5}));
  EXPECT_EQ(read(std::string("\x3f\xf0\0\0\0\0\0\0", 8), 0x0e, 1).to_vector<double>(), std::vector<double>{1});
  std::string many;
  for (int i = 0; i < 1000; ++i) many += {static_cast<char>(i >> 8), static_cast<char>(i)};
  const auto v = read(many, 0x0b, 1000).to_vector<int32_t>();
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(v[static_cast<size_t>(i)], i);
}

TEST(Idx, FashionMnist) {
  const std::string folder = data::dataset_folder("fashion-mnist");
  if (!file_exists(folder)) GTEST_SKIP() << "no data set in " << folder;
  const data::ImageSets sets = data::idx_folder(folder);
  EXPECT_EQ(sets.train.size(), 60'000);
  EXPECT_EQ(sets.test.size(), 10'000);
  EXPECT_EQ(sets.train.tensors()[0].shape(), (Shape{60'000, 28, 28}));
  std::vector<int> count(10);
  for (const int64_t label : sets.test.tensors()[1].to_vector<int64_t>()) ++count.at(static_cast<size_t>(label));
  EXPECT_EQ(count, std::vector<int>(10, 1000));
  const auto first = sets.train.get(0);
  EXPECT_EQ(first[1].to_vector<int64_t>(), std::vector<int64_t>{9});
}

TEST(Idx, DatasetsOfFilesThatDoNotMatch) {
  const Scratch dir;
  write_plain(dir / "images", idx_bytes({2, 1, 1}, "ab"));
  write_plain(dir / "labels", idx_bytes({3}, "abc"));
  EXPECT_THROW(data::idx_dataset(dir / "images", dir / "labels"), FormatError);
  EXPECT_THROW(data::idx_dataset(dir / "labels", dir / "labels"), FormatError);
  EXPECT_THROW(data::idx_dataset(dir / "images", dir / "images"), FormatError);
  EXPECT_THROW(data::idx_folder(dir.path()), IoError);
  write_plain(dir / "labels", idx_bytes({2}, "ab", 9));
  EXPECT_THROW(data::idx_dataset(dir / "images", dir / "labels"), FormatError);
  write_plain(dir / "labels", idx_bytes({2}, std::string("\3\xff", 2)));
  EXPECT_EQ(data::idx_dataset(dir / "images", dir / "labels").tensors()[1].to_vector<int64_t>(),
            (std::vector<int64_t>{3, 255}));
}
