// The public face of islands: a switch for comparing, and the reasons they ended.
#pragma once
#include <string>

namespace flame {

// Fusion off: every op is its own launch, with the same bits. Thread-local; on by default.
void set_fusion(bool on);
bool fusion_enabled();

// Why islands ended on this thread since the last call, with counts: "12 x matmul", "1 x host read", "3 x 64 ops".
std::string explain();

}  // namespace flame
