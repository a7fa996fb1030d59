// safetensors files: named tensors behind a small JSON header. Every size and offset of a file is checked before
// anything is allocated; a file that breaks a rule of the format gives a FormatError that says what and where.
#pragma once
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flame/io/file.h"
#include "flame/tensor/tensor.h"

namespace flame::io {

using Metadata = std::map<std::string, std::string>;
using NamedTensor = std::pair<std::string, Tensor>;

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  uint64_t begin = 0, end = 0;  // bytes, counted from the end of the header
};

// A mapped file: opening reads the header only, loading a tensor touches its bytes only.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path, Loc loc = Loc::current());
  const std::string& path() const { return file_.path(); }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in the order of their bytes
  const Metadata& metadata() const { return metadata_; }
  const TensorInfo* find(std::string_view name) const;  // null if the file has no such tensor
  std::span<const std::byte> bytes(const TensorInfo& t) const;
  Tensor load(const TensorInfo& t, Device& d = default_device(), Loc loc = Loc::current()) const;
  Tensor load(std::string_view name, Device& d = default_device(), Loc loc = Loc::current()) const;

 private:
  MappedFile file_;
  uint64_t data_at_ = 0;
  std::vector<TensorInfo> tensors_;
  std::map<std::string_view, size_t> by_name_;  // the names in tensors_
  Metadata metadata_;
};

std::vector<NamedTensor> load_safetensors(const std::string& path, Device& d = default_device(),
                                          Loc loc = Loc::current());
// Atomic; the same tensors and metadata give the same bytes. Names are unique UTF-8 other than "__metadata__". ValueError
// for more than 2^18 - 2 names and metadata entries, and for one of them above 4 MiB, which reading would refuse.
void save_safetensors(const std::string& path, std::span<const NamedTensor> tensors, const Metadata& metadata = {},
                      Loc loc = Loc::current());

// Internal: the file format without the file, for checkpoints. `first` is a metadata entry that is written first.
struct SafetensorsLayout {
  std::string header;         // length and JSON
  std::vector<size_t> order;  // of the tensors' bytes
};
SafetensorsLayout layout_safetensors(std::span<const NamedTensor> tensors, const Metadata& metadata,
                                     const std::pair<std::string, std::string>* first, Loc loc);
std::string row_major_bytes(const Tensor& t, Loc loc);

}  // namespace flame::io
