// An optimizer's state as named tensors, and back. Loading checks every entry before it writes the first.
#include <cstring>
#include <map>

#include "flame/core/format.h"
#include "flame/ops/create.h"
#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::string moment_name(const Core& c, size_t slot, size_t k) {
  return fmt::format("{}.{}", slot, c.slots[slot].kinds[k].name);
}

using Entries = std::map<std::string, Tensor>;

Tensor take(Entries& entries, const Core& c, const std::string& name, DType dtype, const Shape& shape, Loc loc) {
  const auto it = entries.find(name);
  if (it == entries.end()) fail<ValueError>(loc, "{}: load_state expected an entry '{}', got none", c.rule.name, name);
  const Tensor t = it->second;
  if (t.shape() != shape)
    fail<ShapeError>(loc, "{}: load_state expected '{}' of shape {}, got {}", c.rule.name, name, shape, t.shape());
  if (t.dtype() != dtype)
    fail<DTypeError>(loc, "{}: load_state expected '{}' of {}, got {}", c.rule.name, name, dtype, t.dtype());
  entries.erase(it);
  return t.detach();
}

struct MomentLoad {
  size_t slot, k;
  Tensor source;
};

// Moments named in the entries; a slot that has taken steps must have all of its own.
std::vector<MomentLoad> match_moments(const Core& c, Entries& entries, const std::vector<int64_t>& steps, Loc loc) {
  std::vector<MomentLoad> out;
  for (size_t i = 0; i < c.slots.size(); ++i) {
    const Slot& s = c.slots[i];
    for (size_t k = 0; k < s.kinds.size(); ++k) {
      const std::string name = moment_name(c, i, k);
      if (steps[i + 1] == 0 && !entries.count(name)) continue;
      Tensor t = take(entries, c, name, compute_dtype(s.parameter.dtype()),
                      s.kinds[k].shape.value_or(s.parameter.shape()), loc);
      out.push_back({i, k, t.to(s.parameter.device(), loc)});
    }
  }
  return out;
}

}  // namespace

std::vector<std::pair<std::string, Tensor>> Optimizer::state_dict() const {
  const Core& c = *core_;
  std::vector<int64_t> steps{c.steps};
  const std::vector<int64_t> skipped =
      c.scaled ? c.skipped.tensor().to_vector<int64_t>() : std::vector<int64_t>(c.slots.size());
  for (size_t i = 0; i < c.slots.size(); ++i) steps.push_back(c.slots[i].steps - skipped[i]);
  std::vector<double> options(c.groups.size() * hyper_size);
  std::memcpy(options.data(), c.groups.data(), options.size() * sizeof(double));
  const int64_t groups = static_cast<int64_t>(c.groups.size());
  std::vector<std::pair<std::string, Tensor>> out;
  out.emplace_back("steps", Tensor::from(steps, {static_cast<int64_t>(steps.size())}, cpu()));
  out.emplace_back("options", Tensor::from(options, {groups, hyper_size}, cpu()));
  for (size_t i = 0; i < c.slots.size(); ++i)
    for (size_t k = 0; k < c.slots[i].kinds.size(); ++k)
      if (c.slots[i].moments[k].defined()) out.emplace_back(moment_name(c, i, k), c.slots[i].moments[k].tensor());
  return out;
}

void Optimizer::load_state(const std::vector<std::pair<std::string, Tensor>>& list, Loc loc) {
  Core& c = *core_;
  Entries entries;
  for (const auto& [name, t] : list)
    if (!entries.emplace(name, t).second)
      fail<ValueError>(loc, "{}: load_state expected '{}' once, got it twice", c.rule.name, name);

  const int64_t slots = static_cast<int64_t>(c.slots.size()), groups = static_cast<int64_t>(c.groups.size());
  const auto steps = take(entries, c, "steps", DType::i64, {slots + 1}, loc).to_vector<int64_t>(loc);
  const auto numbers = take(entries, c, "options", DType::f64, {groups, hyper_size}, loc).to_vector<double>(loc);
  std::vector<Hyper> hypers(c.groups.size());
  std::memcpy(static_cast<void*>(hypers.data()), numbers.data(), numbers.size() * sizeof(double));
  for (size_t g = 0; g < hypers.size(); ++g) {
    c.rule.check(c.rule.name, hypers[g], loc);
    if (c.rule.moments(hypers[g], {}).size() != c.rule.moments(c.groups[g], {}).size() ||
        hypers[g].flags != c.groups[g].flags)
      fail<ValueError>(loc, "{}: load_state expected options of the same variant for group {}, got another",
                       c.rule.name, g);
  }
  for (const int64_t n : steps)
    if (n < 0) fail<ValueError>(loc, "{}: load_state expected step counts of 0 or more, got {}", c.rule.name, n);
  const std::vector<MomentLoad> moments = match_moments(c, entries, steps, loc);
  if (!entries.empty())
    fail<ValueError>(loc, "{}: load_state expected no entry '{}' among {} of {} parameters", c.rule.name,
                     entries.begin()->first, list.size(), slots);

  for (const MomentLoad& m : moments) {
    c.make_moments(c.slots[m.slot], loc);
    c.slots[m.slot].moments[m.k].begin_write(loc);
    materialize(m.source.value());
  }
  if (std::exchange(c.scaled, false)) c.skipped.assign(zeros_like(c.skipped.tensor(), loc), loc);
  for (const MomentLoad& m : moments) c.slots[m.slot].moments[m.k].assign(m.source, loc);
  for (size_t i = 0; i < c.slots.size(); ++i) c.slots[i].steps = steps[i + 1];
  c.steps = steps[0];
  c.groups = hypers;
}

}  // namespace flame::optim
