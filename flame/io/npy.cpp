// After numpy.lib.format: a magic string, a version, and a Python dict of three entries, parsed strictly by hand.
#include "flame/io/npy.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <set>

#include "flame/core/format.h"
#include "flame/io/source_internal.h"
#include "flame/io/zip_stream_internal.h"

namespace flame::io {
namespace {

constexpr std::string_view magic = "\x93NUMPY";
constexpr uint32_t max_header = 1 << 20;  // of a dict of three entries

struct Header {
  Element element = Element::f32;
  bool swap = false, fortran = false;
  Shape shape;
  uint64_t data_at = 0;
};

struct Descr {
  std::string_view name;  // without the byte order
  Element element;
};
constexpr Descr descrs[] = {{"b1", Element::boolean}, {"u1", Element::u8},  {"i1", Element::i8},  {"u2", Element::u16},
                            {"i2", Element::i16},     {"u4", Element::u32}, {"i4", Element::i32}, {"i8", Element::i64},
                            {"f2", Element::f16},     {"f4", Element::f32}, {"f8", Element::f64}};

// What a refused type is called.
std::string kind_of(std::string_view descr) {
  switch (descr.empty() ? '\0' : descr[0]) {
    case 'O': return "objects (a pickle, which is not read)";
    case 'V': return "structures or raw bytes";
    case 'U':
    case 'S':
    case 'a': return "strings";
    case 'c': return "complex numbers";
    case 'M':
    case 'm': return "dates or times";
    case 'u': return "unsigned integers that fit no dtype here";
    case 'f': return "floating-point numbers of another size";
    default: return "of an unknown type";
  }
}

// The literal of a header: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
class HeaderParser {
 public:
  HeaderParser(std::string_view text, uint64_t at, const std::string& where, Loc loc)
      : text_(text), start_(at), where_(where), loc_(loc) {}

  Header parse() {
    expect("{");
    while (!accept("}")) {
      const uint64_t at = position();
      const std::string_view key = string();
      if (!seen_.insert(key).second) bad(at, "the field '{}' occurs twice", printable(key));
      expect(":");
      if (key == "descr") descr();
      else if (key == "fortran_order") out_.fortran = boolean();
      else if (key == "shape") shape();
      else bad(at, "unknown field '{}'", printable(key));
      if (!accept(",")) {
        expect("}");
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) bad(position(), "the header goes on after its dict");
    for (const char* field : {"descr", "fortran_order", "shape"})
      if (!seen_.contains(field)) bad(start_, "the header has no field '{}'", field);
    return out_;
  }

 private:
  template <class... Args>
  [[noreturn]] void bad(uint64_t at, fmt::format_string<Args...> format, Args&&... args) {
    fail<FormatError>(loc_, "{}: byte {}: {}", where_, at, fmt::format(format, std::forward<Args>(args)...));
  }
  uint64_t position() {
    skip_space();
    return start_ + at_;
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  bool accept(std::string_view s) {
    skip_space();
    if (!text_.substr(at_).starts_with(s)) return false;
    at_ += s.size();
    return true;
  }
  void expect(std::string_view s) {
    if (!accept(s)) bad(position(), "expected '{}' in the header", s);
  }
  std::string_view string() {
    skip_space();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') bad(position(), "expected a string in the header");
    const size_t end = text_.find(quote, at_ + 1);
    const std::string_view s = text_.substr(at_ + 1, std::min(end, text_.size()) - at_ - 1);
    if (end == text_.npos || s.find('\\') != s.npos) bad(position(), "a string without end, or with escapes");
    at_ = end + 1;
    return s;
  }
  bool boolean() {
    if (accept("True")) return true;
    if (accept("False")) return false;
    bad(position(), "expected True or False");
  }
  void descr() {
    const uint64_t at = position();
    if (accept("[") || accept("(")) bad(at, "the elements are structures");
    const std::string_view all = string();
    const char order = all.empty() ? '\0' : all[0];
    const std::string_view name = order == '<' || order == '>' || order == '|' || order == '=' ? all.substr(1) : all;
    for (const Descr& d : descrs)
      if (d.name == name && (order != '|' || size_of(d.element) == 1)) {
        out_.element = d.element;
        out_.swap = order == '>';
        return;
      }
    bad(at, "the elements ('{}') are {}", printable(all), kind_of(name));
  }
  void shape() {
    expect("(");
    while (!accept(")")) {
      const uint64_t at = position();
      int64_t size = 0;
      const char *from = text_.data() + at_, *end = text_.data() + text_.size();
      const auto [stop, error] = std::from_chars(from, end, size);
      if (error != std::errc() || size < 0) bad(at, "expected a size from 0 to 2^63 - 1");
      at_ += static_cast<size_t>(stop - from);
      accept("L");  // as Python 2 wrote it
      if (out_.shape.rank() == max_rank) bad(at, "more than {} axes", max_rank);
      out_.shape.push_back(size);
      if (!accept(",")) {
        if (out_.shape.rank() == 1) bad(position(), "a shape of one axis ends in a comma");
        expect(")");
        break;
      }
    }
  }

  std::string_view text_;
  uint64_t start_;
  const std::string& where_;
  Loc loc_;
  size_t at_ = 0;
  Header out_;
  std::set<std::string_view> seen_;
};

// Leaves the source at the data, of which as much is left as the shape needs.
Header read_header(ByteSource& source, const std::string& where, Loc loc) {
  const uint64_t total = source.left();
  unsigned char start[12] = {};
  if (total >= 8) source.read(start, 8);
  if (std::memcmp(start, magic.data(), magic.size()) != 0)
    fail<FormatError>(loc, "{}: byte 0: no npy file: it does not begin with \\x93NUMPY and a version", where);
  const int major = start[6], minor = start[7];
  if (major < 1 || major > 3 || minor != 0)
    fail<FormatError>(loc, "{}: byte 6: version {}.{}, expected 1.0, 2.0 or 3.0", where, major, minor);
  const size_t size_bytes = major == 1 ? 2 : 4, text_at = 8 + size_bytes;
  if (source.left() < size_bytes) fail<FormatError>(loc, "{}: byte {}: the file ends here", where, total);
  source.read(start + 8, size_bytes);
  uint32_t size = 0;
  std::memcpy(&size, start + 8, size_bytes);
  if (size > source.left())
    fail<FormatError>(loc, "{}: byte 8: the header has {} bytes, but only {} follow", where, size, source.left());
  if (size > max_header)
    fail<FormatError>(loc, "{}: byte 8: the header has {} bytes, above the limit {}", where, size, max_header);
  std::string text(size, '\0');
  source.read(text.data(), size);
  Header h = HeaderParser(text, text_at, where, loc).parse();
  h.data_at = text_at + size;
  const auto needed = byte_size(size_of(h.element), h.shape);
  if (!needed) fail<FormatError>(loc, "{}: byte {}: shape {} is too large", where, text_at, h.shape);
  if (*needed != source.left())
    fail<FormatError>(loc, "{}: byte {}: shape {} needs {} bytes of data, but {} follow", where, h.data_at, h.shape,
                      *needed, source.left());
  return h;
}

Tensor read_array(ByteSource& source, const std::string& where, Device& d, Loc loc) {
  const Header h = read_header(source, where, loc);
  Shape stored = h.shape;
  if (h.fortran)
    for (int i = 0; i < stored.rank(); ++i) stored[i] = h.shape[stored.rank() - 1 - i];
  const Tensor host = read_elements(source, stored, h.element, h.swap, {where, h.data_at}, loc);
  Tensor out = &d == &cpu() ? host : host.to(d, loc);
  if (!h.fortran || out.rank() < 2) return out;
  Dims order;
  for (int i = out.rank() - 1; i >= 0; --i) order.push_back(i);
  return out.permute(order, loc);
}

std::string npy_header(const Tensor& t, Loc loc) {
  std::string_view name;
  for (const Descr& d : descrs)
    if (dtype_of(d.element) == t.dtype() && size_of(d.element) == size_of(t.dtype())) name = d.name;
  if (name.empty()) fail<DTypeError>(loc, "npy: NumPy has no {}; convert to float32 first", t.dtype());
  std::string shape;
  for (const int64_t n : t.shape()) shape += fmt::format("{}{}", shape.empty() ? "" : ", ", n);
  if (t.rank() == 1) shape += ",";
  std::string dict = fmt::format("{{'descr': '{}{}', 'fortran_order': False, 'shape': ({}), }}",
                                 size_of(t.dtype()) == 1 ? '|' : '<', name, shape);
  while ((10 + dict.size() + 1) % 64 != 0) dict += ' ';  // data is aligned, as NumPy does it
  dict += '\n';
  const auto size = static_cast<uint16_t>(dict.size());
  std::string out(magic);
  out += std::string("\1\0", 2);
  out.append(reinterpret_cast<const char*>(&size), 2);
  return out + dict;
}

}  // namespace

Tensor read_npy(const std::string& path, Device& d, Loc loc) {
  const MappedFile file(path, loc);
  FileSource source(file);
  return read_array(source, "'" + path + "'", d, loc);
}

void write_npy(const std::string& path, const Tensor& t, Loc loc) {
  write_file_atomic(path, npy_header(t, loc) + row_major_bytes(t, loc), loc);
}

std::vector<NamedTensor> load_npz(const std::string& path, Device& d, Loc loc) {
  const ZipFile zip(path, loc);
  const auto where = [&](const ZipEntry& e) { return fmt::format("'{}': entry '{}'", path, printable(e.name)); };
  for (const ZipEntry& e : zip.entries())
    if (!e.name.ends_with(".npy")) fail<FormatError>(loc, "'{}': entry '{}' is no .npy array", path, printable(e.name));
  if (zip.swollen())
    for (const ZipEntry& e : zip.entries()) {
      ZipStream stream(zip, e, loc);
      const Header h = read_header(stream, where(e), loc);
      check_elements(stream, h.element, {where(e), h.data_at}, loc);
    }
  std::vector<NamedTensor> out;
  out.reserve(zip.entries().size());
  for (const ZipEntry& e : zip.entries()) {
    ZipStream stream(zip, e, loc);
    out.emplace_back(e.name.substr(0, e.name.size() - 4), read_array(stream, where(e), d, loc));
  }
  return out;
}

void save_npz(const std::string& path, std::span<const NamedTensor> tensors, const NpzOptions& options, Loc loc) {
  std::set<std::string_view> names;
  for (const auto& [name, t] : tensors) {
    if (!is_plain_zip_path(name) || name.back() == '/')
      fail<ValueError>(loc, "save_npz: the name '{}' is empty, absolute or climbs", name);
    if (!names.insert(name).second) fail<ValueError>(loc, "save_npz: two tensors are named '{}'", name);
    npy_header(t, loc);  // refuses its dtype before a file is begun
  }
  const auto body = [&](FileSink& sink) {
    ZipWriter zip(sink, path, loc);
    for (const auto& [name, t] : tensors)
      zip.add(name + ".npy", npy_header(t, loc) + row_major_bytes(t, loc), options.compress);
    zip.finish();
  };
  write_file_atomic(path, body, {}, loc);
}

}  // namespace flame::io
