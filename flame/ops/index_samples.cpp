// Registers x.index and x.set with entries of every kind. What is set repeatedly keeps the last value.
#include "flame/ops/index.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {
using Inputs = std::vector<Tensor>;
using samples::classes, samples::strided, samples::transposed, samples::uniform;

struct Entries {
  const char* label;
  Shape shape;
  std::vector<Index> at;
  Shape result;  // broadcasts to what is read
  bool masked = false;
};
Tensor truths(const Shape& s) { return eq(samples::classes(s, 3), 0); }

std::vector<Entries> entries() {
  const auto below = [](int64_t n, const Shape& s, uint64_t seed) { return classes(s, n, seed); };
  return {
      {"integers", {3, 4, 5}, {-1, ellipsis, 2}, {4}},
      {"slices", {5, 6}, {Slice{1, 4}, Slice{{}, {}, -2}}, {3, 3}},
      {"nothing", {3, 4}, {Slice{2, 2}}, {4}},
      {"everything, a new axis", {2, 3}, {Slice{}, new_axis}, {2, 1, 3}},
      {"rows", {4, 5}, {below(4, {6}, 1)}, {6, 5}},
      {"pairs", {4, 5}, {below(4, {3}, 1), sub(below(5, {2, 1}, 2), 5)}, {2, 3}},
      {"around a slice", {3, 4, 5}, {below(3, {2}, 1), Slice{1, 3}, below(5, {2}, 2)}, {2, 2}},
      {"behind a slice", {4, 3, 5}, {Slice{3, {}, -1}, below(3, {2, 2}, 1), below(5, {2}, 2)}, {4, 2, 2}},
      {"rank 0 aside", {3, 4, 5}, {below(3, {}, 1), Slice{}, below(5, {6}, 2)}, {4, 6}},
      {"no rows", {4, 5}, {classes({0}, 4)}, {5}},
      {"wide slices", {6, 40}, {below(6, {9}, 3)}, {9, 40}},
      {"truth", {2, 3}, {true}, {1, 2, 3}},
      {"mask", {3, 4}, {truths({3, 4})}, {}, true},
      {"mask and slice", {3, 4, 2}, {Slice{}, truths({4}), Slice{1, {}}}, {3, 1, 1}, true},
      {"mask and rows", {3, 4}, {truths({3}), below(4, {1}, 1)}, {1}, true},
  };
}

// The row-major places of a shape, so that x's own layout is the sample's.
std::vector<SampleCase> reading(DType t) {
  std::vector<SampleCase> out;
  for (const Entries& e : entries()) {
    const auto fn = [at = e.at](const Inputs& in) { return Inputs{in[0].index(at)}; };
    out.push_back({{uniform(e.shape, t)}, fn, e.label, -1, e.masked});
    out.push_back({{transposed(e.shape, t)}, fn, std::string(e.label) + ", transposed", -1, e.masked});
  }
  return out;
}
std::vector<SampleCase> writing(DType t) {
  std::vector<SampleCase> out;
  for (const Entries& e : entries())
    for (bool accumulate : {false, true}) {
      const auto fn = [at = e.at, accumulate](const Inputs& in) {
        return Inputs{in[0].set(at, in[1], {.accumulate = accumulate})};
      };
      const std::string label = std::string(e.label) + (accumulate ? ", added" : "");
      out.push_back({{strided(e.shape, t, 1), uniform(e.result, t, 2)}, fn, label, -1, e.masked});
    }
  return out;
}

const RegisterOp registered[] = {
    RegisterOp({.name = "index",
                .signature = "x.index({integers, slices, ellipsis, new_axis, masks, index tensors})",
                .formula = "NumPy's x[...]",
                .samples = reading}),
    RegisterOp({.name = "set",
                .signature = "x.set({integers, slices, ellipsis, new_axis, masks, index tensors}, value, {accumulate})",
                .formula = "a copy of x with NumPy's x[...] = value, or += value",
                .samples = writing}),
};
}  // namespace

}  // namespace flame
