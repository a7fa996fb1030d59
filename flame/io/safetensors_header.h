// Internal: the JSON header of a safetensors file, parsed strictly and without recursion.
#pragma once
#include <string_view>

#include "flame/io/safetensors.h"

namespace flame::io {

std::string_view safetensors_name(DType t);

// Header entries in file order. Throws FormatError naming `path` and the byte of the file. `data_bytes` is what follows
// the header: the tensors must cover it without holes or overlaps.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // sorted by their bytes
  Metadata metadata;
};
SafetensorsHeader parse_safetensors_header(std::string_view json, uint64_t data_bytes, const std::string& path,
                                           Loc loc);

}  // namespace flame::io
