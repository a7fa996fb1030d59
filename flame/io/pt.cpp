// The archive holds NAME/data.pkl, NAME/byteorder and one NAME/data/KEY for each storage. A storage is copied once;
// tensors are views of it, whose reach is checked first.
#include "flame/io/pt.h"

#include <algorithm>
#include <optional>
#include <set>

#include "flame/core/format.h"
#include "flame/io/pickle_internal.h"
#include "flame/io/zip_stream_internal.h"

namespace flame::io {
namespace {

using Kind = PickleValue::Kind;
constexpr int max_depth = 64;
// What values and names may take beside the file's own size, as a list that occurs many times makes many of few bytes.
constexpr uint64_t max_values_bytes = uint64_t{24} << 20, scalar_bytes = 160, tensor_bytes = 512;

struct StorageClass {
  std::string_view name;
  Element element;
};
constexpr StorageClass classes[] = {{"torch BoolStorage", Element::boolean}, {"torch ByteStorage", Element::u8},
                                    {"torch CharStorage", Element::i8},      {"torch ShortStorage", Element::i16},
                                    {"torch IntStorage", Element::i32},      {"torch LongStorage", Element::i64},
                                    {"torch HalfStorage", Element::f16},     {"torch BFloat16Storage", Element::bf16},
                                    {"torch FloatStorage", Element::f32},    {"torch DoubleStorage", Element::f64}};

// The highest element that a tensor reaches, or nothing if a product or sum does not fit.
std::optional<uint64_t> last_element(uint64_t offset, const Shape& shape, const Strides& strides) {
  uint64_t last = offset;
  for (int i = 0; i < shape.rank(); ++i) {
    uint64_t way;
    if (__builtin_mul_overflow(static_cast<uint64_t>(shape[i] - 1), static_cast<uint64_t>(strides[i]), &way) ||
        __builtin_add_overflow(last, way, &last))
      return {};
  }
  return last;
}

class Reader {
 public:
  Reader(const std::string& path, Device& d, Loc loc) : path_(path), zip_(path, loc), device_(d), loc_(loc) {}

  PtContents run() {
    find_prefix();
    if (const ZipEntry* order = zip_.find(prefix_ + "byteorder")) {
      const ZipContent text = zip_.read(*order, loc_);
      if (text.bytes() != "little" && text.bytes() != "big")
        bad("byteorder is '{}', expected little or big", printable(text.bytes()));
      swap_ = text.bytes() == "big";
    }
    const ZipContent bytes = zip_.read(*zip_.find(prefix_ + "data.pkl"), loc_);
    pickle_ = read_pickle(bytes.bytes(), zip_.file().size(), fmt::format("'{}': '{}data.pkl'", path_, prefix_), loc_);
    max_visits_ = 1024 + bytes.bytes().size();
    if (zip_.swollen()) {  // everything that can be wrong is found before any storage takes memory
      trial_ = true;
      read_values();
      check_storages();
      trial_ = false;
    }
    read_values();
    return std::move(out_);
  }

 private:
  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) {
    fail<FormatError>(loc_, "'{}': {}", path_, fmt::format(format, std::forward<Args>(args)...));
  }

  void read_values() {
    out_ = {};
    storages_.clear();
    visits_ = spent_ = 0;
    visit("", pickle_.root, 0);
    check_names();
  }

  void find_prefix() {
    int found = 0;
    bool script = false;
    for (const ZipEntry& e : zip_.entries()) {
      const size_t slash = e.name.find('/');
      if (slash == std::string::npos) continue;
      const std::string_view rest = std::string_view(e.name).substr(slash + 1);
      script |= rest == "constants.pkl";
      if (rest != "data.pkl") continue;
      prefix_ = e.name.substr(0, slash + 1);
      ++found;
    }
    if (script) bad("a TorchScript program, which is not read; save its state_dict() instead");
    if (found != 1) bad("{} entries are named FOLDER/data.pkl, expected 1", found);
  }

  // Before any of them takes memory.
  void check_storages() {
    std::set<std::string_view> seen;
    for (const PickleValue& v : pickle_.values) {
      if (v.kind != Kind::storage) continue;
      const std::string_view key = pickle_[v.items[1]].text;
      const ZipEntry* e = zip_.find(fmt::format("{}data/{}", prefix_, key));
      if (!e || !seen.insert(key).second) continue;
      ZipStream stream(zip_, *e, loc_);
      check_elements(stream, class_of(v).element, origin(*e), loc_);
    }
  }

  static std::string joined(const std::string& name, const std::string& part) {
    return name.empty() ? part : name + "." + part;
  }
  std::string key_text(const PickleValue& key, const std::string& name) {
    if (key.kind == Kind::string) return std::string(key.text);
    if (key.kind == Kind::integer) return std::to_string(key.integer);
    bad("a key in '{}' is neither a string nor an integer", printable(name));
  }

  void visit(const std::string& name, uint32_t at, int depth) {
    if (depth > max_depth) bad("values nest more than {} deep", max_depth);
    if (++visits_ > max_visits_) bad("more values than its pickle has bytes: lists or dicts that occur many times");
    const PickleValue& v = pickle_[at];
    switch (v.kind) {
      case Kind::dict:
        for (size_t i = 0; i < v.items.size(); i += 2)
          visit(joined(name, key_text(pickle_[v.items[i]], name)), v.items[i + 1], depth + 1);
        return;
      case Kind::list:
      case Kind::tuple:
        for (size_t i = 0; i < v.items.size(); ++i) visit(joined(name, std::to_string(i)), v.items[i], depth + 1);
        return;
      case Kind::tensor: return keep(name, v);
      case Kind::none: return keep(name, std::monostate());
      case Kind::boolean: return keep(name, v.integer != 0);
      case Kind::integer: return keep(name, v.integer);
      case Kind::number: return keep(name, v.number);
      case Kind::string: return keep(name, std::string(v.text));
      case Kind::global: bad("'{}' is the class '{}', no value", printable(name), v.text);
      case Kind::storage: bad("'{}' is a storage, expected a tensor", printable(name));
    }
  }
  void spend(uint64_t bytes) {
    spent_ += bytes;
    if (spent_ > max_values_bytes + zip_.file().size())
      bad("its values and their names take more than its size allows");
  }
  void keep(const std::string& name, const PickleValue& v) {
    spend(tensor_bytes + name.size());
    out_.tensors.emplace_back(name, tensor(name, v));  // in a trial without one
  }
  void keep(const std::string& name, PtValue v) {
    spend(scalar_bytes + name.size() + (v.index() == 4 ? std::get<std::string>(v).size() : 0));
    if (!out_.values.emplace(name, std::move(v)).second) twice(name);
  }
  [[noreturn]] void twice(const std::string& name) { bad("two values have the name '{}'", printable(name)); }
  void check_names() {
    std::vector<std::string_view> names;
    names.reserve(out_.tensors.size());
    for (const auto& [name, t] : out_.tensors) {
      if (out_.values.contains(name)) twice(name);
      names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    const auto it = std::adjacent_find(names.begin(), names.end());
    if (it != names.end()) twice(std::string(*it));
  }

  Dims dims(const std::string& name, const PickleValue& v) {
    if (v.items.size() > static_cast<size_t>(max_rank))
      bad("tensor '{}' has {} axes, expected at most {}", printable(name), v.items.size(), max_rank);
    Dims out;
    for (const uint32_t i : v.items) {
      if (pickle_[i].integer < 0) bad("tensor '{}' has a size or stride {}", printable(name), pickle_[i].integer);
      out.push_back(pickle_[i].integer);
    }
    return out;
  }

  Tensor tensor(const std::string& name, const PickleValue& v) {
    const PickleValue& storage = pickle_[v.items[0]];
    const int64_t offset = pickle_[v.items[1]].integer, count = pickle_[storage.items[2]].integer;
    const Shape shape = dims(name, pickle_[v.items[2]]);
    const Strides strides = dims(name, pickle_[v.items[3]]);
    if (shape.rank() != strides.rank())
      bad("tensor '{}' has {} sizes but {} strides", printable(name), shape.rank(), strides.rank());
    const auto bytes = byte_size(8, shape);
    if (!bytes || offset < 0 || count < 0)
      bad("tensor '{}': shape {}, offset {} or storage of {} is out of range", printable(name), shape, offset, count);
    if (*bytes > 0) {
      const auto last = last_element(static_cast<uint64_t>(offset), shape, strides);
      if (!last || *last >= static_cast<uint64_t>(count))
        bad("tensor '{}': shape {} with strides {} at {} reaches beyond its storage of {} elements", printable(name),
            shape, strides, offset, count);
    }
    const Tensor& all = load(name, storage);
    if (trial_) return {};
    const Value& whole = all.value();
    return Tensor(Value::view(whole, shape, strides, *bytes > 0 ? offset : 0));
  }

  const StorageClass& class_of(const PickleValue& storage) const {
    return *std::find_if(std::begin(classes), std::end(classes),
                         [&](const StorageClass& c) { return c.name == pickle_[storage.items[0]].text; });
  }
  Origin origin(const ZipEntry& e) const { return {fmt::format("'{}': '{}'", path_, printable(e.name)), 0}; }

  // One tensor over all of a storage; the same one each time.
  const Tensor& load(const std::string& name, const PickleValue& storage) {
    const std::string key(pickle_[storage.items[1]].text);
    const StorageClass& kind = class_of(storage);
    const auto count = static_cast<uint64_t>(pickle_[storage.items[2]].integer);
    const auto it = storages_.find(key);
    if (it != storages_.end()) {
      if (it->second.element != kind.element || it->second.count != count)
        bad("tensor '{}' sees storage '{}' with another type or size", printable(name), printable(key));
      return it->second.tensor;
    }
    const ZipEntry* e = zip_.find(prefix_ + "data/" + key);
    if (!e) bad("tensor '{}': its storage '{}data/{}' is missing", printable(name), prefix_, printable(key));
    if (e->size % size_of(kind.element) != 0 || e->size / size_of(kind.element) != count)
      bad("tensor '{}': storage '{}' has {} bytes, expected {} elements of {}", printable(name), printable(e->name),
          e->size, count, size_of(kind.element));
    if (trial_) return storages_.emplace(key, Loaded{kind.element, count, {}}).first->second.tensor;
    ZipStream stream(zip_, *e, loc_);
    const Shape all{static_cast<int64_t>(count)};
    const Tensor host = read_elements(stream, all, kind.element, swap_, origin(*e), loc_);
    Tensor there = &device_ == &cpu() ? host : host.to(device_, loc_);
    there.data();  // materialises
    return storages_.emplace(key, Loaded{kind.element, count, there}).first->second.tensor;
  }

  struct Loaded {
    Element element;
    uint64_t count;
    Tensor tensor;
  };

  const std::string& path_;
  ZipFile zip_;
  Device& device_;
  Loc loc_;
  std::string prefix_;
  bool swap_ = false, trial_ = false;
  Pickle pickle_;
  uint64_t visits_ = 0, max_visits_ = 0, spent_ = 0;
  std::map<std::string, Loaded> storages_;
  PtContents out_;
};

void check_magic(const std::string& path, Loc loc) {
  const MappedFile file(path, loc);
  const auto* p = reinterpret_cast<const unsigned char*>(file.data());
  if (file.size() >= 2 && p[0] == 0x80 && p[1] <= 5)
    fail<FormatError>(loc, "'{}': byte 0: a bare pickle, as PyTorch wrote it before 1.6; expected a zip file", path);
}

}  // namespace

const Tensor& PtContents::tensor(std::string_view name, Loc loc) const {
  for (const auto& [n, t] : tensors)
    if (n == name) return t;
  fail<FormatError>(loc, "the file has no tensor '{}'", name);
}

PtContents load_pt(const std::string& path, Device& d, Loc loc) {
  check_magic(path, loc);
  return Reader(path, d, loc).run();
}

}  // namespace flame::io
