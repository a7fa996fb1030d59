// Loading of libflame_cuda.so: from beside the core library, then by the system's search path. Its hash must be ours.
#include "flame/device/plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstring>

#include "abi_hash.h"

namespace flame {
namespace {

// The folder of this library, with a slash; empty if the system does not say.
std::string own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&open_cuda_device), &info) || !info.dli_fname) return {};
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash + 1);
}

struct Plugin {
  void* library = nullptr;
  std::string missing;
  bool broken = false;  // a file of that name is there
  Plugin() {
    constexpr const char* file = "libflame_cuda.so";
    const std::string beside = own_folder() + file;
    library = dlopen(access(beside.c_str(), F_OK) == 0 ? beside.c_str() : file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      const char* why = dlerror();
      broken = access(beside.c_str(), F_OK) == 0;
      missing = std::string("the plugin libflame_cuda.so cannot be loaded (") + (why ? why : "no reason given") + ")";
      return;
    }
    const auto hash = reinterpret_cast<const char* (*)()>(dlsym(library, "flame_cuda_abi"));
    if (!hash) missing = "libflame_cuda.so is no plugin of FLAME";
    else if (std::strcmp(hash(), FLAME_ABI_HASH) != 0)
      missing = "libflame_cuda.so was built for another FLAME (its ABI hash differs): build both together";
    broken = !missing.empty();
    if (broken) library = nullptr;
  }
};
const Plugin& plugin() {
  static const Plugin one;
  return one;
}

}  // namespace

void* cuda_plugin_function(const char* name, std::string& missing) {
  missing = plugin().missing;
  return plugin().library ? dlsym(plugin().library, name) : nullptr;
}

std::string open_cuda_device(const std::string& name, bool& broken) {
  std::string missing;
  const auto enter =
      reinterpret_cast<const char* (*)(const char*, bool*)>(cuda_plugin_function("flame_cuda_register", missing));
  broken = plugin().broken;
  return enter ? enter(name.c_str(), &broken) : missing;
}

void add_dry_device(int arch) {
  std::string missing;
  if (const auto add = reinterpret_cast<void (*)(int)>(cuda_plugin_function("flame_cuda_dry", missing))) add(arch);
}

}  // namespace flame
