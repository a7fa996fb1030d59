// IDX files, plain or gzip'd: the format of MNIST and its relatives (big-endian sizes, then bytes).
#pragma once
#include <string>

#include "flame/tensor/tensor.h"

namespace flame::io {

// A uint8 tensor on the CPU. FormatError naming file and offset for anything but a whole, undamaged IDX file of
// unsigned bytes; IoError if it cannot be opened.
Tensor read_idx(const std::string& path, Loc loc = Loc::current());

}  // namespace flame::io
