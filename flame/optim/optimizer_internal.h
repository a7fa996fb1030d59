// Internal: an optimizer's algorithm as data, and the state of one optimizer.
#pragma once
#include <optional>

#include "flame/optim/optimizer.h"
#include "flame/optim/update_internal.h"

namespace flame::optim {

inline double flags(std::initializer_list<std::pair<bool, unsigned>> list) {
  unsigned all = 0;
  for (const auto& [on, f] : list) all |= on ? f : 0;
  return all;
}

// A tensor of state that a parameter has, float32 or float64.
struct Moment {
  const char* name;
  std::optional<Shape> shape = {};  // none: the parameter's shape and layout; else contiguous
  double start = 0;
};

struct Rule {
  const char* name;
  std::vector<Moment> (*moments)(const Hyper&, const Shape& parameter);
  UpdateFn (*kernel)(const Hyper&, DType compute);  // null if the plan has its own
  StepNumbers numbers;
  void (*check)(const char* name, const Hyper&, Loc loc);
  Ref<Plan> (*plan)(const char* name, const std::vector<UpdateTensor>& tensors, Device& d,
                    const UpdateWays& ways) = nullptr;  // null: update_plan
};

// What the options of an optimizer stand for: `static constexpr Rule rule` and `static Hyper hyper(const Options&)`.
template <class Options>
struct Algorithm;

template <class Options>
OptimizerOf<Options>::OptimizerOf(const std::vector<Group>& groups, Loc loc)
    : Optimizer(
          Algorithm<Options>::rule,
          [&] {
            std::vector<ParameterGroup<Hyper>> out;
            out.reserve(groups.size());
            for (const Group& g : groups) out.push_back({g.parameters, Algorithm<Options>::hyper(g.options)});
            return out;
          }(),
          loc) {}

// Parts of Rule::check; each throws ValueError.
void check_number(const char* optimizer, const char* what, double number, Loc loc);  // 0 or more
void check_betas(const char* optimizer, const Hyper& h, Loc loc);                    // both in [0, 1)
void check_adam(const char* optimizer, const Hyper& h, Loc loc);                     // lr, betas, eps, weight_decay

// One parameter. Moments are float32, or float64 for a float64 parameter.
struct Slot {
  Parameter parameter;
  size_t group;
  std::vector<Moment> kinds;
  int64_t steps = 0;
  std::array<State, max_moments> moments = {};
};

struct Core {
  // A plan is good for one set of parameters with gradients, the gradients' dtypes, and for clipped or given ones.
  struct CachedPlan {
    std::vector<uint64_t> signature;
    UpdateWays ways;
    std::shared_ptr<const std::vector<size_t>> present;
    Ref<Plan> plan;
  };

  explicit Core(const Rule& r) : rule(r) {}
  const Rule& rule;
  std::vector<Hyper> groups;
  std::vector<Schedule> schedules;  // one a group; may be undefined
  std::vector<Slot> slots;
  int64_t steps = 0;
  std::unique_ptr<UpdateArguments[]> blocks;  // one a slot; kernels read them at launch, so the address stays
  std::unique_ptr<StepOf[]> counts;           // one a slot, of the same kind, for launches that may be skipped
  State skipped;                              // int64, one a slot: how many of its steps a scaler skipped
  bool scaled = false;                        // it may have skipped one
  std::vector<CachedPlan> plans;              // last used first, bounded

  Hyper current(size_t group) const;  // with the schedule applied
  void make_moments(Slot& s, Loc loc);
  void prepare_step(const std::vector<size_t>& present);  // counts the step and fills the blocks
  void undo_step(const std::vector<size_t>& present);
  const CachedPlan& plan_for(const std::vector<uint64_t>& signature, const UpdateWays& ways);
};

}  // namespace flame::optim
