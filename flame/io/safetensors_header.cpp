// A SAX reader: nothing is built but the entries themselves, depth is bounded, and duplicate keys are seen.
#include "flame/io/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "flame/core/format.h"
#include "flame/io/elements_internal.h"

namespace flame::io {
namespace {

struct DTypeName {
  DType dtype;
  std::string_view name;
};
constexpr DTypeName dtype_names[] = {{DType::boolean, "BOOL"}, {DType::u8, "U8"},   {DType::i8, "I8"},
                                     {DType::i32, "I32"},      {DType::i64, "I64"}, {DType::f16, "F16"},
                                     {DType::bf16, "BF16"},    {DType::f32, "F32"}, {DType::f64, "F64"}};
static_assert(std::size(dtype_names) == num_dtypes);

std::optional<DType> dtype_of_name(std::string_view name) {
  for (const auto& n : dtype_names)
    if (n.name == name) return n.dtype;
  return {};
}

class HeaderReader : public nlohmann::json::json_sax_t {
 public:
  HeaderReader(const std::string& path, Loc loc) : path_(path), loc_(loc) {}
  SafetensorsHeader out;

  bool start_object(std::size_t) override {
    if (where_ == Where::start) where_ = Where::top;
    else if (where_ == Where::top && key_ == "__metadata__") where_ = Where::metadata;
    else if (where_ == Where::top) begin_entry();
    else refuse("an object");
    return true;
  }
  bool end_object() override {
    if (where_ == Where::entry) finish_entry();
    where_ = where_ == Where::top ? Where::end : Where::top;
    return true;
  }
  bool start_array(std::size_t) override {
    if (where_ == Where::entry && key_ == "shape") where_ = Where::shape;
    else if (where_ == Where::entry && key_ == "data_offsets") where_ = Where::offsets;
    else refuse("a list");
    return true;
  }
  bool end_array() override {
    if (where_ == Where::offsets && offsets_.size() != 2)
      bad("tensor '{}': data_offsets has {} numbers, expected 2", printable(entry_.name), offsets_.size());
    where_ = Where::entry;
    return true;
  }
  bool key(std::string& k) override {
    key_ = k;
    if (where_ != Where::entry && ++entries_ > max_json_entries) bad("it has more than {} entries", max_json_entries);
    if (where_ == Where::top) {
      if (k == "__metadata__" && std::exchange(seen_metadata_, true)) bad("the name '__metadata__' occurs twice");
    } else if (where_ == Where::entry) {
      if (k != "dtype" && k != "shape" && k != "data_offsets")
        bad("tensor '{}' has an unknown field '{}'", printable(entry_.name), printable(k));
      if (!fields_.insert(k).second) bad("tensor '{}' has the field '{}' twice", printable(entry_.name), k);
    } else if (out.metadata.contains(k)) {
      bad("the metadata name '{}' occurs twice", printable(k));
    }
    return true;
  }
  bool string(std::string& v) override {
    if (where_ == Where::metadata) {
      out.metadata.emplace(key_, v);
    } else if (where_ == Where::entry && key_ == "dtype") {
      const auto t = dtype_of_name(v);
      if (!t)
        bad("tensor '{}' has dtype '{}', expected one of BOOL U8 I8 I32 I64 F16 BF16 F32 F64", printable(entry_.name),
            printable(v));
      entry_.dtype = *t;
    } else {
      refuse("a string");
    }
    return true;
  }
  bool number_unsigned(uint64_t v) override {
    if (where_ == Where::shape) {
      if (v > uint64_t{1} << 62) bad("tensor '{}': size {} is out of range", printable(entry_.name), v);
      if (entry_.shape.rank() == max_rank) bad("tensor '{}' has more than {} axes", printable(entry_.name), max_rank);
      entry_.shape.push_back(static_cast<int64_t>(v));
    } else if (where_ == Where::offsets) {
      if (offsets_.size() == 2) bad("tensor '{}': data_offsets has more than 2 numbers", printable(entry_.name));
      offsets_.push_back(v);
    } else {
      refuse("a number");
    }
    return true;
  }
  bool number_integer(int64_t v) override {
    if (where_ == Where::shape || where_ == Where::offsets)
      bad("tensor '{}': {} {} is negative", printable(entry_.name), key_, v);
    refuse("a number");
  }
  bool number_float(double, const std::string& text) override {
    if (where_ == Where::shape || where_ == Where::offsets)
      bad("tensor '{}': {} {} is no 64-bit integer", printable(entry_.name), key_, text.substr(0, 40));
    refuse("a number");
  }
  bool null() override { refuse("null"); }
  bool boolean(bool) override { refuse("a boolean"); }
  bool binary(nlohmann::json::binary_t&) override { refuse("binary data"); }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::json::exception& e) override {
    fail<FormatError>(loc_, "'{}': the header is no valid JSON at byte {}: {}", path_, at + 7, e.what());
  }

 private:
  enum class Where : uint8_t { start, top, metadata, entry, shape, offsets, end };

  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) {
    fail<FormatError>(loc_, "'{}': header: {}", path_, fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void refuse(const char* what) {
    switch (where_) {
      case Where::metadata: bad("metadata '{}' is {}, expected a string", printable(key_), what);
      case Where::entry: bad("tensor '{}': {} must not be {}", printable(entry_.name), printable(key_), what);
      case Where::shape:
      case Where::offsets: bad("tensor '{}': {} contains {}, expected integers", printable(entry_.name), key_, what);
      case Where::top: bad("'{}' is {}, expected an object", printable(key_), what);
      default: bad("it is {}, expected an object", what);
    }
  }
  void begin_entry() {
    where_ = Where::entry;
    entry_ = {};
    entry_.name = key_;
    offsets_.clear();
    fields_.clear();
  }
  void finish_entry() {
    for (const char* f : {"dtype", "shape", "data_offsets"})
      if (!fields_.contains(f)) bad("tensor '{}' has no field '{}'", printable(entry_.name), f);
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    if (entry_.begin > entry_.end)
      bad("tensor '{}': data_offsets {}..{} run backwards", printable(entry_.name), entry_.begin, entry_.end);
    const auto bytes = byte_size(size_of(entry_.dtype), entry_.shape);
    if (!bytes) bad("tensor '{}': shape {} of {} is too large", printable(entry_.name), entry_.shape, entry_.dtype);
    if (*bytes != entry_.end - entry_.begin)
      bad("tensor '{}': shape {} of {} takes {} bytes, but data_offsets {}..{} hold {}", printable(entry_.name),
          entry_.shape, entry_.dtype, *bytes, entry_.begin, entry_.end, entry_.end - entry_.begin);
    out.tensors.push_back(std::move(entry_));
  }

  const std::string& path_;
  Loc loc_;
  Where where_ = Where::start;
  std::string key_;
  TensorInfo entry_;
  std::vector<uint64_t> offsets_;
  std::set<std::string> fields_;
  size_t entries_ = 0;
  bool seen_metadata_ = false;
};

void check_names(const std::vector<TensorInfo>& tensors, const std::string& path, Loc loc) {
  std::vector<std::string_view> names;
  names.reserve(tensors.size());
  for (const TensorInfo& t : tensors) names.push_back(t.name);
  std::sort(names.begin(), names.end());
  const auto it = std::adjacent_find(names.begin(), names.end());
  if (it != names.end()) fail<FormatError>(loc, "'{}': header: the name '{}' occurs twice", path, printable(*it));
}

void check_cover(const std::vector<TensorInfo>& tensors, uint64_t data_bytes, const std::string& path, Loc loc) {
  uint64_t at = 0;
  const TensorInfo* before = nullptr;
  for (const TensorInfo& t : tensors) {
    if (t.end > data_bytes)
      fail<FormatError>(loc, "'{}': tensor '{}' ends at byte {} of the data, but there are only {}", path,
                        printable(t.name), t.end, data_bytes);
    if (t.begin < at)
      fail<FormatError>(loc, "'{}': tensors '{}' and '{}' overlap at byte {} of the data", path,
                        printable(before->name), printable(t.name), t.begin);
    if (t.begin > at)
      fail<FormatError>(loc, "'{}': bytes {}..{} of the data, before tensor '{}', belong to no tensor", path, at,
                        t.begin, printable(t.name));
    at = t.end;
    before = &t;
  }
  if (at != data_bytes)
    fail<FormatError>(loc, "'{}': the tensors take {} bytes of data, but {} follow the header", path, at, data_bytes);
}

}  // namespace

std::string_view safetensors_name(DType t) {
  for (const auto& n : dtype_names)
    if (n.dtype == t) return n.name;
  return {};
}

void check_json_tokens(std::string_view json, uint64_t at, const std::string& path, Loc loc) {
  size_t begin = 0;  // of the token
  bool quoted = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (quoted && c == '\\') ++i;  // the next one is no end
    else if (c == '"' || (!quoted && std::string_view(" \t\r\n{}[]:,").find(c) != std::string_view::npos))
      begin = i + 1;
    if (c == '"') quoted = !quoted;
    if (i >= begin && i - begin >= max_json_token)
      fail<FormatError>(loc, "'{}': byte {}: a name or value of more than {} bytes", path, at + begin, max_json_token);
  }
}

SafetensorsHeader parse_safetensors_header(std::string_view json, uint64_t data_bytes, const std::string& path,
                                           Loc loc) {
  if (json.empty() || json[0] != '{') fail<FormatError>(loc, "'{}': byte 8: the header does not begin with '{{'", path);
  check_json_tokens(json, 8, path, loc);
  HeaderReader reader(path, loc);
  nlohmann::json::sax_parse(json.begin(), json.end(), &reader);
  auto& tensors = reader.out.tensors;
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  check_names(tensors, path, loc);
  check_cover(tensors, data_bytes, path, loc);
  return std::move(reader.out);
}

}  // namespace flame::io
