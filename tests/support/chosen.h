// FLAME_OPS=name,name limits the loops over all ops to these; the claims about all of them then do not hold.
#pragma once
#include <cstdlib>
#include <string>

namespace flame::test {

inline bool all_ops() { return !std::getenv("FLAME_OPS"); }
inline bool chosen(const std::string& op) {
  const char* ops = std::getenv("FLAME_OPS");
  return !ops || ("," + std::string(ops) + ",").find("," + op + ",") != std::string::npos;
}

}  // namespace flame::test
