// Embedding: draws its rows, and leaves reading them to ops/gather.h.
#include "flame/nn/embedding.h"

#include "flame/nn/options_internal.h"
#include "flame/ops/gather.h"
#include "flame/ops/random.h"

namespace flame::nn {
namespace {
const EmbeddingOptions& checked(const EmbeddingOptions& o, Loc loc) {
  if (o.count < 1 || o.width < 1)
    fail<ValueError>(loc, "Embedding: expected count and width of 1 or more, got {} and {}", o.count, o.width);
  check_float("Embedding", o.dtype, loc);
  return o;
}
}  // namespace

Embedding::Embedding(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked(o, loc)),
      weight(*this, "weight", randn({o.count, o.width}, {.dtype = o.dtype}, loc), loc) {}

Tensor Embedding::forward(const Tensor& index, Loc loc) { return embedding(weight.tensor(), index, loc); }

std::string Embedding::kind() const { return fmt::format("Embedding({}, {})", options.count, options.width); }

}  // namespace flame::nn
