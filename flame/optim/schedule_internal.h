// Internal: the checks that schedules share. Each throws ValueError.
#pragma once
#include "flame/core/error.h"

namespace flame::optim {

void check_rate(const char* who, const char* what, double rate, Loc loc);  // finite, 0 or more
void check_steps(const char* who, int64_t steps, Loc loc);                 // 1 or more

}  // namespace flame::optim
