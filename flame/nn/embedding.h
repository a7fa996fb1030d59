// Embedding: a learned row for each class.
#pragma once
#include <optional>

#include "flame/nn/module.h"

namespace flame::nn {

struct EmbeddingOptions {
  int64_t count, width;
  std::optional<int64_t> padding_idx = {};  // a row that starts as zeros and is not trained; negative: from the end
  DType dtype = DType::f32;
};
// weight [count, width], standard normal but for the padding row, as in PyTorch. index [...] of int64 or int32 -> [..., width].
class Embedding : public Layer {
 public:
  using Options = EmbeddingOptions;
  explicit Embedding(const Options& o, Loc loc = Loc::current()) : Embedding(nullptr, {}, o, loc) {}
  Embedding(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : Embedding(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& index, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight;

 private:
  Embedding(Module* parent, std::string name, const Options& o, Loc loc);
};

}  // namespace flame::nn
