// One loop for each pair of types; bytes are turned by reversing, which compilers make one instruction.
#include "flame/io/elements_internal.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "flame/core/format.h"

namespace flame::io {
namespace {

struct Row {
  size_t size;
  DType dtype;
};
constexpr Row rows[] = {{1, DType::boolean}, {1, DType::u8},   {1, DType::i8},  {2, DType::i32},
                        {2, DType::i32},     {4, DType::i64},  {4, DType::i32}, {8, DType::i64},
                        {2, DType::f16},     {2, DType::bf16}, {4, DType::f32}, {8, DType::f64}};

template <class From, class To>
void convert(void* dst, const std::byte* src, size_t count, bool swap) {
  auto* out = static_cast<To*>(dst);
  for (size_t i = 0; i < count; ++i) {
    std::array<std::byte, sizeof(From)> raw;
    std::memcpy(raw.data(), src + i * sizeof(From), sizeof(From));
    if (swap) std::reverse(raw.begin(), raw.end());
    From v;
    std::memcpy(&v, raw.data(), sizeof v);
    out[i] = static_cast<To>(v);
  }
}

}  // namespace

size_t size_of(Element e) { return rows[static_cast<size_t>(e)].size; }
DType dtype_of(Element e) { return rows[static_cast<size_t>(e)].dtype; }

void convert_elements(void* dst, const std::byte* src, size_t count, Element e, bool swap, const Origin& from,
                      Loc loc) {
  if (count == 0) return;
  if (e == Element::boolean)
    for (size_t i = 0; i < count; ++i)
      if (src[i] > std::byte{1})
        fail<FormatError>(loc, "{}: byte {}: a boolean is {}, expected 0 or 1", from.name, from.at + i,
                          static_cast<int>(src[i]));
  if (e == Element::u16) return convert<uint16_t, int32_t>(dst, src, count, swap);
  if (e == Element::i16) return convert<int16_t, int32_t>(dst, src, count, swap);
  if (e == Element::u32) return convert<uint32_t, int64_t>(dst, src, count, swap);
  const size_t size = size_of(e);
  if (!swap || size == 1) std::memmove(dst, src, count * size);
  else if (size == 2) convert<uint16_t, uint16_t>(dst, src, count, true);
  else if (size == 4) convert<uint32_t, uint32_t>(dst, src, count, true);
  else convert<uint64_t, uint64_t>(dst, src, count, true);
}

std::string printable(std::string_view name) {
  std::string out;
  for (const char c : name.substr(0, 100)) {
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u == 0x7f) out += fmt::format("\\x{:02x}", u);
    else out += c;
  }
  return name.size() > 100 ? out + "..." : out;
}

std::optional<uint64_t> byte_size(size_t element, const Shape& shape) {
  uint64_t n = element;
  bool empty = false;
  for (const int64_t d : shape) {
    if (d < 0) return {};
    if (d == 0) empty = true;
    else if (__builtin_mul_overflow(n, static_cast<uint64_t>(d), &n) || n > uint64_t{1} << 62) return {};
  }
  return empty ? 0 : n;
}

}  // namespace flame::io
