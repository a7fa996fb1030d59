// The table of a module's layers.
#include <algorithm>
#include <array>
#include <unordered_set>

#include "flame/core/format.h"
#include "flame/nn/walk_internal.h"

namespace flame::nn {
namespace {

std::string with_commas(int64_t n) {
  std::string s = std::to_string(n);
  for (size_t i = s.size(); i > 3;) s.insert(i -= 3, ",");
  return s;
}

using Row = std::array<std::string, 4>;

std::string table(const std::vector<Row>& rows) {
  std::array<size_t, 4> width{};
  for (const Row& r : rows)
    for (size_t i = 0; i < r.size(); ++i) width[i] = std::max(width[i], r[i].size());
  std::string out;
  for (const Row& r : rows)
    out +=
        fmt::format("{:<{}}  {:<{}}  {:<{}}  {:>{}}\n", r[0], width[0], r[1], width[1], r[2], width[2], r[3], width[3]);
  return out;
}

}  // namespace

std::string Module::summary() const {
  std::vector<Row> rows{{"layer", "kind", "parameters", "count"}};
  int64_t total = 0, trained = 0;
  std::unordered_set<const void*> seen;
  walk("", [&](const std::string& prefix, const Module& m) {
    if (m.params_.empty() && m.buffers_.empty() && !m.children_.empty()) return;  // only holds others
    std::string shapes;
    int64_t count = 0;
    for (const auto& [name, p] : m.params_) {
      shapes += fmt::format("{}{} {}", shapes.empty() ? "" : ", ", name, p->shape());
      if (!seen.insert(p->id()).second) continue;  // shared with a module above
      count += p->numel();
      if (p->requires_grad()) trained += p->numel();
    }
    total += count;
    rows.push_back({prefix.empty() ? "(self)" : prefix.substr(0, prefix.size() - 1), m.kind(),
                    shapes.empty() ? "-" : shapes, with_commas(count)});
  });
  rows.push_back({"total", "", trained == total ? "" : with_commas(trained) + " trained", with_commas(total)});
  return table(rows);
}

}  // namespace flame::nn
