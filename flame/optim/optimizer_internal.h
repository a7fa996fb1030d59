// Internal: an optimizer's algorithm as data, and the state of one optimizer.
#pragma once
#include <array>

#include "flame/optim/optimizer.h"
#include "flame/optim/update_internal.h"

namespace flame::optim {

// A group's numbers, in the order in which they are saved. SGD reads beta1 as momentum and beta2 as dampening.
struct Hyper {
  double lr = 0, weight_decay = 0, beta1 = 0, beta2 = 0, eps = 0;
  double flag = 0;  // Adam: decay is decoupled; SGD: nesterov
};
inline constexpr int hyper_size = 6;
static_assert(sizeof(Hyper) == hyper_size * sizeof(double));

inline constexpr int max_moments = 2;

struct Rule {
  const char* name;
  std::array<const char*, max_moments> moment_names;
  int (*moments)(const Hyper&);                                         // how many a parameter of the group has
  UpdateFn (*kernel)(const Hyper&, DType compute);                      // float32 or float64
  void (*prepare)(const Hyper&, int64_t step, UpdateArguments& block);  // step counts from 1
  void (*check)(const Hyper&, Loc loc);
};

// One parameter. Moments are float32, or float64 for a float64 parameter, in the parameter's layout.
struct Slot {
  Parameter parameter;
  size_t group;
  int64_t steps = 0;
  std::array<State, max_moments> moments = {};
};

struct Core {
  // A plan is good for one set of parameters with gradients, and the gradients' dtypes.
  struct CachedPlan {
    std::vector<uint64_t> signature;
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
  std::vector<CachedPlan> plans;              // last used first, bounded

  Hyper current(size_t group) const;  // with the schedule applied
  void make_moments(Slot& s, Loc loc);
  void prepare_step(const std::vector<size_t>& present);  // counts the step and fills the blocks
  void undo_step(const std::vector<size_t>& present);
  const CachedPlan& plan_for(const std::vector<uint64_t>& signature);
};

}  // namespace flame::optim
