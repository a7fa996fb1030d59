// Loading a module's state: names are matched and shapes checked before the first byte is written.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "flame/core/format.h"
#include "flame/nn/module.h"

namespace flame::nn {
namespace {

// Levenshtein's distance, in one row.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row[b.size()];
}

template <class T>
const std::pair<std::string, T>* nearest(const std::string& name, const std::vector<std::pair<std::string, T>>& among) {
  const std::pair<std::string, T>* best = nullptr;
  size_t distance = std::max<size_t>(3, name.size() / 2 + 1);  // beyond that, a hint only confuses
  for (const auto& candidate : among)
    if (const size_t d = edit_distance(name, candidate.first); d < distance) {
      distance = d;
      best = &candidate;
    }
  return best;
}

// One line a name, "  unknown 'conv1.wieght' [2, 3] (nearest in the module: 'conv1.weight' [2, 3])".
template <class T, class U>
std::string list_names(const char* what, const std::vector<std::pair<std::string, T>>& names, const char* where,
                       const std::vector<std::pair<std::string, U>>& others) {
  constexpr size_t most = 8;
  std::string out;
  for (size_t i = 0; i < std::min(most, names.size()); ++i) {
    out += fmt::format("\n  {} '{}' {}", what, names[i].first, names[i].second.shape());
    if (const auto* hint = nearest(names[i].first, others))
      out += fmt::format(" (nearest {}: '{}' {})", where, hint->first, hint->second.shape());
  }
  if (names.size() > most) out += fmt::format("\n  ... and {} more {}", names.size() - most, what);
  return out;
}

struct Match {
  std::string name;
  State target;
  Tensor source;
};

struct Matching {
  std::vector<Match> matches;
  NamedStates missing;
  NamedTensors unknown;
};

Matching match(const NamedStates& own, const NamedTensors& entries, Loc loc) {
  std::unordered_map<std::string, const Tensor*> given;
  for (const auto& [name, t] : entries)
    if (!given.emplace(name, &t).second)
      fail<ValueError>(loc, "load_state: expected each name once, got '{}' twice", name);
  Matching m;
  for (const auto& [name, state] : own) {
    if (const auto it = given.find(name); it == given.end()) m.missing.emplace_back(name, state);
    else m.matches.push_back({name, state, *it->second});
  }
  std::unordered_set<std::string> known;
  for (const auto& [name, state] : own) known.insert(name);
  for (const auto& [name, t] : entries)
    if (!known.count(name)) m.unknown.emplace_back(name, t);
  return m;
}

// Everything that can fail, before anything is written: shapes, casts, and room for those who share the old bytes.
void prepare(std::vector<Match>& matches, Loc loc) {
  for (const Match& m : matches)
    if (m.source.shape() != m.target.shape())
      fail<ShapeError>(loc, "load_state: '{}' expected shape {}, got {}", m.name, m.target.shape(), m.source.shape());
  for (Match& m : matches) {
    m.source = m.source.detach().to(m.target.device(), loc).to(m.target.dtype(), loc);
    materialize(m.source.value());
  }
  for (const Match& m : matches) m.target.begin_write(loc);
}

}  // namespace

LoadReport Module::load_state(const StateEntries& entries, const LoadOptions& o, Loc loc) {
  const NamedStates own = state_dict();
  Matching m = match(own, entries.list(), loc);
  if (o.strict && (!m.missing.empty() || !m.unknown.empty()))
    fail<ValueError>(loc, "load_state: expected the module's {} names, got {} missing and {} unknown{}{}", own.size(),
                     m.missing.size(), m.unknown.size(), list_names("missing", m.missing, "given", m.unknown),
                     list_names("unknown", m.unknown, "in the module", own));
  prepare(m.matches, loc);
  for (const Match& one : m.matches) one.target.assign(one.source, loc);
  LoadReport report;
  for (const auto& [name, state] : m.missing) report.missing.push_back(name);
  for (const auto& [name, t] : m.unknown) report.unknown.push_back(name);
  return report;
}

}  // namespace flame::nn
