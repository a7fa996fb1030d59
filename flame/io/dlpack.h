// Tensors handed to and taken from other libraries in the same process, without a copy, by DLPack 1.0.
#pragma once
#include "flame/io/dlpack_abi.h"
#include "flame/tensor/tensor.h"

namespace flame::io {

struct DlpackOptions {
  bool copy = false;  // a private copy, which the consumer may write
};

// The consumer calls `deleter` once; until then the bytes live. They are flagged read-only, since tensors are values; the
// tensor of a State, whose bytes will change, is copied. DeviceError unless the tensor is on the CPU.
dlpack::DLManagedTensorVersioned* to_dlpack(const Tensor& t, const DlpackOptions& options = {},
                                            Loc loc = Loc::current());
// For consumers from before 1.0, which know no read-only flag: always a copy.
dlpack::DLManagedTensor* to_dlpack_legacy(const Tensor& t, Loc loc = Loc::current());

// A tensor over the producer's bytes, which may not change while it is read; the producer's deleter is called when the last
// tensor over them is gone. On an error it is not called, and `from` stays the caller's. DeviceError for other devices
// than the CPU (pinned memory counts as the CPU's), DTypeError for types that FLAME lacks, ValueError for a
// version other than 1.x, an address out of line or sizes out of range.
Tensor from_dlpack(dlpack::DLManagedTensorVersioned* from, Loc loc = Loc::current());
Tensor from_dlpack(dlpack::DLManagedTensor* from, Loc loc = Loc::current());

}  // namespace flame::io
