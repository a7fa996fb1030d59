// Reading by index along one axis. Indices are int64 or int32 and must lie in [0, size): on the CPU others throw
// IndexError that names the value. Gradients of repeated indices add up in the order in which they come, so they are
// deterministic.
#pragma once
#include <optional>

#include "flame/tensor/tensor.h"

namespace flame {

// out[i][j][k] = x[i][index[i][j][k]][k] for axis 1. index: x's rank; its other sizes at most x's.
Tensor gather(const Tensor& x, int64_t axis, const Tensor& index, Loc loc = Loc::current());
// gather, where x and index broadcast beside the axis. Without an axis: of both flattened.
Tensor take_along_dim(const Tensor& x, const Tensor& index, std::optional<int64_t> axis = {}, Loc loc = Loc::current());
// The slices x[..., index[0], ...], x[..., index[1], ...], ... along `axis`; index: rank 1, or 0 for one slice.
Tensor index_select(const Tensor& x, int64_t axis, const Tensor& index, Loc loc = Loc::current());

struct EmbeddingOptions {
  std::optional<int64_t> padding_idx = {};  // a row that gets no gradient; negative ones count from the end
};
// Rows of weight [V, D] by index of any shape: [...] -> [..., D].
Tensor embedding(const Tensor& weight, const Tensor& index, const EmbeddingOptions& o = {}, Loc loc = Loc::current());

}  // namespace flame
