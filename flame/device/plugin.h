// Internal: how the core finds the CUDA device, which is a library of its own and is loaded when it is first asked for.
#pragma once
#include <string>

namespace flame {

// Loads libflame_cuda.so once and lets it register its devices "cuda:0", "cuda:1", ... Empty, or what is missing.
const std::string& load_cuda_plugin();

// Registers "cuda:dry<arch>", which needs no GPU: it compiles kernels for sm_<arch> (0: none) and runs none.
void add_dry_device(int arch);

}  // namespace flame
