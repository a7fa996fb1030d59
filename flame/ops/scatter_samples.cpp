// Registers the ops that write by index along one axis. Where an op assigns, repeated indices keep the last value.
#include "flame/ops/samples_internal.h"
#include "flame/ops/scatter.h"

namespace flame {
namespace {
using Inputs = std::vector<Tensor>;
using samples::classes, samples::strided, samples::transposed, samples::uniform;

// x, src and the index of a call along an axis.
std::vector<SampleCase> elementwise(DType t, Tensor (*fn)(const Tensor&, int64_t, const Tensor&, const Tensor&)) {
  const auto along = [fn](int64_t axis, const Tensor& index) {
    return [=](const Inputs& in) { return Inputs{fn(in[0], axis, index, in[1])}; };
  };
  return {
      {{uniform({3, 5}, t, 1), uniform({6, 5}, t, 2)}, along(0, classes({6, 5}, 3)), "rows, repeated indices"},
      {{transposed({4, 5}, t, 1), strided({4, 7}, t, 2)}, along(1, classes({4, 7}, 5)), "columns"},
      {{uniform({2, 3, 4}, t, 1), transposed({2, 5, 4}, t, 2)}, along(1, classes({2, 5, 4}, 3)), "middle axis"},
      {{strided({4, 5}, t, 1), uniform({3, 5}, t, 2)}, along(-1, classes({2, 3}, 5)), "a small index"},
      {{uniform({}, t, 1), uniform({}, t, 2)}, along(0, classes({}, 1)), "0-d"},
      {{uniform({2, 3}, t, 1), uniform({0, 3}, t, 2)}, along(0, classes({0, 3}, 2)), "no index"},
      {{uniform({1, 64}, t, 1), uniform({1, 40}, t, 2)}, along(1, classes({1, 40}, 30)), "rows of a block"},
  };
}
template <ScatterReduce reduce, bool include_self>
Tensor reduced(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src) {
  return scatter_reduce(x, axis, index, src, reduce, {.include_self = include_self});
}

// x and src of a call on whole slices.
std::vector<SampleCase> slicewise(DType t, Tensor (*fn)(const Tensor&, int64_t, const Tensor&, const Tensor&)) {
  const auto along = [fn](int64_t axis, const Tensor& index) {
    return [=](const Inputs& in) { return Inputs{fn(in[0], axis, index, in[1])}; };
  };
  return {
      {{uniform({3, 5}, t, 1), uniform({6, 5}, t, 2)}, along(0, classes({6}, 3)), "rows, repeated indices"},
      {{transposed({4, 5}, t, 1), strided({4, 3}, t, 2)}, along(-1, classes({3}, 5)), "columns of a transpose"},
      {{strided({2, 3, 4}, t, 1), uniform({2, 1, 4}, t, 2)}, along(1, classes({1}, 3)), "one slice"},
      {{uniform({5}, t, 1), uniform({7}, t, 2)}, along(0, classes({7}, 5)), "vector"},
      {{uniform({}, t, 1), uniform({}, t, 2)}, along(0, classes({1}, 1)), "0-d"},
      {{uniform({2, 3}, t, 1), uniform({0, 3}, t, 2)}, along(0, classes({0}, 2)), "no index"},
      {{uniform({2, 128}, t, 1), uniform({2, 128}, t, 2)}, along(0, classes({2}, 2)), "wide slices"},
  };
}

const RegisterOp registered[] = {
    RegisterOp({.name = "scatter",
                .signature = "scatter(x, axis, index, src or number)",
                .formula = "out = x; out[i][index[i][j][k]][k] = src[i][j][k] for axis 1",
                .samples =
                    [](DType t) {
                      std::vector<SampleCase> out =
                          elementwise(t, [](const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src) {
                            return scatter(x, axis, index, src);
                          });
                      out.push_back({{uniform({3, 4}, t)},
                                     [](const Inputs& in) {
                                       return Inputs{scatter(in[0], 1, classes({3, 2}, 4), 1.5)};
                                     },
                                     "a number"});
                      return out;
                    }}),
    RegisterOp({.name = "scatter_add",
                .signature = "scatter_add(x, axis, index, src)",
                .formula = "out = x; out[i][index[i][j][k]][k] += src[i][j][k] for axis 1",
                .samples =
                    [](DType t) {
                      return elementwise(t, [](const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src) {
                        return scatter_add(x, axis, index, src);
                      });
                    }}),
    RegisterOp({.name = "scatter_reduce",
                .signature = "scatter_reduce(x, axis, index, src, reduce, {include_self})",
                .formula = "as scatter_add with a sum, product, mean, maximum or minimum",
                .samples =
                    [](DType t) {
                      using enum ScatterReduce;
                      std::vector<SampleCase> out;
                      for (auto* fn : {reduced<sum, false>, reduced<prod, true>, reduced<prod, false>,
                                       reduced<mean, true>, reduced<mean, false>, reduced<amax, true>,
                                       reduced<amax, false>, reduced<amin, true>, reduced<amin, false>})
                        for (SampleCase& c : elementwise(t, fn)) {
                          c.label += ", call " + std::to_string(out.size());
                          out.push_back(std::move(c));
                        }
                      return out;
                    }}),
    RegisterOp({.name = "index_add",
                .signature = "index_add(x, axis, index, src, {alpha})",
                .formula = "out = x; out[index[i]] += alpha src[i] along axis",
                .samples =
                    [](DType t) {
                      return slicewise(t, [](const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src) {
                        return index_add(x, axis, index, src, {.alpha = 0.5});
                      });
                    }}),
    RegisterOp({.name = "index_copy",
                .signature = "index_copy(x, axis, index, src)",
                .formula = "out = x; out[index[i]] = src[i] along axis",
                .samples =
                    [](DType t) {
                      return slicewise(t, [](const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src) {
                        return index_copy(x, axis, index, src);
                      });
                    }}),
    RegisterOp({.name = "index_fill",
                .signature = "index_fill(x, axis, index, value)",
                .formula = "out = x; out[index[i]] = value along axis",
                .samples =
                    [](DType t) {
                      const auto along = [](int64_t axis) {
                        return [axis](const Inputs& in) { return Inputs{index_fill(in[0], axis, in[1], in[2])}; };
                      };
                      return std::vector<SampleCase>{
                          {{uniform({3, 5}, t), sub(classes({2}, 3), 3), uniform({}, t, 2)}, along(0), "rows"},
                          {{transposed({4, 5}, t), classes({3}, 5), uniform({}, t, 2)}, along(-1), "columns"},
                          {{strided({4, 5}, t), classes({0}, 5), uniform({}, t, 2)}, along(1), "no index"},
                      };
                    }}),
};
}  // namespace

}  // namespace flame
