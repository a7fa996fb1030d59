// The checksum is the first metadata entry, at a fixed place, computed with its own eight digits read as zeros.
#include "flame/io/checkpoint.h"

#include "flame/core/format.h"
#include "flame/io/crc32c.h"

namespace flame::io {
namespace {

constexpr std::string_view checksum_name = "flame.crc32c", no_checksum = "00000000";
constexpr std::string_view opening = "{\"__metadata__\":{\"flame.crc32c\":\"";  // what the header begins with
constexpr size_t checksum_at = 8 + opening.size(), checksum_end = checksum_at + no_checksum.size();

std::string hex(uint32_t crc) { return fmt::format("{:08x}", crc); }

// Without the place in the program, which an error message ends with.
std::string reason(const Error& e) {
  const std::string s = e.what();
  return s.substr(0, s.rfind(" (at "));
}

void verify_checksum(const std::string& path, Loc loc) {
  const MappedFile file(path, loc);
  const std::string_view bytes(reinterpret_cast<const char*>(file.data()), file.size());
  if (bytes.size() < checksum_end || bytes.substr(8, opening.size()) != opening)
    fail<FormatError>(loc, "'{}': byte 8: no checkpoint, or a damaged one: it does not begin with a checksum", path);
  uint32_t crc = crc32c(bytes.substr(0, checksum_at));
  crc = crc32c(no_checksum, crc);
  crc = crc32c(bytes.substr(checksum_end), crc);
  const std::string_view stored = bytes.substr(checksum_at, no_checksum.size());
  if (stored != hex(crc))
    fail<FormatError>(loc, "'{}': damaged: its checksum is {}, expected {}", path, hex(crc), stored);
}

Checkpoint load_one(const std::string& path, Device& d, Loc loc) {
  verify_checksum(path, loc);
  const SafetensorsFile file(path, loc);
  Checkpoint out;
  for (const TensorInfo& t : file.tensors()) out.tensors.emplace_back(t.name, file.load(t, d, loc));
  out.metadata = file.metadata();
  out.metadata.erase(std::string(checksum_name));
  return out;
}

}  // namespace

const Tensor& Checkpoint::tensor(std::string_view name, Loc loc) const {
  for (const auto& [n, t] : tensors)
    if (n == name) return t;
  fail<FormatError>(loc, "the checkpoint has no tensor '{}'", name);
}

const std::string& Checkpoint::text(const std::string& name, Loc loc) const {
  const auto it = metadata.find(name);
  if (it == metadata.end()) fail<FormatError>(loc, "the checkpoint has no metadata '{}'", name);
  return it->second;
}

std::string previous_checkpoint(const std::string& path) {
  const size_t slash = path.rfind('/'), dot = path.rfind('.');
  const bool has_suffix = dot != std::string::npos && (slash == std::string::npos || dot > slash + 1) && dot > 0;
  return has_suffix ? path.substr(0, dot) + ".prev" + path.substr(dot) : path + ".prev";
}

void save_checkpoint(const std::string& path, std::span<const NamedTensor> tensors, const Metadata& metadata, Loc loc) {
  const std::pair<std::string, std::string> first(checksum_name, no_checksum);
  if (metadata.contains(first.first)) fail<ValueError>(loc, "save_checkpoint: the name '{}' is taken", first.first);
  const SafetensorsLayout layout = layout_safetensors(tensors, metadata, &first, loc);
  const auto body = [&](FileSink& sink) {
    uint32_t crc = crc32c(layout.header);
    sink.write(layout.header);
    for (const size_t i : layout.order) {
      const std::string bytes = row_major_bytes(tensors[i].second, loc);
      crc = crc32c(bytes, crc);
      sink.write(bytes);
    }
    sink.overwrite(checksum_at, hex(crc));
  };
  write_file_atomic(path, body, previous_checkpoint(path), loc);
}

Checkpoint load_checkpoint(const std::string& path, Device& d, Loc loc) {
  const std::string previous = previous_checkpoint(path);
  std::string trouble;
  if (file_exists(path)) {
    try {
      return load_one(path, d, loc);
    } catch (const FormatError& e) { trouble = reason(e); }
  } else {
    if (!file_exists(previous)) fail<IoError>(loc, "cannot open checkpoint '{}': No such file or directory", path);
    trouble = fmt::format("'{}' is missing", path);
  }
  if (!file_exists(previous)) fail<FormatError>(loc, "{}; there is no previous checkpoint '{}'", trouble, previous);
  try {
    Checkpoint out = load_one(previous, d, loc);
    out.note = fmt::format("{}; went back to '{}'", trouble, previous);
    return out;
  } catch (const FormatError& e) { fail<FormatError>(loc, "no whole checkpoint: {}; {}", trouble, reason(e)); }
}

bool checkpoint_exists(const std::string& path) { return file_exists(path) || file_exists(previous_checkpoint(path)); }

}  // namespace flame::io
