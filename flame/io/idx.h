// IDX files, plain or gzip'd: the format of MNIST and its relatives (big-endian sizes and elements).
#pragma once
#include <string>

#include "flame/tensor/tensor.h"

namespace flame::io {

// A tensor on the CPU: uint8, int8, int32, float32 or float64 as in the file, int16 widened to int32. FormatError
// naming file and offset for anything but a whole, undamaged IDX file; IoError if it cannot be opened.
Tensor read_idx(const std::string& path, Loc loc = Loc::current());

}  // namespace flame::io
