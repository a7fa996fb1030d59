// A stack machine after CPython's Lib/pickletools.py. REDUCE and BUILD call nothing: they build one of four known
// things.
#include "flame/io/pickle_internal.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "flame/core/format.h"
#include "flame/io/elements_internal.h"

namespace flame::io {
namespace {

using Kind = PickleValue::Kind;
constexpr uint64_t least_max_values = uint64_t{1} << 18, max_marks = uint64_t{1} << 16;
constexpr uint32_t nothing = 0xffffffff;

// Opcodes that are refused, by the names of pickletools.
const char* opcode_name(unsigned char op) {
  switch (op) {
    case '0': return "POP";
    case '1': return "POP_MARK";
    case '2': return "DUP";
    case 'F': return "FLOAT";
    case 'I': return "INT";
    case 'L': return "LONG";
    case 'P': return "PERSID";
    case 'S': return "STRING";
    case 'T': return "BINSTRING";
    case 'V': return "UNICODE";
    case 'd': return "DICT";
    case 'g': return "GET";
    case 'i': return "INST";
    case 'l': return "LIST";
    case 'o': return "OBJ";
    case 'p': return "PUT";
    case 'B': return "BINBYTES";
    case 'C': return "SHORT_BINBYTES";
    case 0x81: return "NEWOBJ";
    case 0x82: return "EXT1";
    case 0x83: return "EXT2";
    case 0x84: return "EXT4";
    case 0x8b: return "LONG4";
    case 0x8d: return "BINUNICODE8";
    case 0x8e: return "BINBYTES8";
    case 0x8f: return "EMPTY_SET";
    case 0x90: return "ADDITEMS";
    case 0x91: return "FROZENSET";
    case 0x92: return "NEWOBJ_EX";
    case 0x96: return "BYTEARRAY8";
    case 0x97: return "NEXT_BUFFER";
    case 0x98: return "READONLY_BUFFER";
    default: return "unknown";
  }
}

constexpr std::string_view ordered_dict = "collections OrderedDict", tensor_v2 = "torch._utils _rebuild_tensor_v2",
                           parameter = "torch._utils _rebuild_parameter", size_type = "torch Size";
constexpr std::string_view known_globals[] = {ordered_dict,
                                              tensor_v2,
                                              parameter,
                                              size_type,
                                              "torch BoolStorage",
                                              "torch ByteStorage",
                                              "torch CharStorage",
                                              "torch ShortStorage",
                                              "torch IntStorage",
                                              "torch LongStorage",
                                              "torch HalfStorage",
                                              "torch FloatStorage",
                                              "torch BFloat16Storage",
                                              "torch DoubleStorage"};

class Machine {
 public:
  Machine(std::string_view bytes, uint64_t file_bytes, const std::string& where, Loc loc)
      : bytes_(bytes), where_(where), loc_(loc), max_values_(least_max_values + file_bytes / 128) {
    for (int64_t i = 0; i < 256; ++i) add({.kind = Kind::integer, .integer = i});
    none_ = add({});
    false_ = add({.kind = Kind::boolean, .integer = 0});
    true_ = add({.kind = Kind::boolean, .integer = 1});
  }

  Pickle run() {
    if (bytes_.size() < 2 || bytes_[0] != '\x80') bad("the pickle does not begin with a protocol");
    while (!stopped_) {
      op_at_ = at_;
      step(take<uint8_t>());
    }
    if (at_ != bytes_.size()) bad("{} stray bytes after the end of the pickle", bytes_.size() - at_);
    return std::move(out_);
  }

 private:
  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) {
    fail<FormatError>(loc_, "{}: pickle byte {}: {}", where_, op_at_, fmt::format(format, std::forward<Args>(args)...));
  }

  template <class T>
  T take() {
    T v;
    std::memcpy(&v, take(sizeof v).data(), sizeof v);
    return v;
  }
  std::string_view take(uint64_t size) {
    if (size > bytes_.size() - at_) bad("the pickle is cut off");
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  std::string_view line() {
    const size_t end = bytes_.find('\n', at_);
    if (end == bytes_.npos) bad("the pickle is cut off");
    const std::string_view s = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return s;
  }

  uint32_t add(PickleValue v) {
    if (out_.values.size() == max_values_) bad("more than {} values", max_values_);
    out_.values.push_back(std::move(v));
    return static_cast<uint32_t>(out_.values.size() - 1);
  }
  void push(uint32_t i) {
    if (stack_.size() == 2 * max_values_) bad("more than {} values on the stack", 2 * max_values_);
    stack_.push_back(i);
  }
  void push(PickleValue v) { push(add(std::move(v))); }
  void push_integer(int64_t v) {
    if (v >= 0 && v < 256) push(static_cast<uint32_t>(v));
    else push({.kind = Kind::integer, .integer = v});
  }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  uint32_t pop() {
    if (stack_.size() <= floor()) bad("the stack is empty");
    const uint32_t i = stack_.back();
    stack_.pop_back();
    return i;
  }
  uint32_t top() {
    if (stack_.size() <= floor()) bad("the stack is empty");
    return stack_.back();
  }
  std::vector<uint32_t> pop_to_mark() {
    if (marks_.empty()) bad("there is no mark");
    std::vector<uint32_t> items(stack_.begin() + static_cast<ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  std::vector<uint32_t> pop_several(size_t n) {
    std::vector<uint32_t> items(n);
    for (size_t i = n; i-- > 0;) items[i] = pop();
    return items;
  }
  PickleValue& at(uint32_t i) { return out_.values[i]; }

  void step(unsigned char op) {
    switch (op) {
      case 0x80: return protocol(take<uint8_t>());
      case 0x95: take<uint64_t>(); return;  // FRAME: how many bytes to read ahead
      case '.': return stop();
      case '(': return mark();
      case 'N': return push(none_);
      case 0x88: return push(true_);
      case 0x89: return push(false_);
      case 'K': return push_integer(take<uint8_t>());
      case 'M': return push_integer(take<uint16_t>());
      case 'J': return push_integer(take<int32_t>());
      case 0x8a: return long1();
      case 'G':
        return push({.kind = Kind::number, .number = std::bit_cast<double>(__builtin_bswap64(take<uint64_t>()))});
      case 'X': return push({.kind = Kind::string, .text = take(take<uint32_t>())});
      case 0x8c:
      case 'U': return push({.kind = Kind::string, .text = take(take<uint8_t>())});
      case ')': return push({.kind = Kind::tuple});
      case 't': return push({.kind = Kind::tuple, .items = pop_to_mark()});
      case 0x85:
      case 0x86:
      case 0x87: return push({.kind = Kind::tuple, .items = pop_several(op - 0x84u)});
      case ']': return push({.kind = Kind::list});
      case '}': return push({.kind = Kind::dict});
      case 'a': return extend(Kind::list, pop_several(1));
      case 'e': return extend(Kind::list, pop_to_mark());
      case 's': return extend(Kind::dict, pop_several(2));
      case 'u': return extend(Kind::dict, pop_to_mark());
      case 'q': return remember(take<uint8_t>());
      case 'r': return remember(take<uint32_t>());
      case 0x94: return remember(static_cast<uint32_t>(memo_.size()));
      case 'h': return recall(take<uint8_t>());
      case 'j': return recall(take<uint32_t>());
      case 'c': return global_lines();
      case 0x93: return stack_global();
      case 'Q': return storage();
      case 'R': return reduce();
      case 'b': return build();
      default: bad("opcode {} ({:#04x}) is not among those of tensor records", opcode_name(op), op);
    }
  }

  void protocol(int version) {
    if (version < 2 || version > 5) bad("protocol {}, expected 2 to 5", version);
  }
  void mark() {
    if (marks_.size() == max_marks) bad("more than {} marks", max_marks);
    marks_.push_back(stack_.size());
  }
  void stop() {
    if (stack_.size() != 1 || !marks_.empty()) bad("it ends with {} values on the stack, expected 1", stack_.size());
    out_.root = stack_[0];
    stopped_ = true;
  }
  void long1() {
    const size_t size = take<uint8_t>();
    if (size > 8) bad("an integer of {} bytes, expected at most 8", size);
    const std::string_view raw = take(size);
    uint64_t v = size > 0 && raw[size - 1] < 0 ? ~uint64_t{0} : 0;
    std::memcpy(&v, raw.data(), size);
    push_integer(static_cast<int64_t>(v));
  }
  void extend(Kind kind, const std::vector<uint32_t>& items) {
    PickleValue& v = at(top());
    if (v.kind != kind) bad("items for something that is no {}", kind == Kind::list ? "list" : "dict");
    if (kind == Kind::dict && items.size() % 2 != 0) bad("a dict key without its value");
    total_items_ += items.size();
    if (total_items_ > 2 * max_values_) bad("more than {} items", 2 * max_values_);
    v.items.insert(v.items.end(), items.begin(), items.end());
  }
  // Picklers number what they remember from 0 on.
  void remember(uint32_t i) {
    if (i >= max_values_) bad("value {} is remembered, above the limit {}", i, max_values_);
    if (i >= memo_.size()) memo_.resize(i + 1, nothing);
    memo_[i] = top();
  }
  void recall(uint32_t i) {
    if (i >= memo_.size() || memo_[i] == nothing) bad("value {} was not remembered", i);
    push(memo_[i]);
  }

  void global(std::string_view module, std::string_view name) {
    for (const std::string_view g : known_globals)
      if (g.size() == module.size() + 1 + name.size() && g.starts_with(module) && g.ends_with(name) &&
          g[module.size()] == ' ')
        return push({.kind = Kind::global, .text = g});
    bad("the global '{}.{}' is not among those of tensor records", printable(module), printable(name));
  }
  void global_lines() {
    const std::string_view module = line(), name = line();
    global(module, name);
  }
  void stack_global() {
    const uint32_t name = pop(), module = pop();
    if (at(module).kind != Kind::string || at(name).kind != Kind::string) bad("a global whose name is no string");
    global(at(module).text, at(name).text);
  }

  void expect(bool right, const char* what) {
    if (!right) bad("{}", what);
  }

  // BINPERSID of ('storage', class, key, location, number of elements).
  void storage() {
    const PickleValue& id = at(pop());
    expect(id.kind == Kind::tuple && id.items.size() == 5 && at(id.items[0]).text == "storage" &&
               at(id.items[1]).kind == Kind::global && at(id.items[1]).text.ends_with("Storage") &&
               at(id.items[2]).kind == Kind::string && at(id.items[4]).kind == Kind::integer,
           "a persistent value that is no storage");
    push({.kind = Kind::storage, .items = {id.items[1], id.items[2], id.items[4]}});
  }

  bool is_sizes(uint32_t i) {
    const PickleValue& v = at(i);
    return v.kind == Kind::tuple && v.items.size() <= 64 &&
           std::all_of(v.items.begin(), v.items.end(), [&](uint32_t k) { return at(k).kind == Kind::integer; });
  }

  void reduce() {
    const PickleValue &arguments = at(pop()), &function = at(pop());
    expect(function.kind == Kind::global && arguments.kind == Kind::tuple, "a call of something that is no global");
    const std::vector<uint32_t>& a = arguments.items;
    if (function.text == ordered_dict) {
      expect(a.empty(), "OrderedDict with arguments");
      push({.kind = Kind::dict});
    } else if (function.text == tensor_v2) {
      expect(a.size() >= 6 && a.size() <= 7 && at(a[0]).kind == Kind::storage && at(a[1]).kind == Kind::integer &&
                 is_sizes(a[2]) && is_sizes(a[3]),
             "_rebuild_tensor_v2 expects a storage, an offset, sizes, strides, a boolean and hooks");
      push({.kind = Kind::tensor, .items = {a[0], a[1], a[2], a[3]}});
    } else if (function.text == parameter) {
      expect(a.size() == 3 && at(a[0]).kind == Kind::tensor, "_rebuild_parameter expects a tensor");
      push(a[0]);
    } else if (function.text == size_type) {
      expect(a.size() == 1 && is_sizes(a[0]), "Size expects a tuple of integers");
      push(a[0]);
    } else {
      bad("the global '{}' is called, which is none of tensor records", printable(function.text));
    }
  }

  // The attributes of an OrderedDict, such as _metadata of a state_dict: not read.
  void build() {
    const uint32_t state = pop();
    expect(at(state).kind == Kind::dict && at(top()).kind == Kind::dict, "attributes of something that is no dict");
  }

  std::string_view bytes_;
  const std::string& where_;
  Loc loc_;
  const uint64_t max_values_;
  size_t at_ = 0, op_at_ = 0, total_items_ = 0;
  bool stopped_ = false;
  uint32_t none_ = 0, true_ = 0, false_ = 0;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;
  std::vector<uint32_t> memo_;
  Pickle out_;
};

}  // namespace

Pickle read_pickle(std::string_view bytes, uint64_t file_bytes, const std::string& where, Loc loc) {
  return Machine(bytes, file_bytes, where, loc).run();
}

}  // namespace flame::io
