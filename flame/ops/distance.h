// How far vectors are from each other, and the losses made of that. float16 and bfloat16 are computed in float32 and
// rounded once. Inputs are floating (DTypeError) and broadcast against each other (ShapeError).
#pragma once
#include "flame/ops/loss.h"

namespace flame {

// a.b / (max(|a|, eps) max(|b|, eps)) along an axis of the broadcast shape.
Tensor cosine_similarity(const Tensor& a, const Tensor& b, int64_t axis = 1, double eps = 1e-8,
                         Loc loc = Loc::current());

struct DistanceOptions {
  double p = 2.0;     // of the norm: above 0, infinity included
  double eps = 1e-6;  // added to every difference
  bool keepdim = false;
};
// The p-norm of a - b + eps along the last axis.
Tensor pairwise_distance(const Tensor& a, const Tensor& b, const DistanceOptions& o = {}, Loc loc = Loc::current());

struct CosineEmbeddingOptions {
  double margin = 0.0;
  Reduction reduction = Reduction::mean;
};
// a, b [N, D] or [D]; target [N] or [] of 1 (1 - cos) and -1 (max(0, cos - margin)); other targets count 0.
Tensor cosine_embedding_loss(const Tensor& a, const Tensor& b, const Tensor& target,
                             const CosineEmbeddingOptions& o = {}, Loc loc = Loc::current());

struct TripletMarginOptions {
  double margin = 1.0;  // above 0
  double p = 2.0, eps = 1e-6;
  bool swap = false;  // the negative's distance is the nearer of those to anchor and positive (Balntas et al. 2016)
  Reduction reduction = Reduction::mean;
};
// max(0, margin + |anchor - positive| - |anchor - negative|) of equal ranks, over the last axis.
Tensor triplet_margin_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative,
                           const TripletMarginOptions& o = {}, Loc loc = Loc::current());

}  // namespace flame
