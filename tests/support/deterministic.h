// Results that repeat bit for bit, while one lives.
#pragma once
#include <flame/flame.h>

namespace flame::test {

struct Deterministic {
  Deterministic() { set_deterministic(true); }
  ~Deterministic() { set_deterministic(false); }
};

}  // namespace flame::test
