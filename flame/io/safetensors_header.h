// Internal: the JSON header of a safetensors file, parsed strictly and without recursion.
#pragma once
#include <string_view>

#include "flame/io/safetensors.h"

namespace flame::io {

std::string_view safetensors_name(DType t);

// What a parsed text may take is bounded by its size plus these: short names cost many times their length, and a long
// one several times its own.
constexpr size_t max_json_entries = size_t{1} << 18, max_json_token = size_t{4} << 20;
// FormatError for a string, number or word of more than max_json_token bytes; `at` is where the text begins in the file.
void check_json_tokens(std::string_view json, uint64_t at, const std::string& path, Loc loc);

// Header entries in file order. Throws FormatError naming `path` and the byte of the file. `data_bytes` is what follows
// the header: the tensors must cover it without holes or overlaps.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // sorted by their bytes
  Metadata metadata;
};
SafetensorsHeader parse_safetensors_header(std::string_view json, uint64_t data_bytes, const std::string& path,
                                           Loc loc);

}  // namespace flame::io
