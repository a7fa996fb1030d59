// Sharded safetensors: round trips at any shard size, and indexes that do not fit their shards.
#include <gtest/gtest.h>

#include "flame/io/safetensors_shards.h"
#include "support/file_formats.h"
#include "support/named_tensors.h"

using namespace flame;
using namespace flame::io;
using flame_test::Scratch;
using flame_test::write_plain;

namespace {

void write_shards(const std::string& folder) {
  save_safetensors(folder + "/s1", std::vector<NamedTensor>{{"a", Tensor::from<float>({1}, {1})}});
  save_safetensors(folder + "/s2", std::vector<NamedTensor>{{"b", Tensor::from<float>({1}, {1})}});
  write_plain(folder + "/s3", "no safetensors");
}
std::string map(const std::string& entries) { return "{\"metadata\":{},\"weight_map\":{" + entries + "}}"; }

std::vector<flame_test::BadFile> bad_indexes() {
  return {
      {"", "no valid JSON at byte"},
      {"{", "no valid JSON at byte"},
      {"[]", "it is a list, expected an object"},
      {"{}", "it has no weight_map"},
      {"{\"weight_map\":[]}", "weight_map is a list, expected an object"},
      {"{\"weight_map\":{},\"weight_map\":{}}", "'weight_map' occurs twice"},
      {map("\"a\":1"), "weight_map 'a' is a number"},
      {map("\"a\":{\"b\":1}"), "weight_map 'a' is an object"},
      {map("\"a\":\"s1\",\"a\":\"s1\""), "weight_map has 'a' twice"},
      {"{\"x\":" + std::string(100'000, '['), "no valid JSON at byte"},
      {map("\"a\":\"../s1\""), "shard '../s1' is no plain file name"},
      {map("\"a\":\"/etc/passwd\""), "is no plain file name"},
      {map("\"a\":\"..\""), "is no plain file name"},
      {map("\"a\":\"\""), "is no plain file name"},
      {map("\"a\":\"s1\\u0000\""), "is no plain file name"},
      {map("\"a\":\"s4\""), "s4' is missing"},
      {map("\"a\":\"s1\",\"b\":\"s1\""), "tensor 'b' is missing from shard 's1'"},
      {map("\"b\":\"s2\",\"c\":\"s1\""), "tensor 'c' is missing from shard 's1'"},
      {map("\"a\":\"s2\",\"b\":\"s1\""), "tensor 'a' is missing from shard 's2'"},
  };
}
const flame_test::AddFileFormat format{{.name = "safetensors index",
                                        .load =
                                            [](const std::string& path) {
                                              std::vector<Tensor> out;
                                              for (const auto& [name, t] : load_safetensors_shards(path))
                                                out.push_back(t);
                                              return out;
                                            },
                                        .good = [] { return std::vector{map("\"a\":\"s1\",\"b\":\"s2\"")}; },
                                        .bad = bad_indexes,
                                        .hot = 30,
                                        .beside = write_shards}};

}  // namespace

TEST(SafetensorsShards, RoundTripAtAnySize) {
  const auto all = flame_test::samples();
  uint64_t total = 0, largest = 0;
  for (const auto& [name, t] : all) {
    const uint64_t bytes = static_cast<uint64_t>(t.numel()) * size_of(t.dtype());
    total += bytes;
    largest = std::max(largest, bytes);
  }
  for (const uint64_t max_bytes : {uint64_t{1}, uint64_t{100}, largest, total, uint64_t{1} << 40}) {
    const Scratch dir;
    const std::string index = dir / "model.safetensors.index.json";
    const size_t shards = save_safetensors_shards(index, all, {.max_bytes = max_bytes, .metadata = {{"k", "v"}}});
    EXPECT_GE(shards, (total + max_bytes - 1) / std::max(max_bytes, largest));
    EXPECT_TRUE(max_bytes < total || shards == 1u);
    flame_test::expect_equal(all, load_safetensors_shards(index));
    const ShardedSafetensors file(index);
    EXPECT_EQ(file.shards().size(), shards);
    EXPECT_EQ(file.names().size(), all.size());
    for (const SafetensorsFile& s : file.shards()) {
      uint64_t bytes = 0;
      for (const TensorInfo& t : s.tensors()) bytes += t.end - t.begin;
      const auto full = static_cast<size_t>(
          std::count_if(s.tensors().begin(), s.tensors().end(), [](const TensorInfo& t) { return t.end > t.begin; }));
      EXPECT_TRUE(bytes <= max_bytes || full == 1) << bytes << " in a shard of " << max_bytes;
      EXPECT_EQ(s.metadata(), (Metadata{{"k", "v"}}));
    }
    EXPECT_EQ(file.load("layer.float32[5, 7]").shape(), (Shape{5, 7}));
    EXPECT_THROW(file.load("none"), FormatError);
    EXPECT_TRUE(file_exists(dir / ("model-00001-of-0000" + std::to_string(shards) + ".safetensors")) || shards > 9);
  }
}

TEST(SafetensorsShards, Int8IsADType) {
  const Scratch dir;
  save_safetensors(dir / "a", std::vector<NamedTensor>{{"x", Tensor::from<int8_t>({-128, 127}, {2})}});
  EXPECT_EQ(load_safetensors(dir / "a")[0].second.to_vector<int8_t>(), (std::vector<int8_t>{-128, 127}));
}

TEST(SafetensorsShards, MistakesWhenSaving) {
  const Scratch dir;
  const std::vector<NamedTensor> two{{"a", Tensor::from<float>({1}, {1})}, {"a", Tensor::from<float>({1}, {1})}};
  EXPECT_THROW(save_safetensors_shards(dir / "model.json", {}), ValueError);
  EXPECT_THROW(save_safetensors_shards(dir / "m.safetensors.index.json", two), ValueError);
  EXPECT_THROW(save_safetensors_shards(dir / "m.safetensors.index.json", {}, {.max_bytes = 0}), ValueError);
  EXPECT_EQ(save_safetensors_shards(dir / "m.safetensors.index.json", {}), 1u);
  EXPECT_TRUE(load_safetensors_shards(dir / "m.safetensors.index.json").empty());
}

TEST(SafetensorsShards, ShardsThatDoNotFitTheIndex) {
  const Scratch dir;
  write_shards(dir.path());
  const auto message = [&](const std::string& index) {
    return flame_test::refusal(dir / "index", index, [](const std::string& p) { ShardedSafetensors f(p); });
  };
  EXPECT_NE(message(map("\"a\":\"s1\",\"b\":\"s3\"")).find("s3'"), std::string::npos) << "every shard is checked";
  save_safetensors(
      dir / "s1", std::vector<NamedTensor>{{"a", Tensor::from<float>({1}, {1})}, {"b", Tensor::from<float>({1}, {1})}});
  EXPECT_NE(message(map("\"a\":\"s1\"")).find("shard 's1' has an extra tensor 'b'"), std::string::npos);
  EXPECT_NE(message(map("\"a\":\"s1\",\"b\":\"s2\"")).find("shard 's1' has tensor 'b', which the index gives to 's2'"),
            std::string::npos);
  EXPECT_THROW(ShardedSafetensors(dir / "none"), IoError);
  EXPECT_EQ(message("{\"weight_map\":{\"b\":\"s2\"},\"metadata\":{\"n\":[{\"weight_map\":3}]},\"x\":null}"),
            "no error");
}
