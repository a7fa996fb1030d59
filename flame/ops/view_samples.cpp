// Registers the views with sample inputs in every layout.
#include "flame/ops/samples_internal.h"
#include "flame/ops/view.h"

namespace flame {
namespace {
using Inputs = std::vector<Tensor>;

// Every view of one op on a dense, a transposed, a strided and a channels-last tensor of one shape.
RegisterOp view_op(const char* name, const char* signature, const char* formula, Shape shape,
                   Tensor (*fn)(const Tensor&)) {
  return RegisterOp({.name = name, .signature = signature, .formula = formula, .samples = [shape, fn](DType t) {
                       const auto run = [fn](const Inputs& in) { return Inputs{fn(in[0])}; };
                       std::vector<SampleCase> out{{{samples::uniform(shape, t)}, run, "dense"},
                                                   {{samples::transposed(shape, t)}, run, "transposed"},
                                                   {{samples::strided(shape, t)}, run, "strided"}};
                       if (shape.rank() == 4) out.push_back({{samples::channels_last(shape, t)}, run, "channels last"});
                       return out;
                     }});
}
const RegisterOp registered[] = {
    view_op("reshape", "x.reshape(shape)", "the same numbers in row-major order", {2, 3, 4, 2},
            [](const Tensor& x) {
              return x.reshape({6, -1});
            }),
    view_op("flatten", "x.flatten(from, to)", "axes from to to become one", {2, 3, 4, 2},
            [](const Tensor& x) { return x.flatten(1); }),
    view_op("permute", "x.permute(order)", "out[i][j][k] = x[k][i][j]", {2, 3, 4},
            [](const Tensor& x) {
              return x.permute({1, 2, 0});
            }),
    view_op("transpose", "x.transpose(a, b)", "axes a and b exchanged", {3, 5}, [](const Tensor& x) { return x.t(); }),
    view_op("expand", "x.expand(shape)", "repeated along axes of size 1", {3, 1},
            [](const Tensor& x) {
              return x.expand({2, 3, 4});
            }),
    view_op("unsqueeze", "x.unsqueeze(axis)", "a new axis of size 1", {3, 5},
            [](const Tensor& x) { return x.unsqueeze(1); }),
    view_op("squeeze", "x.squeeze(axis)", "without an axis of size 1", {3, 1, 5},
            [](const Tensor& x) { return x.squeeze(1); }),
    view_op("movedim", "movedim(x, from, to)", "axes from at the places to", {2, 3, 4},
            [](const Tensor& x) {
              return movedim(x, {0, -1}, {-1, 0});
            }),
    view_op("unflatten", "unflatten(x, axis, sizes)", "one axis becomes several", {2, 6, 3},
            [](const Tensor& x) {
              return unflatten(x, 1, {3, -1});
            }),
    view_op("narrow", "x.narrow(axis, start, length)", "x[start .. start + length - 1]", {4, 7},
            [](const Tensor& x) { return x.narrow(1, 2, 3); }),
    view_op("slice", "x.slice(axis, start, stop, step)", "x[start], x[start + step], ... before stop", {7, 5},
            [](const Tensor& x) { return x.slice(0, -2, 0, -2); }),
    view_op("select", "x.select(axis, index)", "x[index]", {3, 4, 5}, [](const Tensor& x) { return x.select(-2, -1); }),
    view_op("flip", "flip(x, axes)", "reversed along axes", {3, 4},
            [](const Tensor& x) {
              return flip(x, {0, -1});
            }),
    view_op("contiguous", "x.contiguous()", "x in row-major order", {2, 3, 4, 2},
            [](const Tensor& x) { return x.contiguous(); }),
    view_op("slice_scatter", "slice_scatter(piece, shape, axis, start, step)", "zeros, and the piece", {2, 3},
            [](const Tensor& x) {
              return slice_scatter(x, {2, 8}, 1, 6, -2);
            }),
};
}  // namespace

}  // namespace flame
