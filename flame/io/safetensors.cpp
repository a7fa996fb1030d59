// Reading checks the header against the file's size first; writing puts wide types first so that data stays aligned.
#include "flame/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "flame/core/format.h"
#include "flame/io/safetensors_header.h"

namespace flame::io {
namespace {

constexpr uint64_t max_header = 100'000'000;  // the limit of the format's own reader

// What is written must be what is read again.
std::string json_string(const std::string& s, Loc loc) {
  try {
    std::string out = nlohmann::json(s).dump();
    if (out.size() > max_json_token)
      fail<ValueError>(loc, "save_safetensors: a name or metadata value of {} bytes, expected at most {}", out.size(),
                       max_json_token);
    return out;
  } catch (const nlohmann::json::exception&) {
    fail<ValueError>(loc, "save_safetensors: a name or metadata value is no valid UTF-8: '{}'", s);
  }
}

void check_bools(const TensorInfo& t, std::span<const std::byte> bytes, uint64_t data_at, const std::string& path,
                 Loc loc) {
  for (size_t i = 0; i < bytes.size(); ++i)
    if (bytes[i] > std::byte{1})
      fail<FormatError>(loc, "'{}': byte {}: tensor '{}' is BOOL but holds {}, expected 0 or 1", path,
                        data_at + t.begin + i, t.name, static_cast<int>(bytes[i]));
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path, Loc loc) : file_(path, loc) {
  if (file_.size() < 8)
    fail<FormatError>(loc, "'{}': {} bytes are too few for a safetensors file, expected at least 8", path,
                      file_.size());
  uint64_t n;
  std::memcpy(&n, file_.data(), 8);
  if (n > max_header)
    fail<FormatError>(loc, "'{}': byte 0: header length {} is above the limit {}", path, n, max_header);
  if (n > file_.size() - 8)
    fail<FormatError>(loc, "'{}': byte 0: header length {}, but only {} bytes follow", path, n, file_.size() - 8);
  data_at_ = 8 + n;
  const std::string_view json(reinterpret_cast<const char*>(file_.data()) + 8, n);
  SafetensorsHeader header = parse_safetensors_header(json, file_.size() - data_at_, path, loc);
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
  for (size_t i = 0; i < tensors_.size(); ++i) by_name_.emplace(tensors_[i].name, i);
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& t) const {
  return file_.bytes().subspan(data_at_ + t.begin, t.end - t.begin);
}

Tensor SafetensorsFile::load(const TensorInfo& t, Device& d, Loc loc) const {
  const auto b = bytes(t);
  if (t.dtype == DType::boolean) check_bools(t, b, data_at_, path(), loc);
  return Tensor::from_host(b.data(), b.size() / size_of(t.dtype), t.dtype, t.shape, d, loc);
}

Tensor SafetensorsFile::load(std::string_view name, Device& d, Loc loc) const {
  const TensorInfo* t = find(name);
  if (!t) fail<FormatError>(loc, "'{}' has no tensor '{}' (it has {})", path(), name, tensors_.size());
  return load(*t, d, loc);
}

std::vector<NamedTensor> load_safetensors(const std::string& path, Device& d, Loc loc) {
  const SafetensorsFile file(path, loc);
  std::vector<NamedTensor> out;
  out.reserve(file.tensors().size());
  for (const TensorInfo& t : file.tensors()) out.emplace_back(t.name, file.load(t, d, loc));
  return out;
}

std::string row_major_bytes(const Tensor& t, Loc loc) {
  std::string bytes(static_cast<size_t>(t.numel()) * size_of(t.dtype()), '\0');
  t.copy_to_host(bytes.data(), t.dtype(), loc);
  return bytes;
}

SafetensorsLayout layout_safetensors(std::span<const NamedTensor> tensors, const Metadata& metadata,
                                     const std::pair<std::string, std::string>* first, Loc loc) {
  if (tensors.size() + metadata.size() + 2 > max_json_entries)
    fail<ValueError>(loc, "save_safetensors: {} tensors and {} metadata entries, expected at most {}", tensors.size(),
                     metadata.size(), max_json_entries - 2);
  SafetensorsLayout out;
  out.order.resize(tensors.size());
  std::iota(out.order.begin(), out.order.end(), size_t{0});
  std::sort(out.order.begin(), out.order.end(), [&](size_t a, size_t b) {
    const size_t sa = size_of(tensors[a].second.dtype()), sb = size_of(tensors[b].second.dtype());
    return sa != sb ? sa > sb : tensors[a].first < tensors[b].first;
  });

  std::string json = "{", comma;
  if (first || !metadata.empty()) {
    json += "\"__metadata__\":{";
    if (first) json += json_string(first->first, loc) + ":" + json_string(first->second, loc);
    for (const auto& [k, v] : metadata) {
      if (json.back() != '{') json += ",";
      json += json_string(k, loc) + ":" + json_string(v, loc);
    }
    json += "}";
    comma = ",";
  }
  std::set<std::string_view> seen;
  uint64_t at = 0;
  for (const size_t i : out.order) {
    const auto& [name, t] = tensors[i];
    if (name == "__metadata__") fail<ValueError>(loc, "save_safetensors: a tensor must not be named '__metadata__'");
    if (!seen.insert(name).second) fail<ValueError>(loc, "save_safetensors: two tensors are named '{}'", name);
    const uint64_t end = at + static_cast<uint64_t>(t.numel()) * size_of(t.dtype());
    std::string shape;
    for (const int64_t d : t.shape()) shape += fmt::format("{}{}", shape.empty() ? "" : ",", d);
    json += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", comma,
                        json_string(name, loc), safetensors_name(t.dtype()), shape, at, end);
    comma = ",";
    at = end;
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');  // data begins at a multiple of 8
  if (json.size() > max_header)
    fail<ValueError>(loc, "save_safetensors: the header would take {} bytes, above {}", json.size(), max_header);
  const uint64_t n = json.size();
  out.header.assign(reinterpret_cast<const char*>(&n), 8);
  out.header += json;
  return out;
}

void save_safetensors(const std::string& path, std::span<const NamedTensor> tensors, const Metadata& metadata,
                      Loc loc) {
  const SafetensorsLayout layout = layout_safetensors(tensors, metadata, nullptr, loc);
  write_file_atomic(
      path,
      [&](FileSink& sink) {
        sink.write(layout.header);
        for (const size_t i : layout.order) sink.write(row_major_bytes(tensors[i].second, loc));
      },
      {}, loc);
}

}  // namespace flame::io
