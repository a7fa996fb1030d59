// NumPy's array files: npy versions 1 to 3, and npz archives of them. Integers that FLAME lacks are widened (int16 and
// uint16 to int32, uint32 to int64); objects, structures, strings, complex numbers and uint64 are refused by name.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flame/io/safetensors.h"

namespace flame::io {

// Either byte order. An array in Fortran order gives a tensor with Fortran's strides.
Tensor read_npy(const std::string& path, Device& d = default_device(), Loc loc = Loc::current());
// Atomic; little-endian, row-major. DTypeError for bfloat16, which NumPy does not have.
void write_npy(const std::string& path, const Tensor& t, Loc loc = Loc::current());

// The arrays of an npz archive, stored or deflated, without ".npy" in their names, in the archive's order. Each goes
// straight into its tensor, after its header was checked; an archive that swells is checked whole before that.
std::vector<NamedTensor> load_npz(const std::string& path, Device& d = default_device(), Loc loc = Loc::current());
struct NpzOptions {
  bool compress = false;
};
// Atomic; the same tensors give the same bytes. ValueError for names that NumPy could not give back, and for an array
// of 4 GiB or more.
void save_npz(const std::string& path, std::span<const NamedTensor> tensors, const NpzOptions& options = {},
              Loc loc = Loc::current());

}  // namespace flame::io
