// safetensors: round trips, Python's own reader, hand-made bad files, and thousands of mutants that must not crash.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "flame/io/safetensors.h"
#include "readers/reader.h"
#include "support/file_formats.h"
#include "support/named_tensors.h"

using namespace flame;
using namespace flame::io;
using flame_test::expect_equal;
using flame_test::samples;
using flame_test::Scratch;
using flame_test::write_plain;

namespace {

std::string file_bytes(const std::string& json, const std::string& data = {}) {
  const uint64_t n = json.size();
  return std::string(reinterpret_cast<const char*>(&n), 8) + json + data;
}

std::vector<flame_test::BadFile> bad_files() {
  const std::string data(8, '\0');
  const auto entry = [](const std::string& name, const std::string& dtype, const std::string& shape,
                        const std::string& offsets) {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" + offsets +
           "]}";
  };
  const auto one = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return file_bytes("{" + entry("t", dtype, shape, offsets) + "}", data);
  };
  std::string long_header = file_bytes("{}"), huge_header = long_header;
  long_header[0] = 100;
  std::memset(huge_header.data(), 0xff, 8);
  return {
      {"", "0 bytes are too few"},
      {"1234567", "7 bytes are too few"},
      {long_header, "header length 100, but only 2 bytes follow"},
      {huge_header, "above the limit"},
      {file_bytes(""), "does not begin with '{'"},
      {file_bytes(" {}"), "does not begin with '{'"},
      {file_bytes("[]"), "does not begin with '{'"},
      {file_bytes("{"), "no valid JSON at byte"},
      {file_bytes("{}x"), "no valid JSON at byte"},
      {file_bytes("{\"t\":}"), "no valid JSON at byte"},
      {file_bytes("{\"\xff\":{}}"), "no valid JSON at byte"},
      {file_bytes("{\"t\":" + std::string(100'000, '[')), "'t' is a list, expected an object"},
      {file_bytes("{\"t\":" + std::string(100'000, '{')), "no valid JSON"},
      {file_bytes("{\"t\":1}"), "'t' is a number, expected an object"},
      {file_bytes("{\"t\":null}"), "'t' is null"},
      {file_bytes("{\"t\":{}}"), "tensor 't' has no field 'dtype'"},
      {file_bytes("{\"t\":{\"dtype\":\"F32\",\"shape\":[2]}}"), "tensor 't' has no field 'data_offsets'"},
      {file_bytes("{\"t\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}"), "has the field 'dtype' twice"},
      {file_bytes("{\"t\":{\"colour\":1}}"), "unknown field 'colour'"},
      {file_bytes("{\"t\":{\"shape\":[[1]]}}"), "shape contains a list"},
      {file_bytes("{\"t\":{\"shape\":3}}"), "shape must not be a number"},
      {file_bytes("{\"t\":{\"shape\":[\"3\"]}}"), "shape contains a string"},
      {file_bytes("{\"t\":{\"dtype\":3}}"), "dtype must not be a number"},
      {file_bytes("{" + entry("t", "F32", "2", "0,8") + "," + entry("t", "F32", "2", "0,8") + "}", data),
       "'t' occurs twice"},
      {file_bytes("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}"), "metadata name 'a' occurs twice"},
      {file_bytes("{\"__metadata__\":{\"a\":1}}"), "metadata 'a' is a number, expected a string"},
      {file_bytes("{\"__metadata__\":{\"a\":{}}}"), "metadata 'a' is an object, expected a string"},
      {file_bytes("{\"__metadata__\":\"a\"}"), "expected an object"},
      {one("F33", "2", "0,8"), "dtype 'F33', expected one of"},
      {one("I16", "4", "0,8"), "dtype 'I16', expected one of"},
      {one("F32", "3", "0,8"), "takes 12 bytes, but data_offsets 0..8 hold 8"},
      {one("F64", "2", "0,8"), "takes 16 bytes"},
      {one("F32", "-2", "0,8"), "shape -2 is negative"},
      {one("F32", "2.0", "0,8"), "is no 64-bit integer"},
      {one("F32", "99999999999999999999", "0,8"), "is no 64-bit integer"},
      {one("F32", "9223372036854775807", "0,8"), "out of range"},
      {one("F32", "4294967296,4294967296", "0,8"), "is too large"},
      {one("F32", "0,4294967296,4294967296", "0,0"), "is too large"},
      {one("F32", "1,1,1,1,1,1,1,1,2", "0,8"), "more than 8 axes"},
      {one("F32", "2", "8,0"), "run backwards"},
      {one("F32", "2", "0,-8"), "is negative"},
      {one("F32", "2", "0"), "data_offsets has 1 numbers"},
      {one("F32", "2", "0,8,9"), "more than 2 numbers"},
      {one("F32", "4", "0,16"), "ends at byte 16 of the data, but there are only 8"},
      {one("F32", "1", "0,4"), "the tensors take 4 bytes of data, but 8 follow"},
      {one("F32", "1", "4,8"), "bytes 0..4 of the data, before tensor 't', belong to no tensor"},
      {file_bytes("{}", data), "take 0 bytes of data, but 8 follow"},
      {file_bytes("{" + entry("a", "F32", "1", "0,4") + "," + entry("b", "F32", "2", "0,8") + "}", data),
       "'a' and 'b' overlap at byte 0"},
      {file_bytes("{" + entry("a", "U8", "5", "0,5") + "," + entry("b", "U8", "4", "4,8") + "}", data),
       "'a' and 'b' overlap at byte 4"},
      {file_bytes("{" + entry("a", "U8", "3", "0,3") + "," + entry("b", "U8", "4", "4,8") + "}", data),
       "bytes 3..4 of the data"},
      {file_bytes("{" + entry("t", "BOOL", "3", "0,3") + "}", std::string("\0\1\2", 3)), "is BOOL but holds 2"},
  };
}

std::vector<Tensor> load(const std::string& path) {
  std::vector<Tensor> out;
  for (const auto& [name, t] : load_safetensors(path)) out.push_back(t);
  return out;
}
std::vector<std::string> good_files() {
  const Scratch dir;
  save_safetensors(dir / "m", flame_test::without_zeros(), {{"k", "v"}});
  return {read_file(dir / "m")};
}
const flame_test::AddFileFormat format{
    {.name = "safetensors", .load = load, .good = good_files, .bad = bad_files, .hot = 700, .refused = 0.5}};

}  // namespace

TEST(Safetensors, RoundTrip) {
  const Scratch dir;
  const Metadata metadata{{"a", "1"}, {"text", "{\"x\": [1, 2]}\n\xe2\x82\xac"}};
  save_safetensors(dir / "m", samples(), metadata);
  expect_equal(samples(), load_safetensors(dir / "m"));
  const SafetensorsFile file(dir / "m");
  EXPECT_EQ(file.metadata(), metadata);
  EXPECT_EQ(file.tensors().size(), samples().size());
  ASSERT_NE(file.find("layer.float32[5, 7]"), nullptr);
  EXPECT_EQ(file.find("layer.float32[5, 7]")->shape, (Shape{5, 7}));
  EXPECT_EQ(file.find("none"), nullptr);
  EXPECT_THROW(file.load("none"), FormatError);
  // Every tensor of a wide type is aligned in the mapping.
  for (const TensorInfo& t : file.tensors())
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file.bytes(t).data()) % size_of(t.dtype), 0u) << t.name;
  // The same content in another order gives the same bytes.
  auto shuffled = samples();
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(1));
  save_safetensors(dir / "n", shuffled, metadata);
  EXPECT_EQ(read_file(dir / "m"), read_file(dir / "n"));
  save_safetensors(dir / "e", {});
  EXPECT_TRUE(load_safetensors(dir / "e").empty());
}

TEST(Safetensors, RefusesBadNamesWhenSaving) {
  const Scratch dir;
  const Tensor t = Tensor::from<float>({1}, {1});
  const auto save = [&](std::vector<NamedTensor> v, const Metadata& m = {}) { save_safetensors(dir / "m", v, m); };
  EXPECT_THROW(save({{"a", t}, {"a", t}}), ValueError);
  EXPECT_THROW(save({{"__metadata__", t}}), ValueError);
  EXPECT_THROW(save({{"\xff", t}}), ValueError);
  EXPECT_THROW(save({{"a", t}}, {{"k", "\xc3"}}), ValueError);
  EXPECT_THROW(save({{"a", Tensor()}}), ValueError);
  EXPECT_FALSE(file_exists(dir / "m"));
}

TEST(Safetensors, PythonReadsAndWritesTheSame) {
  const std::string python = flame_test::python_with("safetensors, numpy");
  if (python.empty()) GTEST_SKIP() << "no Python with safetensors and numpy";
  const Scratch dir;
  save_safetensors(dir / "m", samples(), {{"k", "v"}});
  const auto out = flame_test::run(python + " " + flame_test::reader("read_safetensors.py") + " " + (dir / "m") + " " +
                                   (dir / "back"));
  ASSERT_EQ(out.status, 0) << out.text;
  EXPECT_NE(out.text.find("{\"k\": \"v\"}"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("layer.bfloat16[5, 7] bfloat16 [5, 7]"), std::string::npos) << out.text;
  expect_equal(samples(), load_safetensors(dir / "back"));  // each byte went there and back
  EXPECT_EQ(SafetensorsFile(dir / "back").metadata(), (Metadata{{"from", "python"}}));
}
