// Prints the op reference from the registry, as Markdown: a line per op, so that a new op has one without another file.
// A build writes it to docs/ops.md of the build folder; `make docs` takes it into the sources.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <vector>

#include "flame/flame.h"
#include "flame/tensor/op.h"

using namespace flame;

namespace {

// A bar would end the table's cell.
std::string cell(const std::string& text) {
  std::string out;
  for (char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

bool has_float(const SampleCase& c) {
  return std::any_of(c.inputs.begin(), c.inputs.end(), [](const Tensor& x) { return is_float(x.dtype()); });
}

// With the floating inputs in `t`, or all of them where none is.
bool runs(const SampleCase& c, DType t) {
  std::vector<Tensor> in;
  for (const Tensor& x : c.inputs) in.push_back(is_float(x.dtype()) || !has_float(c) ? x.to(t) : x);
  try {
    for (const Tensor& y : c.fn(in)) y.data();
    return true;
  } catch (const DTypeError&) { return false; } catch (const NotImplemented&) {
    return false;
  }
}

// The dtypes that the op's own samples run in: all of them, or their names.
std::string dtypes(const OpEntry& op) {
  std::vector<std::string_view> names;
  for (DType t : all_dtypes) {
    const std::vector<SampleCase> samples = op.samples(is_float(t) ? t : DType::f32);
    auto chosen = std::find_if(samples.begin(), samples.end(), has_float);
    if (chosen == samples.end()) chosen = samples.begin();
    if (chosen->inputs.empty()) return "its own";
    if (runs(*chosen, t)) names.push_back(name_of(t));
  }
  if (names.size() == num_dtypes) return "all";
  const auto floats = std::count_if(names.begin(), names.end(), [](auto n) { return n.find("float") != n.npos; });
  if (floats == 4 && names.size() == 4) return "floating";
  if (names.size() == num_dtypes - 1 && names.front() != "bool") return "all but bool";
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

int main() {
  std::vector<OpEntry> ops = Registry::global().entries();
  std::sort(ops.begin(), ops.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  fmt::print(
      "# Ops\n\n{} ops, made from the registry by `make docs`. Every function also takes the caller's line last, "
      "by itself.\n\n"
      "- **dtypes**: those of the op's inputs that it computes in; integers given to a floating op become "
      "float32.\n"
      "- **derivatives**: of every order, since gradients are written in the same ops, or none, in which case "
      "asking for one throws `NotDifferentiable`.\n"
      "- Every op runs on the CPU and is deterministic there; matrix products and convolutions may round otherwise "
      "with "
      "another number of threads, all others do not. Random ops are a function of their generator's seed and call "
      "number.\n\n",
      ops.size());
  fmt::print("| op | call | value | dtypes | derivatives | source |\n|---|---|---|---|---|---|\n");
  for (const OpEntry& op : ops)
    fmt::print("| {} | `{}` | {} | {} | {} | [{}](../{}) |\n", op.name, cell(op.signature), cell(op.formula),
               dtypes(op), op.differentiable ? "every order" : "none", op.source.substr(op.source.rfind('/') + 1),
               op.source);
}
