// The search for NVIDIA's libraries.
#include "flame/device/cuda/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <vector>

#include "flame/core/format.h"

namespace flame::cuda {
namespace {

std::vector<std::string> folders() {
  std::vector<std::string> out;
  if (const char* path = std::getenv("FLAME_CUDA_PATH")) {
    const std::string all = path;
    for (size_t at = 0; at <= all.size();) {
      const size_t end = std::min(all.find(':', at), all.size());
      if (end > at) out.push_back(all.substr(at, end - at));
      at = end + 1;
    }
  }
  for (const char* usual : {FLAME_CUDA_LIBRARIES, "/usr/local/cuda/lib64", "/usr/local/cuda/lib",
                            "/usr/local/cuda/extras/CUPTI/lib64", "/usr/lib/x86_64-linux-gnu"})
    out.emplace_back(usual);
  return out;
}

}  // namespace

void* open_library(std::initializer_list<const char*> names, std::string& why) {
  for (const char* name : names) {  // the version built for first, wherever it is
    if (void* l = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return l;
    if (why.empty()) why = dlerror();
    for (const std::string& folder : folders())
      if (void* l = dlopen((folder + "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL)) return l;
  }
  return nullptr;
}

void* need_library(const char* what, std::initializer_list<const char*> names) {
  std::string why;
  if (void* l = open_library(names, why)) return l;
  fail<DeviceError>(Loc::current(), "cuda: {} is missing ({}); set FLAME_CUDA_PATH to its folder", what, why);
}

void* need_symbol(void* library, const char* name) {
  if (void* p = dlsym(library, name)) return p;
  fail<DeviceError>(Loc::current(), "cuda: a library is too old: it has no function {}", name);
}

}  // namespace flame::cuda
