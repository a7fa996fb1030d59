// Registers the named products with sample inputs: transposed, strided, broadcast and empty ones.
#include "flame/ops/products.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

using Inputs = std::vector<Tensor>;
using Pair = Tensor (*)(const Tensor&, const Tensor&, Loc);
using Added = Tensor (*)(const Tensor&, const Tensor&, const Tensor&, const AddProductOptions&, Loc);

struct PairRow {
  const char *name, *signature, *formula;
  Pair fn;
  std::vector<std::pair<Shape, Shape>> shapes;
};
Tensor cross_last(const Tensor& a, const Tensor& b, Loc loc) { return cross(a, b, -1, loc); }
const PairRow pairs[] = {
    {"dot", "dot(a, b)", "sum of a_i b_i", dot, {{{5}, {5}}, {{0}, {0}}, {{67}, {67}}}},
    {"vdot", "vdot(a, b)", "sum of a_i b_i", vdot, {{{5}, {5}}, {{0}, {0}}}},
    {"inner",
     "inner(a, b)",
     "sum over the last axes",
     inner,
     {{{4}, {4}}, {{2, 3, 4}, {5, 4}}, {{}, {2, 3}}, {{2, 0}, {3, 0}}}},
    {"outer", "outer(a, b)", "a_i b_j", outer, {{{3}, {4}}, {{0}, {4}}, {{1}, {1}}}},
    {"mv", "mv(a, x)", "sum over j of a_ij x_j", mv, {{{3, 4}, {4}}, {{0, 4}, {4}}, {{3, 0}, {0}}}},
    {"mm", "mm(a, b)", "sum over k of a_ik b_kj", mm, {{{3, 4}, {4, 2}}, {{0, 4}, {4, 2}}, {{3, 0}, {0, 2}}}},
    {"bmm", "bmm(a, b)", "sum over k of a_bik b_bkj", bmm, {{{2, 3, 4}, {2, 4, 2}}, {{0, 3, 4}, {0, 4, 2}}}},
    {"kron", "kron(a, b)", "blocks a_ij b", kron, {{{2, 3}, {3, 2}}, {{3}, {2, 2}}, {{}, {3}}, {{0, 2}, {2, 3}}}},
    {"cross",
     "cross(a, b, axis)",
     "the vector product",
     cross_last,
     {{{4, 3}, {4, 3}}, {{3}, {3}}, {{2, 1, 3}, {1, 4, 3}}, {{0, 3}, {0, 3}}}},
};
struct AddedRow {
  const char *name, *signature, *formula;
  Added fn;
  std::vector<std::array<Shape, 3>> shapes;
};
const AddedRow added[] = {
    {"addmm",
     "addmm(input, a, b, {.beta, .alpha})",
     "beta input + alpha a b",
     addmm,
     {{{{3, 2}, {3, 4}, {4, 2}}}, {{{2}, {3, 4}, {4, 2}}}, {{{}, {0, 4}, {4, 2}}}, {{{3, 1}, {3, 0}, {0, 2}}}}},
    {"addmv",
     "addmv(input, a, x, {.beta, .alpha})",
     "beta input + alpha a x",
     addmv,
     {{{{3}, {3, 4}, {4}}}, {{{1}, {3, 4}, {4}}}, {{{0}, {0, 4}, {4}}}}},
    {"addr",
     "addr(input, a, b, {.beta, .alpha})",
     "beta input + alpha a_i b_j",
     addr,
     {{{{3, 2}, {3}, {2}}}, {{{2}, {3}, {2}}}, {{{0, 2}, {0}, {2}}}}},
    {"baddbmm",
     "baddbmm(input, a, b, {.beta, .alpha})",
     "beta input + alpha a b by the batch",
     baddbmm,
     {{{{2, 3, 2}, {2, 3, 4}, {2, 4, 2}}}, {{{2}, {2, 3, 4}, {2, 4, 2}}}, {{{0, 3, 2}, {0, 3, 4}, {0, 4, 2}}}}},
    {"addbmm",
     "addbmm(input, a, b, {.beta, .alpha})",
     "beta input + alpha sum over the batch of a b",
     addbmm,
     {{{{3, 2}, {2, 3, 4}, {2, 4, 2}}}, {{{2}, {2, 3, 4}, {2, 4, 2}}}, {{{3, 2}, {0, 3, 4}, {0, 4, 2}}}}},
};

// Dense, and with a transposed left and a strided right one.
std::vector<SampleCase> samples_of(const PairRow& row, DType t) {
  using namespace samples;
  std::vector<SampleCase> out;
  const auto fn = [f = row.fn](const Inputs& in) { return Inputs{f(in[0], in[1], Loc::current())}; };
  for (const auto& [a, b] : row.shapes)
    out.push_back({{uniform(a, t, 1), uniform(b, t, 2)}, fn, to_string(a) + " " + to_string(b)});
  for (const auto& [a, b] : row.shapes)
    if (a.rank() > 1 && b.rank() > 0)
      out.push_back(
          {{transposed(a, t, 1), strided(b, t, 2)}, fn, "in other layouts " + to_string(a) + " " + to_string(b)});
  return out;
}
std::vector<SampleCase> samples_of(const AddedRow& row, DType t) {
  using namespace samples;
  std::vector<SampleCase> out;
  const auto by = [&](const AddProductOptions& o) {
    return [f = row.fn, o](const Inputs& in) { return Inputs{f(in[0], in[1], in[2], o, Loc::current())}; };
  };
  for (const auto& [input, a, b] : row.shapes) {
    const Inputs in{uniform(input, t, 1), uniform(a, t, 2), uniform(b, t, 3)};
    out.push_back({in, by({}), "added to " + to_string(input)});
    out.push_back({in, by({.beta = 0.5, .alpha = -2}), "scaled, added to " + to_string(input)});
  }
  const auto& [input, a, b] = row.shapes[0];
  out.push_back(
      {{strided(input, t, 1), uniform(a, t, 2), strided(b, t, 3)}, by({.beta = 0}), "input ignored, strided"});
  return out;
}

struct RegisterRows {
  RegisterRows() {
    for (const PairRow& row : pairs)
      Registry::global().add(
          {row.name, row.signature, row.formula, true, [&row](DType t) { return samples_of(row, t); }});
    for (const AddedRow& row : added)
      Registry::global().add(
          {row.name, row.signature, row.formula, true, [&row](DType t) { return samples_of(row, t); }});
  }
} const register_rows;

}  // namespace
}  // namespace flame
