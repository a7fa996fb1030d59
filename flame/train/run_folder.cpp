// Floats go into both logs as float32, so that the two give back the same numbers.
#include "flame/train/run_folder.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

#include "flame/core/format.h"
#include "flame/io/checkpoint.h"
#include "flame/io/file.h"

namespace flame::train {

RunFolder::RunFolder(std::string path, Loc loc) : path_(std::move(path)) {
  while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
  if (path_.empty()) fail<ValueError>(loc, "RunFolder: expected the name of a folder, got an empty one");
  io::ensure_directory(path_, loc);
  const std::string probe = file(".writable");
  io::write_file_atomic(probe, "", loc);
  std::remove(probe.c_str());
}

bool RunFolder::has_checkpoint() const { return io::checkpoint_exists(checkpoint()); }

void RunFolder::clear(Loc loc) const {
  for (const std::string& f : {checkpoint(), io::previous_checkpoint(checkpoint()), metrics(), events()})
    if (io::file_exists(f) && std::remove(f.c_str()) != 0) fail<IoError>(loc, "cannot remove '{}'", f);
}

RunMetrics::RunMetrics(const RunFolder& folder, std::vector<std::string> columns, int64_t keep_until, Loc loc)
    : columns_(std::move(columns)),
      csv_(folder.metrics(), columns_, {.keep_until = keep_until}, loc),
      events_(folder.events(), {.keep_until = keep_until}, loc) {}

void RunMetrics::add(int64_t step, const std::vector<std::pair<std::string, double>>& values, Loc loc) {
  std::vector<double> row(columns_.size(), std::numeric_limits<double>::quiet_NaN());
  for (const auto& [name, value] : values) {
    const auto at = std::find(columns_.begin(), columns_.end(), name);
    if (at == columns_.end())
      fail<ValueError>(loc, "RunMetrics: expected one of the columns {}, got '{}'", fmt::join(columns_, ", "), name);
    row[static_cast<size_t>(at - columns_.begin())] = static_cast<double>(static_cast<float>(value));
  }
  csv_.add_row(step, row, loc);
  for (const auto& [name, value] : values) events_.add_scalar(name, static_cast<float>(value), step, loc);
}

void RunMetrics::flush(Loc loc) {
  csv_.flush(loc);
  events_.flush(loc);
}

namespace {

std::vector<std::string_view> split(std::string_view text, char mark) {
  std::vector<std::string_view> out;
  for (;;) {
    const size_t end = text.find(mark);
    out.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return out;
    text.remove_prefix(end + 1);
  }
}

}  // namespace

std::map<std::string, std::vector<double>> read_metrics(const std::string& path, Loc loc) {
  const std::string text = io::read_file(path, loc);
  if (text.empty() || text.back() != '\n') fail<FormatError>(loc, "'{}': the last line has no end", path);
  std::vector<std::string_view> lines = split(std::string_view(text).substr(0, text.size() - 1), '\n');
  const std::vector<std::string_view> names = split(lines[0], ',');
  std::vector<std::vector<double>> columns(names.size());
  for (size_t line = 1; line < lines.size(); ++line) {
    const std::vector<std::string_view> fields = split(lines[line], ',');
    if (fields.size() != names.size())
      fail<FormatError>(loc, "'{}': line {}: {} fields, expected {}", path, line + 1, fields.size(), names.size());
    for (size_t i = 0; i < fields.size(); ++i) {
      double v = std::numeric_limits<double>::quiet_NaN();
      const char* end = fields[i].data() + fields[i].size();
      if (!fields[i].empty())
        if (const auto r = std::from_chars(fields[i].data(), end, v); r.ec != std::errc() || r.ptr != end)
          fail<FormatError>(loc, "'{}': line {}: '{}' is no number", path, line + 1, fields[i]);
      columns[i].push_back(v);
    }
  }
  std::map<std::string, std::vector<double>> out;
  for (size_t i = 0; i < names.size(); ++i) out[std::string(names[i])] = std::move(columns[i]);
  return out;
}

}  // namespace flame::train
