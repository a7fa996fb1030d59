// Internal: how the core finds the CUDA device, which is a library of its own and is loaded when it is first asked for.
#pragma once
#include <string>

namespace flame {

// Has libflame_cuda.so register the GPU of that name, "cuda:0" or "cuda:1". Empty, or what is missing; `broken`: it is there
// and should work.
std::string open_cuda_device(const std::string& name, bool& broken);

// A C function of libflame_cuda.so; null, and in `missing` why, if the plugin cannot be loaded.
void* cuda_plugin_function(const char* name, std::string& missing);

// Registers "cuda:dry<arch>", which needs no GPU: it compiles kernels for sm_<arch> (0: none) and runs none.
void add_dry_device(int arch);

}  // namespace flame
