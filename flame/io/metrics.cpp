// Rows are kept or cut whole: resuming drops a torn last row and every row after the resumed step.
#include "flame/io/metrics.h"

#include <charconv>
#include <cmath>

#include "flame/core/format.h"

namespace flame::io {
namespace {

std::string header_line(const std::vector<std::string>& columns, Loc loc) {
  std::string line = "step";
  for (const std::string& c : columns) {
    if (c.empty() || c.find_first_of(",\"\r\n") != std::string::npos)
      fail<ValueError>(loc, "MetricsFile: column name '{}' is empty or holds a comma, quote or line end", c);
    line += "," + c;
  }
  return line + "\n";
}

struct Kept {
  uint64_t bytes;
  int64_t last_step;
};

Kept rows_to_keep(const std::string& path, const std::string& header, int64_t until, Loc loc) {
  const std::string text = read_file(path, loc);
  if (text.size() < header.size() && header.starts_with(text)) return {0, -1};  // stopped before the first row
  if (!text.starts_with(header))
    fail<FormatError>(loc, "'{}': the header is '{}', expected '{}'", path, text.substr(0, text.find('\n')),
                      header.substr(0, header.size() - 1));
  Kept kept{header.size(), -1};
  for (;;) {
    const size_t end = text.find('\n', kept.bytes);
    if (end == std::string::npos) return kept;
    int64_t step = 0;
    const auto [stop, error] = std::from_chars(text.data() + kept.bytes, text.data() + end, step);
    if (error != std::errc() || (*stop != ',' && *stop != '\n'))
      fail<FormatError>(loc, "'{}': byte {}: '{}' does not begin with a step", path, kept.bytes,
                        text.substr(kept.bytes, end - kept.bytes));
    if (step > until) return kept;
    kept = {end + 1, step};
  }
}

}  // namespace

MetricsFile::MetricsFile(const std::string& path, std::vector<std::string> columns, const MetricsOptions& options,
                         Loc loc)
    : columns_(std::move(columns)) {
  const std::string header = header_line(columns_, loc);
  Kept kept{0, -1};
  if (options.keep_until >= 0 && file_exists(path)) kept = rows_to_keep(path, header, options.keep_until, loc);
  last_ = kept.last_step;
  file_ = std::make_unique<AppendFile>(path, kept.bytes, loc);
  if (kept.bytes == 0) file_->append(header, loc);
  file_->flush(loc);
}

void MetricsFile::add_row(int64_t step, std::span<const double> values, Loc loc) {
  if (values.size() != columns_.size())
    fail<ValueError>(loc, "MetricsFile: {} values for {} columns of '{}'", values.size(), columns_.size(),
                     file_->path());
  if (step < last_) fail<ValueError>(loc, "MetricsFile: step {} after step {} in '{}'", step, last_, file_->path());
  last_ = step;
  std::string row = std::to_string(step);
  for (const double v : values) {
    const float f = static_cast<float>(v);
    if (std::isnan(v)) row += ",";
    else if (static_cast<double>(f) == v) row += fmt::format(",{}", f);
    else row += fmt::format(",{}", v);
  }
  file_->append(row + "\n", loc);
}

void MetricsFile::flush(Loc loc) { file_->flush(loc); }

}  // namespace flame::io
