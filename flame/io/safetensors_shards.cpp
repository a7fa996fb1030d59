// The index is read by a SAX reader as the header of a single file is: no recursion, duplicate names are seen.
#include "flame/io/safetensors_shards.h"

#include <nlohmann/json.hpp>
#include <set>

#include "flame/core/format.h"
#include "flame/io/elements_internal.h"
#include "flame/io/safetensors_header.h"

namespace flame::io {
namespace {

constexpr std::string_view suffix = ".safetensors.index.json";
constexpr uint64_t max_index = 100'000'000;  // as of a header

using WeightMap = std::map<std::string, std::string>;

// Everything but "weight_map" is skipped.
class IndexReader : public nlohmann::json::json_sax_t {
 public:
  IndexReader(const std::string& path, Loc loc) : path_(path), loc_(loc) {}
  WeightMap out;
  bool seen = false;  // the weight_map

  bool start_object(std::size_t) override {
    if (depth_ == 1 && key_ == "weight_map") seen = inside_ = true;
    else value("an object");
    ++depth_;
    return true;
  }
  bool end_object() override {
    if (--depth_ == 1) inside_ = false;
    return true;
  }
  bool start_array(std::size_t) override {
    value("a list");
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(std::string& k) override {
    key_ = k;
    if (out.size() + top_.size() == max_json_entries)
      fail<FormatError>(loc_, "'{}': more than {} entries", path_, max_json_entries);
    if (depth_ == 1 && !top_.insert(k).second) fail<FormatError>(loc_, "'{}': '{}' occurs twice", path_, printable(k));
    if (inside_ && out.contains(k)) fail<FormatError>(loc_, "'{}': weight_map has '{}' twice", path_, printable(k));
    return true;
  }
  bool string(std::string& v) override {
    if (inside_) out.emplace(key_, v);
    else value("a string");
    return true;
  }
  bool number_unsigned(uint64_t) override { return value("a number"); }
  bool number_integer(int64_t) override { return value("a number"); }
  bool number_float(double, const std::string&) override { return value("a number"); }
  bool null() override { return value("null"); }
  bool boolean(bool) override { return value("a boolean"); }
  bool binary(nlohmann::json::binary_t&) override { return value("binary data"); }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::json::exception& e) override {
    fail<FormatError>(loc_, "'{}': no valid JSON at byte {}: {}", path_, at, e.what());
  }

 private:
  // Any value that is not a file name inside weight_map.
  bool value(const char* what) {
    if (inside_)
      fail<FormatError>(loc_, "'{}': weight_map '{}' is {}, expected the name of a file", path_, printable(key_), what);
    if (depth_ == 1 && key_ == "weight_map")
      fail<FormatError>(loc_, "'{}': weight_map is {}, expected an object", path_, what);
    if (depth_ == 0 && std::string_view(what) != "an object")
      fail<FormatError>(loc_, "'{}': it is {}, expected an object", path_, what);
    return true;
  }

  const std::string& path_;
  Loc loc_;
  int64_t depth_ = 0;
  bool inside_ = false;
  std::string key_;
  std::set<std::string> top_;
};

WeightMap read_index(const std::string& path, Loc loc) {
  const MappedFile file(path, loc);
  if (file.size() > max_index)
    fail<FormatError>(loc, "'{}': {} bytes are above the limit {} of an index", path, file.size(), max_index);
  IndexReader reader(path, loc);
  const auto* text = reinterpret_cast<const char*>(file.data());
  check_json_tokens({text, file.size()}, 0, path, loc);
  nlohmann::json::sax_parse(text, text + file.size(), &reader);
  if (!reader.seen) fail<FormatError>(loc, "'{}': it has no weight_map", path);
  return std::move(reader.out);
}

// "" or the folder with its slash.
std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/') + 1); }

void check_shard_name(const std::string& name, const std::string& path, Loc loc) {
  if (name.empty() || name == "." || name == ".." || name.find_first_of(std::string_view("/\\\0", 3)) != name.npos)
    fail<FormatError>(loc, "'{}': shard '{}' is no plain file name", path, printable(name));
}

}  // namespace

ShardedSafetensors::ShardedSafetensors(const std::string& index_path, Loc loc) : path_(index_path) {
  const WeightMap map = read_index(index_path, loc);
  std::map<std::string, size_t> files;
  for (const auto& [name, file] : map) {
    check_shard_name(file, index_path, loc);
    files.emplace(file, 0);
  }
  for (auto& [file, place] : files) {
    const std::string shard = folder_of(index_path) + file;
    if (!file_exists(shard)) fail<FormatError>(loc, "'{}': shard '{}' is missing", index_path, shard);
    place = shards_.size();
    shards_.emplace_back(shard, loc);
  }
  for (const auto& [name, file] : map) {
    if (!shards_[files[file]].find(name))
      fail<FormatError>(loc, "'{}': tensor '{}' is missing from shard '{}'", index_path, name, file);
    shard_of_.emplace(name, files[file]);
  }
  for (const auto& [file, place] : files)
    for (const TensorInfo& t : shards_[place].tensors()) {
      const auto it = map.find(t.name);
      if (it == map.end())
        fail<FormatError>(loc, "'{}': shard '{}' has an extra tensor '{}'", index_path, file, t.name);
      if (it->second != file)
        fail<FormatError>(loc, "'{}': shard '{}' has tensor '{}', which the index gives to '{}'", index_path, file,
                          t.name, it->second);
    }
}

std::vector<std::string> ShardedSafetensors::names() const {
  std::vector<std::string> out;
  out.reserve(shard_of_.size());
  for (const auto& [name, shard] : shard_of_) out.push_back(name);
  return out;
}

Tensor ShardedSafetensors::load(std::string_view name, Device& d, Loc loc) const {
  const auto it = shard_of_.find(name);
  if (it == shard_of_.end())
    fail<FormatError>(loc, "'{}' has no tensor '{}' (it has {})", path_, name, shard_of_.size());
  return shards_[it->second].load(name, d, loc);
}

std::vector<NamedTensor> load_safetensors_shards(const std::string& index_path, Device& d, Loc loc) {
  const ShardedSafetensors all(index_path, loc);
  std::vector<NamedTensor> out;
  for (const SafetensorsFile& shard : all.shards())
    for (const TensorInfo& t : shard.tensors()) out.emplace_back(t.name, shard.load(t, d, loc));
  return out;
}

size_t save_safetensors_shards(const std::string& index_path, std::span<const NamedTensor> tensors,
                               const ShardOptions& options, Loc loc) {
  if (!std::string_view(index_path).ends_with(suffix))
    fail<ValueError>(loc, "save_safetensors_shards: '{}' does not end in '{}'", index_path, suffix);
  if (tensors.size() + 2 > max_json_entries)
    fail<ValueError>(loc, "save_safetensors_shards: {} tensors, expected at most {}", tensors.size(),
                     max_json_entries - 2);
  if (options.max_bytes < 1) fail<ValueError>(loc, "save_safetensors_shards: max_bytes is 0, expected at least 1");
  std::vector<size_t> ends;  // of the shards, in `tensors`
  std::set<std::string_view> seen;
  uint64_t in_shard = 0, total = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, t] = tensors[i];
    if (!seen.insert(name).second) fail<ValueError>(loc, "save_safetensors_shards: two tensors are named '{}'", name);
    const uint64_t bytes = static_cast<uint64_t>(t.numel()) * size_of(t.dtype());
    if (in_shard > 0 && bytes > options.max_bytes - std::min(in_shard, options.max_bytes)) {
      ends.push_back(i);
      in_shard = 0;
    }
    in_shard += bytes;
    total += bytes;
  }
  ends.push_back(tensors.size());

  const std::string stem = index_path.substr(0, index_path.size() - suffix.size());
  nlohmann::json index{{"metadata", {{"total_size", total}}}, {"weight_map", nlohmann::json::object()}};
  size_t from = 0;
  for (size_t shard = 0; shard < ends.size(); from = ends[shard++]) {
    const std::string path = fmt::format("{}-{:05}-of-{:05}.safetensors", stem, shard + 1, ends.size());
    save_safetensors(path, tensors.subspan(from, ends[shard] - from), options.metadata, loc);
    for (size_t i = from; i < ends[shard]; ++i)
      index["weight_map"][tensors[i].first] = path.substr(folder_of(path).size());
  }
  write_file_atomic(index_path, index.dump(2) + "\n", loc);
  return ends.size();
}

}  // namespace flame::io
