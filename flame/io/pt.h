// Tensors from PyTorch's .pt and .pth files (the zip format of torch.save since 1.6), read without executing a pickle.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "flame/io/safetensors.h"

namespace flame::io {

using PtValue = std::variant<std::monostate, bool, int64_t, double, std::string>;  // None is std::monostate

// What was saved, flattened: names are the keys and positions on the way, joined by dots ("optimizer.state.0.exp_avg");
// a single tensor has the name "". Tensors that share a storage in the file share one here, with their strides.
struct PtContents {
  std::vector<NamedTensor> tensors;                                             // in the order of the file
  std::map<std::string, PtValue> values;                                        // what is no tensor
  const Tensor& tensor(std::string_view name, Loc loc = Loc::current()) const;  // FormatError if it is missing
};

// Reads dicts, lists and tuples of tensors, parameters, numbers, strings and None. int16 becomes int32. FormatError names
// whatever else the file holds: other classes, sparse, quantized or complex tensors, TorchScript, the format before 1.6.
PtContents load_pt(const std::string& path, Device& d = default_device(), Loc loc = Loc::current());

}  // namespace flame::io
