// Tensors in several safetensors files with an index beside them, as large models are published:
// model.safetensors.index.json says which of model-00001-of-00003.safetensors, … holds each name.
#pragma once
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flame/io/safetensors.h"

namespace flame::io {

// Opening checks the index and the header of every shard. FormatError if a shard is missing, lacks a name that the index
// gives to it, or holds one that the index does not; shards are plain file names in the folder of the index.
class ShardedSafetensors {
 public:
  explicit ShardedSafetensors(const std::string& index_path, Loc loc = Loc::current());
  const std::vector<SafetensorsFile>& shards() const { return shards_; }  // in the order of their names
  std::vector<std::string> names() const;                                 // of all tensors, sorted
  Tensor load(std::string_view name, Device& d = default_device(), Loc loc = Loc::current()) const;

 private:
  std::string path_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, size_t, std::less<>> shard_of_;
};

std::vector<NamedTensor> load_safetensors_shards(const std::string& index_path, Device& d = default_device(),
                                                 Loc loc = Loc::current());

struct ShardOptions {
  uint64_t max_bytes = 5'000'000'000;  // of data in a shard; a larger tensor has a shard of its own
  Metadata metadata = {};              // of every shard
};
// `index_path` ends in ".safetensors.index.json". Tensors keep their order over the shards. Each file is written
// atomically, the index last. Returns the number of shards.
size_t save_safetensors_shards(const std::string& index_path, std::span<const NamedTensor> tensors,
                               const ShardOptions& options = {}, Loc loc = Loc::current());

}  // namespace flame::io
