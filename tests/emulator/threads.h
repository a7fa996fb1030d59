// The threads of a block, run by turns on one thread of the host: each goes on until it meets others, a warp after another.
#pragma once
#include <string>

#include "tests/emulator/module.h"

namespace flame::emulated {

// Runs every block of the grid that `context` names, one after another. What goes wrong, in words, or nothing: a meeting to which
// some never come, lanes that meet for different things, a trap, or an access of memory that is not there.
std::string run_grid(flame_emulated::Context& context, const flame_emulated::Entry& kernel,
                     const unsigned char* arguments);

}  // namespace flame::emulated
