// einsum: the equation is read and checked, then operands are contracted pair by pair, the cheapest pair first. tensordot
// is one such pair.
#include "flame/ops/einsum.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/diagonal.h"
#include "flame/ops/einsum_internal.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

constexpr int letters = 52;  // A-Z, then a-z; axes of the ellipsis follow

int label_of(char c) { return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : -1; }
std::string name_of_label(int label) {
  if (label >= letters) return "...";
  return std::string(1, static_cast<char>(label < 26 ? 'A' + label : 'a' + label - 26));
}

constexpr int ellipsis = -1;
struct Equation {
  std::vector<Labels> operands;  // with `ellipsis` where one stands
  Labels output;
  bool has_output = false;
};

Labels read_labels(std::string_view text, std::string_view whole, Loc loc) {
  Labels out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ') continue;
    if (text[i] == '.') {
      if (text.substr(i, 3) != "..." || has(out, ellipsis))
        fail<ValueError>(loc, "einsum: expected one \"...\" a term and no other dots, got \"{}\"", whole);
      out.push_back(ellipsis);
      i += 2;
    } else if (const int l = label_of(text[i]); l >= 0) {
      out.push_back(l);
    } else {
      fail<ValueError>(loc, "einsum: expected letters, \"...\", commas and \"->\", got '{}' in \"{}\"", text[i], whole);
    }
  }
  return out;
}

Equation read_equation(std::string_view text, size_t operands, Loc loc) {
  Equation e;
  const size_t arrow = text.find("->");
  e.has_output = arrow != std::string_view::npos;
  std::string_view rest = text.substr(0, arrow);
  for (size_t comma; (comma = rest.find(',')) != std::string_view::npos; rest.remove_prefix(comma + 1))
    e.operands.push_back(read_labels(rest.substr(0, comma), text, loc));
  e.operands.push_back(read_labels(rest, text, loc));
  if (e.has_output) e.output = read_labels(text.substr(arrow + 2), text, loc);
  if (e.operands.size() != operands)
    fail<ValueError>(loc, "einsum: \"{}\" names {} operands, got {}", text, e.operands.size(), operands);
  return e;
}

// Ellipses are written out: their axes are aligned from the right, so the last one of all has the highest label.
void write_out_ellipses(Equation& e, const std::vector<Tensor>& operands, std::string_view text, Loc loc) {
  std::vector<int> hidden(operands.size());
  int most = 0;
  for (size_t i = 0; i < operands.size(); ++i) {
    const bool dots = has(e.operands[i], ellipsis);
    const int named = static_cast<int>(e.operands[i].size()) - dots, rank = operands[i].rank();
    if (dots ? rank < named : rank != named)
      fail<ShapeError>(loc, "einsum: operand {} of \"{}\" expected {} axes{}, got shape {}", i, text, named,
                       dots ? " or more" : "", operands[i].shape());
    hidden[i] = rank - named;
    most = std::max(most, dots ? hidden[i] : 0);
  }
  const auto write_out = [&](Labels& l, int count) {
    const auto at = std::find(l.begin(), l.end(), ellipsis);
    if (at == l.end()) return;
    Labels axes;
    for (int k = most - count; k < most; ++k) axes.push_back(letters + k);
    l.insert(l.erase(at), axes.begin(), axes.end());
  };
  for (size_t i = 0; i < operands.size(); ++i) write_out(e.operands[i], hidden[i]);
  write_out(e.output, most);
  if (e.has_output) return;
  for (int k = 0; k < most; ++k) e.output.push_back(letters + k);
  std::array<int, letters> times{};
  for (const Labels& o : e.operands)
    for (int l : o)
      if (l < letters) ++times[static_cast<size_t>(l)];
  for (int l = 0; l < letters; ++l)
    if (times[static_cast<size_t>(l)] == 1) e.output.push_back(l);
}

void check_output(const Equation& e, std::string_view text, Loc loc) {
  for (size_t i = 0; i < e.output.size(); ++i) {
    const int l = e.output[i];
    if (std::count(e.output.begin(), e.output.end(), l) > 1)
      fail<ValueError>(loc, "einsum: the output of \"{}\" names {} twice", text, name_of_label(l));
    if (std::none_of(e.operands.begin(), e.operands.end(), [&](const Labels& o) { return has(o, l); }))
      fail<ValueError>(loc, "einsum: the output of \"{}\" names {}, which no operand has", text, name_of_label(l));
  }
  check_rank("einsum", e.output.size(), loc);
}

// The size of every label; those of 1 broadcast.
std::map<int, int64_t> label_sizes(const Equation& e, const std::vector<Tensor>& operands, std::string_view text,
                                   Loc loc) {
  std::map<int, int64_t> sizes;
  for (size_t i = 0; i < operands.size(); ++i)
    for (size_t k = 0; k < e.operands[i].size(); ++k) {
      const int64_t n = operands[i].shape()[static_cast<int>(k)];
      const auto [it, first] = sizes.emplace(e.operands[i][k], n);
      if (first || it->second == n || n == 1) continue;
      if (it->second != 1)
        fail<ShapeError>(loc, "einsum: axis {} of \"{}\" has sizes {} and {}", name_of_label(it->first), text,
                         it->second, n);
      it->second = n;
    }
  return sizes;
}

// A letter twice in one operand takes the diagonal of its axes.
Labelled without_repeats(Labelled x, std::string_view text, Loc loc) {
  for (size_t i = 0; i < x.labels.size(); ++i) {
    const int l = x.labels[i];
    const auto again = std::find(x.labels.begin() + static_cast<std::ptrdiff_t>(i) + 1, x.labels.end(), l);
    if (again == x.labels.end()) continue;
    const int64_t k = again - x.labels.begin(), first = static_cast<int64_t>(i);
    const int64_t n = x.t.shape()[static_cast<int>(first)], m = x.t.shape()[static_cast<int>(k)];
    if (n != m)
      fail<ShapeError>(loc, "einsum: axis {} of \"{}\" has sizes {} and {} in one operand", name_of_label(l), text, n,
                       m);
    x.t = diagonal(x.t, {.axis1 = first, .axis2 = k}, loc);
    x.labels.erase(again);
    x.labels.erase(x.labels.begin() + first);
    x.labels.push_back(l);
    --i;
  }
  return x;
}

// What is still needed beside operands i and j.
Labels needed(const std::vector<Labelled>& left, size_t i, size_t j, const Labels& output) {
  Labels keep = output;
  for (size_t k = 0; k < left.size(); ++k)
    if (k != i && k != j) keep = joined({keep, left[k].labels});
  return keep;
}

// The pair whose contraction multiplies least; the first of equal ones.
std::pair<size_t, size_t> cheapest(const std::vector<Labelled>& left) {
  std::pair<size_t, size_t> best{0, 1};
  double least = std::numeric_limits<double>::infinity();
  for (size_t i = 0; left.size() > 2 && i < left.size(); ++i)
    for (size_t j = i + 1; j < left.size(); ++j) {
      double cost = 1;
      for (int l : left[i].labels) cost *= static_cast<double>(size_of(left[i], l));
      for (int l : left[j].labels)
        if (!has(left[i].labels, l)) cost *= static_cast<double>(size_of(left[j], l));
      if (cost >= least) continue;
      least = cost;
      best = {i, j};
    }
  return best;
}

}  // namespace

Tensor einsum(std::string_view equation, const std::vector<Tensor>& operands, Loc loc) {
  if (const AutocastCall cast{"einsum", operands}) {
    std::vector<Tensor> in;
    for (const Tensor& x : operands) in.push_back(cast(x, loc));
    return einsum(equation, in, loc);
  }
  const OpScope scope("einsum");
  if (operands.empty()) fail<ValueError>(loc, "einsum: expected at least one operand, got none");
  const DType t = product_dtype("einsum", operands, loc);
  Equation e = read_equation(equation, operands.size(), loc);
  write_out_ellipses(e, operands, equation, loc);
  check_output(e, equation, loc);
  label_sizes(e, operands, equation, loc);
  std::vector<Labelled> left;
  for (size_t i = 0; i < operands.size(); ++i)
    left.push_back(without_repeats({operands[i].to(t, loc), e.operands[i]}, equation, loc));
  if (left.size() == 1) return arranged(summed(left[0], e.output, loc), e.output, loc);
  while (left.size() > 1) {
    const auto [i, j] = cheapest(left);
    left[i] = contract("einsum", left[i], left[j], needed(left, i, j, e.output), loc);
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(j));
  }
  return arranged(left[0], e.output, loc);
}

Tensor tensordot(const Tensor& a, const Tensor& b, const Dims& axes_a, const Dims& axes_b, Loc loc) {
  const OpScope scope("tensordot");
  const DType t = product_dtype("tensordot", std::array{a, b}, loc);
  if (axes_a.rank() != axes_b.rank())
    fail<ShapeError>(loc, "tensordot: expected as many axes of each, got {} and {}", axes_a, axes_b);
  Labelled x{a.to(t, loc), {}}, y{b.to(t, loc), {}};
  Labels keep;
  for (int i = 0; i < a.rank(); ++i) x.labels.push_back(i);
  for (int i = 0; i < b.rank(); ++i) y.labels.push_back(a.rank() + i);
  for (int i = 0; i < axes_a.rank(); ++i) {
    const int p = normalize_axis("tensordot", axes_a[i], a.rank(), loc);
    const int q = normalize_axis("tensordot", axes_b[i], b.rank(), loc);
    const int64_t n = a.shape()[p], m = b.shape()[q];
    if (n != m && n != 1 && m != 1)
      fail<ShapeError>(loc, "tensordot: axis {} of {} and axis {} of {} differ", p, a.shape(), q, b.shape());
    if (y.labels[static_cast<size_t>(q)] < a.rank() || has(keep, p))
      fail<ValueError>(loc, "tensordot: an axis is named twice in {} or {}", axes_a, axes_b);
    y.labels[static_cast<size_t>(q)] = p;
    keep.push_back(p);
  }
  const Labels met = std::exchange(keep, {});
  for (int l : joined({x.labels, y.labels}))
    if (!has(met, l)) keep.push_back(l);
  return arranged(contract("tensordot", x, y, keep, loc), keep, loc);
}

Tensor tensordot(const Tensor& a, const Tensor& b, int64_t count, Loc loc) {
  product_dtype("tensordot", std::array{a, b}, loc);
  if (count < 0 || count > std::min(a.rank(), b.rank()))
    fail<ValueError>(loc, "tensordot: expected 0 to {} axes for shapes {} and {}, got {}", std::min(a.rank(), b.rank()),
                     a.shape(), b.shape(), count);
  Dims last, first;
  for (int64_t i = 0; i < count; ++i) {
    last.push_back(a.rank() - count + i);
    first.push_back(i);
  }
  return tensordot(a, b, last, first, loc);
}

namespace {
using Inputs = std::vector<Tensor>;

const RegisterOp registered({
    .name = "einsum",
    .signature = "einsum(equation, operands)",
    .formula = "the sum of products over the axes that the output does not name",
    .samples =
        [](DType t) {
          const auto by = [](const char* equation) {
            return [equation](const Inputs& in) { return Inputs{einsum(equation, in)}; };
          };
          using namespace samples;
          const Tensor a = uniform({3, 4}, t, 1), b = transposed({4, 2}, t, 2), c = strided({2, 3, 4}, t, 3);
          return std::vector<SampleCase>{
              {{a, b}, by("ij,jk->ik"), "matrices"},
              {{a, b}, by("ij, jk -> ki"), "transposed result"},
              {{c, uniform({2, 4, 5}, t, 4)}, by("bij,bjk->bik"), "batch"},
              {{uniform({2, 3, 2, 4}, t, 5), uniform({2, 5, 2, 4}, t, 6)}, by("bqhd,bkhd->bhqk"), "attention"},
              {{c, a}, by("bij,ij->b"), "two summed axes"},
              {{c, uniform({4, 3}, t, 4)}, by("bij,ji->b"), "summed axes in two orders"},
              {{c, uniform({2, 3, 4}, t, 4)}, by("bij,bij->bi"), "dot products"},
              {{a, a}, by("ij,ij->ij"), "elementwise"},
              {{uniform({3}, t), uniform({4}, t, 2)}, by("i,j->ij"), "outer"},
              {{uniform({3, 3}, t)}, by("ii"), "trace"},
              {{uniform({3, 3, 2}, t)}, by("iij->ji"), "diagonal"},
              {{uniform({3, 3}, t), uniform({3}, t, 2)}, by("ii,i->i"), "diagonal times vector"},
              {{c}, by("abc->ca"), "one operand, summed"},
              {{c, uniform({4, 5}, t, 2)}, by("...d,dv->...v"), "ellipsis"},
              {{uniform({2, 1, 3, 2}, t), uniform({4, 2, 3}, t, 2)}, by("...ij,...jk->...ik"), "ellipses broadcast"},
              {{uniform({1, 4}, t), uniform({3, 4}, t, 2)}, by("bi,bi->b"), "size of 1"},
              {{uniform({2, 3}, t), uniform({4}, t, 2)}, by("ij,k->i"), "axes of one operand summed"},
              {{a, b, uniform({2, 5}, t, 4)}, by("ij,jk,kl->il"), "three operands"},
              {{uniform({}, t), uniform({3}, t, 2)}, by(",i->i"), "0-d"},
              {{uniform({0, 3}, t), uniform({3, 2}, t, 2)}, by("ij,jk"), "no rows"},
              {{uniform({2, 0}, t), uniform({0, 3}, t, 2)}, by("ij,jk"), "empty summed axis"},
          };
        },
});
const RegisterOp registered_tensordot({
    .name = "tensordot",
    .signature = "tensordot(a, b, axes_a, axes_b), tensordot(a, b, count)",
    .formula = "the sum of products over pairs of axes",
    .samples =
        [](DType t) {
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({2, 3, 4}, t), uniform({3, 4, 2}, t, 2)},
               [](const Inputs& in) { return Inputs{tensordot(in[0], in[1])}; },
               "two axes"},
              {{uniform({2, 3, 4}, t), transposed({4, 5}, t, 2)},
               [](const Inputs& in) { return Inputs{tensordot(in[0], in[1], 1)}; },
               "one axis"},
              {{uniform({2, 3}, t), strided({4}, t, 2)},
               [](const Inputs& in) { return Inputs{tensordot(in[0], in[1], 0)}; },
               "none"},
              {{uniform({2, 3, 4}, t), uniform({4, 5, 2}, t, 2)},
               [](const Inputs& in) {
                 return Inputs{tensordot(in[0], in[1], {0, -1}, {2, 0})};
               },
               "axes by name"},
              {{uniform({2, 3}, t), uniform({3, 2}, t, 2)},
               [](const Inputs& in) {
                 return Inputs{tensordot(in[0], in[1], {0, 1}, {1, 0})};
               },
               "all axes"},
              {{uniform({0, 3}, t), uniform({3, 2}, t, 2)},
               [](const Inputs& in) { return Inputs{tensordot(in[0], in[1], 1)}; },
               "empty"},
          };
        },
});
}  // namespace

}  // namespace flame
