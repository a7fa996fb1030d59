// Embedding: draws its rows, and leaves reading them to ops/gather.h.
#include "flame/nn/embedding.h"

#include "flame/nn/options_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/gather.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/random.h"

namespace flame::nn {
namespace {
const EmbeddingOptions& checked(const EmbeddingOptions& o, Loc loc) {
  if (o.count < 1 || o.width < 1)
    fail<ValueError>(loc, "Embedding: expected count and width of 1 or more, got {} and {}", o.count, o.width);
  check_float("Embedding", o.dtype, loc);
  if (o.padding_idx && (*o.padding_idx < -o.count || *o.padding_idx >= o.count))
    fail<IndexError>(loc, "Embedding: padding_idx {} is out of range for {} rows", *o.padding_idx, o.count);
  return o;
}
Tensor draw(const EmbeddingOptions& o, Loc loc) {
  Tensor rows = randn({o.count, o.width}, {.dtype = o.dtype}, loc);
  if (!o.padding_idx) return rows;
  const int64_t padding = *o.padding_idx < 0 ? *o.padding_idx + o.count : *o.padding_idx;
  const Tensor row = arange(0, o.count, 1, DType::i64, rows.device(), loc).unsqueeze(-1, loc);
  return where(eq(row, padding, loc), 0, rows, loc);
}
}  // namespace

Embedding::Embedding(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc), options(checked(o, loc)), weight(*this, "weight", draw(o, loc), loc) {}

Tensor Embedding::forward(const Tensor& index, Loc loc) {
  return embedding(weight.tensor(), index, {.padding_idx = options.padding_idx}, loc);
}

std::string Embedding::kind() const { return fmt::format("Embedding({}, {})", options.count, options.width); }

}  // namespace flame::nn
