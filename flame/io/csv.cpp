// Two passes over the mapped text: the first counts the rows and finds each column's type, the second fills the
// tensors.
#include "flame/io/csv.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <optional>
#include <set>

#include "flame/core/format.h"
#include "flame/io/elements_internal.h"
#include "flame/io/file.h"

namespace flame::io {
namespace {

struct Field {
  std::string_view text;  // between its quotes, "" not yet replaced
  bool quoted = false;
  int64_t line = 0, column = 0;  // where it begins, from 1; column in bytes
};

class Reader {
 public:
  Reader(std::string_view text, char delimiter, const std::string& path, Loc loc)
      : text_(text), delimiter_(delimiter), path_(path), loc_(loc) {
    if (text_.starts_with("\xef\xbb\xbf")) at_ = line_at_ = 3;  // a byte order mark
  }

  // The fields of the next line that is not empty; false at the end. Stops taking fields at one more than `expected`.
  bool next(std::vector<Field>& fields, size_t expected) {
    fields.clear();
    while (at_ < text_.size() && end_of_line()) skip_end_of_line();
    if (at_ >= text_.size()) return false;
    for (;;) {
      fields.push_back(field());
      if (fields.size() > expected) bad(fields.back(), "the line has more than {} fields", expected);
      if (at_ >= text_.size()) return true;
      if (end_of_line()) {
        skip_end_of_line();
        return true;
      }
      ++at_;  // the delimiter
    }
  }

  template <class... Args>
  [[noreturn]] void bad(const Field& f, fmt::format_string<Args...> format, Args&&... args) const {
    fail<FormatError>(loc_, "'{}': line {}, column {}: {}", path_, f.line, f.column,
                      fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  bool end_of_line() const { return text_[at_] == '\n' || text_.substr(at_, 2) == "\r\n"; }
  void skip_end_of_line() {
    at_ += text_[at_] == '\r' ? 2 : 1;
    ++line_;
    line_at_ = at_;
  }

  Field field() {
    Field f{.line = line_, .column = static_cast<int64_t>(at_ - line_at_) + 1};
    const size_t from = at_;
    if (at_ >= text_.size() || text_[at_] != '"') {
      while (at_ < text_.size() && text_[at_] != delimiter_ && !end_of_line()) ++at_;
      f.text = text_.substr(from, at_ - from);
      return f;
    }
    f.quoted = true;
    for (++at_;; ++at_) {
      if (at_ >= text_.size()) bad(f, "a quote that does not end");
      if (text_[at_] == '\n') ++line_, line_at_ = at_ + 1;
      if (text_[at_] != '"') continue;
      if (text_.substr(at_, 2) != "\"\"") break;
      ++at_;
    }
    f.text = text_.substr(from + 1, at_ - from - 1);
    ++at_;
    if (at_ < text_.size() && text_[at_] != delimiter_ && !end_of_line()) bad(f, "text after the closing quote");
    return f;
  }

  std::string_view text_;
  char delimiter_;
  const std::string& path_;
  Loc loc_;
  size_t at_ = 0, line_at_ = 0;
  int64_t line_ = 1;
};

std::string unquoted(const Field& f) {
  if (!f.quoted) return std::string(f.text);
  std::string out;
  out.reserve(f.text.size());
  for (size_t at = 0; at < f.text.size(); ++at) {
    out += f.text[at];
    if (f.text[at] == '"') ++at;  // the second of two
  }
  return out;
}

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t')) s.remove_suffix(1);
  return s;
}

// The number that all of the text is; "+" before one is allowed.
template <class T>
std::optional<T> parsed(std::string_view s) {
  if (s.starts_with('+') && s.size() > 1 && s[1] != '-') s.remove_prefix(1);
  T v{};
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
  if (end != s.data() + s.size()) return {};
  // Beyond the range of float64: infinity, or zero, as a rounding would give.
  if constexpr (std::is_floating_point_v<T>) {
    if (error == std::errc::result_out_of_range) return std::strtod(std::string(s).c_str(), nullptr);
  }
  if (error != std::errc()) return {};
  return v;
}

// One wanted column: its place in a line, and what the first pass found.
struct Wanted {
  std::string name;
  size_t place;
  bool whole = true;
  Tensor values = {};
};

double number_of(const Reader& reader, const Field& f, const std::string& column) {
  const std::string_view s = trimmed(f.text);
  if (s.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto v = parsed<double>(s);
  if (!v) reader.bad(f, "'{}' is no number (field '{}')", printable(s), printable(column));
  return *v;
}

std::vector<Wanted> wanted_columns(const std::vector<std::string>& names, const CsvOptions& o, const std::string& path,
                                   Loc loc) {
  std::vector<Wanted> out;
  for (const std::string& want : o.columns) {
    const auto it = std::find(names.begin(), names.end(), want);
    if (it == names.end())
      fail<ValueError>(loc, "read_csv: '{}' has no column '{}' among its {}", path, want, names.size());
    out.push_back({want, static_cast<size_t>(it - names.begin())});
  }
  if (o.columns.empty())
    for (size_t i = 0; i < names.size(); ++i) out.push_back({names[i], i});
  return out;
}

}  // namespace

const Tensor& CsvTable::column(std::string_view name, Loc loc) const {
  for (const CsvColumn& c : columns)
    if (c.name == name) return c.values;
  fail<FormatError>(loc, "the table has no column '{}'", name);
}

Tensor CsvTable::matrix(Loc loc) const {
  const auto width = static_cast<int64_t>(columns.size());
  Tensor out = Tensor::empty({rows, width}, DType::f64, cpu(), loc);
  auto* to = static_cast<double*>(out.data());
  for (int64_t c = 0; c < width; ++c) {
    const Tensor& t = columns[static_cast<size_t>(c)].values;
    for (int64_t r = 0; r < rows; ++r)
      to[r * width + c] = t.dtype() == DType::f64 ? static_cast<const double*>(t.data())[r]
                                                  : static_cast<double>(static_cast<const int64_t*>(t.data())[r]);
  }
  return out;
}

CsvTable read_csv(const std::string& path, const CsvOptions& options, Loc loc) {
  if (options.delimiter == '"' || options.delimiter == '\n' || options.delimiter == '\r')
    fail<ValueError>(loc, "read_csv: the delimiter is a quote or the end of a line");
  const MappedFile file(path, loc);
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  Reader first(text, options.delimiter, path, loc);
  std::vector<Field> fields;
  CsvTable out;
  constexpr size_t max_columns = 100'000, max_name_bytes = size_t{4} << 20;
  if (!first.next(fields, max_columns)) fail<FormatError>(loc, "'{}': line 1, column 1: the file is empty", path);
  std::vector<std::string> names;
  std::set<std::string> seen;
  size_t name_bytes = 0;
  for (const Field& f : fields) {
    name_bytes += f.text.size();
    if (name_bytes > max_name_bytes) first.bad(f, "the names of the columns take more than {} bytes", max_name_bytes);
    names.push_back(options.header ? unquoted(f) : std::to_string(names.size()));
    if (!seen.insert(names.back()).second) first.bad(f, "two columns are named '{}'", printable(names.back()));
  }
  std::vector<Wanted> wanted = wanted_columns(names, options, path, loc);

  // Calls fn(reader, fields) for each row, whose number of fields is right.
  const auto each_row = [&](const auto& fn) {
    Reader reader(text, options.delimiter, path, loc);
    if (options.header) reader.next(fields, max_columns);
    while (reader.next(fields, names.size())) {
      if (fields.size() < names.size())
        reader.bad(fields.back(), "the line ends after {} fields, expected {}", fields.size(), names.size());
      fn(reader);
    }
  };
  each_row([&](const Reader& reader) {
    ++out.rows;
    for (Wanted& w : wanted) {
      const Field& f = fields[w.place];
      if (w.whole && parsed<int64_t>(trimmed(f.text))) continue;
      number_of(reader, f, w.name);
      w.whole = false;
    }
  });
  for (Wanted& w : wanted) w.values = Tensor::empty({out.rows}, w.whole ? DType::i64 : DType::f64, cpu(), loc);
  int64_t row = 0;
  each_row([&](const Reader& reader) {
    for (Wanted& w : wanted) {
      const Field& f = fields[w.place];
      if (w.whole) static_cast<int64_t*>(w.values.data())[row] = *parsed<int64_t>(trimmed(f.text));
      else static_cast<double*>(w.values.data())[row] = number_of(reader, f, w.name);
    }
    ++row;
  });
  for (Wanted& w : wanted) out.columns.push_back({std::move(w.name), std::move(w.values)});
  return out;
}

}  // namespace flame::io
