// Internal: reads the pickle of a PyTorch file without executing anything. It knows the opcodes that torch.save writes
// and the few globals that tensors need; every other opcode or global is refused by name.
#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "flame/core/error.h"

namespace flame::io {

struct PickleValue {
  enum class Kind : uint8_t { none, boolean, integer, number, string, tuple, list, dict, global, storage, tensor };
  Kind kind = Kind::none;
  double number = 0;
  int64_t integer = 0;          // and a boolean's
  std::string_view text;        // of a string, in the pickle; of a global: "module name"
  std::vector<uint32_t> items;  // of a tuple, list or dict (keys and values by turns); see below for the rest
};
// storage: items = {class, key, number of elements}. tensor: items = {storage, offset, sizes, strides}.

struct Pickle {
  std::deque<PickleValue> values;
  uint32_t root = 0;
  const PickleValue& operator[](uint32_t i) const { return values[i]; }
};

// `where` names the file in messages. FormatError also beyond 2^18 values and one for each 128 bytes of the file, so that
// a small file stays small in memory.
Pickle read_pickle(std::string_view bytes, uint64_t file_bytes, const std::string& where, Loc loc);

}  // namespace flame::io
