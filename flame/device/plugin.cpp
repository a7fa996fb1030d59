// Loading of libflame_cuda.so: from beside the core library, then by the system's search path. Its hash must be ours.
#include "flame/device/plugin.h"

#include <dlfcn.h>

#include <cstring>

#include "abi_hash.h"

namespace flame {
namespace {

// The folder of this library, with a slash; empty if the system does not say.
std::string own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&load_cuda_plugin), &info) || !info.dli_fname) return {};
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash + 1);
}

void* library = nullptr;

std::string load() {
  constexpr const char* file = "libflame_cuda.so";
  library = dlopen((own_folder() + file).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* why = dlerror();
    return std::string("the plugin libflame_cuda.so cannot be loaded (") + (why ? why : "no reason given") + ")";
  }
  const auto hash = reinterpret_cast<const char* (*)()>(dlsym(library, "flame_cuda_abi"));
  const auto enter = reinterpret_cast<const char* (*)()>(dlsym(library, "flame_cuda_register"));
  if (!hash || !enter) return "libflame_cuda.so is no plugin of FLAME";
  if (std::strcmp(hash(), FLAME_ABI_HASH) != 0)
    return "libflame_cuda.so was built for another FLAME (its ABI hash differs): build both together";
  return enter();
}

}  // namespace

const std::string& load_cuda_plugin() {
  static const std::string missing = load();
  return missing;
}

void add_dry_device(int arch) {
  load_cuda_plugin();
  if (const auto add = library ? reinterpret_cast<void (*)(int)>(dlsym(library, "flame_cuda_dry")) : nullptr) add(arch);
}

}  // namespace flame
