// Checkpoints: one safetensors file with every tensor and, as metadata text, every number a run needs to go on. The
// one before is kept beside it, and a checksum tells a damaged file, so that there is always one that loads.
#pragma once
#include <span>
#include <string>
#include <string_view>

#include "flame/io/safetensors.h"

namespace flame::io {

struct Checkpoint {
  std::vector<NamedTensor> tensors;
  Metadata metadata;
  std::string note;  // why the previous checkpoint was loaded; empty if the newest was
  const Tensor& tensor(std::string_view name, Loc loc = Loc::current()) const;       // FormatError if it is missing
  const std::string& text(const std::string& name, Loc loc = Loc::current()) const;  // of the metadata; likewise
};

// "run/checkpoint.safetensors" -> "run/checkpoint.prev.safetensors".
std::string previous_checkpoint(const std::string& path);

// Atomic: at every moment `path` is the old or the new checkpoint, whole; the old one moves to previous_checkpoint().
void save_checkpoint(const std::string& path, std::span<const NamedTensor> tensors, const Metadata& metadata,
                     Loc loc = Loc::current());
// The newest, or the previous if that is missing or damaged. IoError if there is neither, FormatError if none is whole.
Checkpoint load_checkpoint(const std::string& path, Device& d = default_device(), Loc loc = Loc::current());
bool checkpoint_exists(const std::string& path);  // newest or previous

}  // namespace flame::io
