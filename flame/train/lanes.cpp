// A list scheduler: parts in their order, each in the lane where it can start first, all parts taken as equally long.
#include "flame/train/lanes_internal.h"

#include <algorithm>
#include <cstddef>

namespace flame {

namespace {

bool meet(const Accesses& a, const Accesses& b) {
  for (const Access& x : a)
    for (const Access& y : b)
      if ((x.write || y.write) && x.from < y.to && y.from < x.to) return true;
  return false;
}

constexpr ptrdiff_t none = -1;

}  // namespace

Lanes lanes_of(const std::vector<Accesses>& parts, uint32_t count) {
  Lanes out;
  out.after.resize(parts.size());
  std::vector<std::vector<ptrdiff_t>> lanes(count);                                       // their parts
  std::vector<std::vector<ptrdiff_t>> known(count, std::vector<ptrdiff_t>(count, none));  // what a lane has waited for
  std::vector<int64_t> finish(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    std::vector<ptrdiff_t> needed(count, none);  // the last one of each lane
    int64_t ready = 0;
    ptrdiff_t latest = none;
    for (uint32_t l = 0; l < count; ++l) {
      const auto& lane = lanes[l];
      const auto it = std::find_if(lane.rbegin(), lane.rend(),
                                   [&](ptrdiff_t j) { return meet(parts[i], parts[static_cast<size_t>(j)]); });
      if (it == lane.rend()) continue;
      needed[l] = *it;
      latest = std::max(latest, *it);
      ready = std::max(ready, finish[static_cast<size_t>(*it)]);
    }
    uint32_t best = 0;
    int64_t best_start = -1;
    for (uint32_t l = 0; l < count; ++l) {
      const int64_t start = std::max(ready, lanes[l].empty() ? 0 : finish[static_cast<size_t>(lanes[l].back())]);
      const bool follows = latest != none && needed[l] == latest;
      if (best_start < 0 || start < best_start || (start == best_start && follows)) best = l, best_start = start;
    }
    for (uint32_t l = 0; l < count; ++l) {
      if (l == best || needed[l] <= known[best][l]) continue;
      out.after[i].push_back(static_cast<uint32_t>(needed[l]));
      known[best][l] = needed[l];
    }
    finish[i] = best_start + 1;
    out.lane.push_back(best);
    lanes[best].push_back(static_cast<ptrdiff_t>(i));
  }
  return out;
}

}  // namespace flame
