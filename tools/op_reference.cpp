// Prints the op reference from the registry, as Markdown: a line per op, so that a new op has one without another file.
// A build writes it to docs/ops.md of the build folder.
#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <vector>

#include "flame/tensor/op.h"

namespace {
// A bar would end the table's cell.
std::string cell(const std::string& text) {
  std::string out;
  for (char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}
}  // namespace

int main() {
  std::vector<flame::OpEntry> ops = flame::Registry::global().entries();
  std::sort(ops.begin(), ops.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  fmt::print("# Ops\n\n{} ops. Every function also takes the caller's line last, by itself.\n\n", ops.size());
  fmt::print("| op | call | value | gradient |\n|---|---|---|---|\n");
  for (const flame::OpEntry& op : ops)
    fmt::print("| {} | `{}` | {} | {} |\n", op.name, cell(op.signature), cell(op.formula),
               op.differentiable ? "yes" : "none");
}
