// Internal: NVIDIA's shared libraries, opened when they are first needed. Their headers give types alone.
#pragma once
#include <initializer_list>
#include <string>

namespace flame::cuda {

// The first of `names` that opens: by the system's search, then in $FLAME_CUDA_PATH, the toolkit's usual folders and those
// of NVIDIA's wheels beside $VIRTUAL_ENV. Null and a reason in `why` if none does.
void* open_library(std::initializer_list<const char*> names, std::string& why);
// As above, but DeviceError names what is missing.
void* need_library(const char* what, std::initializer_list<const char*> names);
// DeviceError if the library has no such function.
void* need_symbol(void* library, const char* name);

}  // namespace flame::cuda
