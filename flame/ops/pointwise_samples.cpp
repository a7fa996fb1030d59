// Registers every row of fuse/pointwise.def with sample inputs: all layouts, broadcasts and sizes that kernels meet.
#include "flame/ops/pointwise_internal.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

// Ranges of the inputs, as the table's domain column gives them.
struct Domain {
  double low[3], high[3];
};
constexpr Domain domain(double lo, double hi) { return {{lo, lo, lo}, {hi, hi, hi}}; }
constexpr Domain domain(double lo, double hi, double lo_b, double hi_b) { return {{lo, lo_b, lo_b}, {hi, hi_b, hi_b}}; }
constexpr Domain domain(double lo, double hi, double lo_b, double hi_b, double lo_c, double hi_c) {
  return {{lo, lo_b, lo_c}, {hi, hi_b, hi_c}};
}
enum class In : uint8_t { any, number, floating, integral, select };
enum class Out : uint8_t { same, boolean };
struct Row {
  const char* name;
  int arity;
  In in;
  Out out;
  Domain domain;
  const char* formula;
};
const Row rows[] = {
#define FLAME_POINTWISE(name, arity, in, out, lanes, scalar, vector, da, db, dc, domain, formula) \
  {#name, arity, In::in, Out::out, domain, formula},
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
};

enum class Kind : uint8_t { dense, transposed, strided, expanded };
// Input i of a row: a condition, an integer or a number of the domain.
Tensor input(const Row& row, int i, const Shape& shape, Kind kind, DType t) {
  const double lo = row.domain.low[i], hi = row.domain.high[i];
  const uint64_t seed = static_cast<uint64_t>(i) + 1;
  const bool condition = row.in == In::select && i == 0, integral = row.in == In::integral;
  const DType made = condition || integral ? DType::f64 : t;
  Tensor x;
  if (kind == Kind::transposed) x = samples::transposed(shape, made, seed, lo, hi);
  else if (kind == Kind::strided) x = samples::strided(shape, made, seed, lo, hi);
  else if (kind == Kind::expanded) {
    Shape one = shape;
    one[0] = 1;
    x = samples::uniform(one, made, seed, lo, hi).expand(shape);
  } else x = samples::uniform(shape, made, seed, lo, hi);
  return condition ? x > 0 : integral ? x.to(DType::i32) : x;
}

std::vector<SampleCase> samples_of(size_t code, DType t) {
  const Row& row = rows[code];
  const auto call = [code](const std::vector<Tensor>& in) {
    return std::vector<Tensor>{call_pointwise(static_cast<Code>(code), std::vector<Arg>(in.begin(), in.end()))};
  };
  std::vector<SampleCase> out;
  const auto add_case = [&](const char* label, std::initializer_list<Shape> shapes, std::initializer_list<Kind> kinds) {
    SampleCase c{{}, call, label, -1};
    for (int i = 0; i < row.arity; ++i) c.inputs.push_back(input(row, i, shapes.begin()[i], kinds.begin()[i], t));
    out.push_back(std::move(c));
  };
  using enum Kind;
  const Shape s{3, 5};
  add_case("dense", {s, s, s}, {dense, dense, dense});
  add_case("rank 0", {{}, {}, {}}, {dense, dense, dense});
  add_case("one element", {{1}, {1}, {1}}, {dense, dense, dense});
  add_case("empty", {{0, 4}, {0, 4}, {0, 4}}, {dense, dense, dense});
  add_case("ragged", {{67}, {67}, {67}}, {dense, dense, dense});
  add_case("transposed", {s, s, s}, {transposed, dense, transposed});
  add_case("offset and stride", {s, s, s}, {strided, transposed, dense});
  add_case("expanded", {s, s, s}, {expanded, strided, dense});
  if (row.arity == 1) return out;
  add_case("broadcast", {{3, 1}, {5}, {2, 1, 5}}, {dense, dense, dense});
  add_case("rank 0 and dense", {{}, s, s}, {dense, dense, strided});
  add_case("row by row", {{2, 3, 4}, {4}, {3, 1}}, {dense, dense, dense});
  add_case("empty broadcast", {{0, 1}, {3}, {1, 3}}, {dense, dense, dense});
  return out;
}

// A row with numbers for its later inputs.
SampleCase with_numbers(size_t code, DType t) {
  const Row& row = rows[code];
  const int first = row.in == In::select ? 1 : 0;
  SampleCase c{{}, {}, "numbers", -1};
  for (int i = 0; i <= first; ++i) c.inputs.push_back(input(row, i, {4, 3}, Kind::dense, t));
  c.fn = [code, &row](const std::vector<Tensor>& in) {
    std::vector<Arg> args(in.begin(), in.end());
    for (int i = static_cast<int>(in.size()); i < row.arity; ++i) {
      const double number = row.domain.low[i] * 0.25 + row.domain.high[i] * 0.75;
      if (row.in == In::integral) args.push_back(Arg(static_cast<int64_t>(number)));
      else args.push_back(Arg(number));
    }
    return std::vector<Tensor>{call_pointwise(static_cast<Code>(code), args)};
  };
  return c;
}

struct RegisterRows {
  RegisterRows() {
    for (size_t code = 0; code < std::size(rows); ++code) {
      const Row& row = rows[code];
      const char* const signatures[] = {"(a)", "(a, b)", "(a, b, c)"};
      Registry::global().add({.name = row.name,
                              .signature = std::string(row.name) + signatures[row.arity - 1],
                              .formula = row.formula,
                              .differentiable = row.out == Out::same && row.in != In::integral,
                              .samples =
                                  [code](DType t) {
                                    std::vector<SampleCase> all = samples_of(code, t);
                                    if (rows[code].arity > 1) all.push_back(with_numbers(code, t));
                                    return all;
                                  },
                              .source = "flame/fuse/pointwise.def"});
    }
  }
} const register_rows;

}  // namespace
}  // namespace flame
