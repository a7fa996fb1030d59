// Internal: tensors whose axes carry labels, and what einsum and tensordot make of them.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <span>
#include <vector>

#include "flame/tensor/tensor.h"

namespace flame {

// The dtype that the factors of a product are promoted to. ValueError for an undefined one, DeviceError unless all are on
// one device, DTypeError if all are bool.
DType product_dtype(const char* op, std::span<const Tensor> factors, Loc loc);

// An axis is known by a number; two axes of one number belong together.
using Labels = std::vector<int>;
inline bool has(const Labels& l, int label) { return std::find(l.begin(), l.end(), label) != l.end(); }
Labels joined(std::initializer_list<Labels> parts);

struct Labelled {
  Tensor t;
  Labels labels;  // one an axis, each once
};
int64_t size_of(const Labelled& x, int label);
void check_rank(const char* op, size_t rank, Loc loc);  // ShapeError for an intermediate result beyond max_rank

// The sum over what both have and `keep` lacks, of the product. The result's labels are those of `keep` that occur, in
// the order that needs the fewest copies. Dtypes are one, sizes agree or are 1: checked by callers.
Labelled contract(const char* op, Labelled a, Labelled b, const Labels& keep, Loc loc);
// Summed over the labels that `keep` lacks.
Labelled summed(const Labelled& x, const Labels& keep, Loc loc);
// The axes in the order of `labels`.
Tensor arranged(const Labelled& x, const Labels& labels, Loc loc);

}  // namespace flame
