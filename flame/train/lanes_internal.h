// Internal: which launches of a recorded step may run beside each other, by the memory that they read and write.
#pragma once
#include <cstdint>
#include <vector>

namespace flame {

struct Access {
  uintptr_t from, to;  // bytes [from, to)
  bool write;
};
using Accesses = std::vector<Access>;

// Each part has a lane, in which it follows the part before it, and waits for parts of other lanes besides.
struct Lanes {
  std::vector<uint32_t> lane;
  std::vector<std::vector<uint32_t>> after;
};
// Every part comes behind all earlier ones that write what it touches, or touch what it writes. At most `count` lanes.
Lanes lanes_of(const std::vector<Accesses>& parts, uint32_t count);

}  // namespace flame
