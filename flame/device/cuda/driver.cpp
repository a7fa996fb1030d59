// Loading of the driver.
#include "flame/device/cuda/driver.h"

#include <dlfcn.h>

#include "flame/core/format.h"

namespace flame::cuda {
namespace {

struct Loaded {
  Driver functions{};
  std::string missing;
  bool broken = false;
  Loaded() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      missing = fmt::format("the NVIDIA driver is missing ({})", dlerror());
      return;
    }
// The headers rename functions by version, so the name is expanded before it is quoted.
#define FLAME_QUOTE(name) #name
#define FLAME_LOAD(name)                                                                          \
  functions.name = reinterpret_cast<decltype(functions.name)>(dlsym(library, FLAME_QUOTE(name))); \
  if (!functions.name && missing.empty()) missing = "the NVIDIA driver is too old: it has no " FLAME_QUOTE(name);
    FLAME_DRIVER_FUNCTIONS(FLAME_LOAD)
    broken = !missing.empty();
    if (broken) return;
    if (const CUresult r = functions.cuInit(0); r != CUDA_SUCCESS) {
      const char* name = nullptr;
      functions.cuGetErrorName(r, &name);
      missing = fmt::format("the NVIDIA driver does not start ({})", name ? name : "no name");
      broken = r != CUDA_ERROR_NO_DEVICE && r != CUDA_ERROR_STUB_LIBRARY;
    }
  }
};
const Loaded& loaded() {
  static const Loaded all;
  return all;
}

}  // namespace

const Driver* find_driver(std::string& missing, bool* broken) {
  missing = loaded().missing;
  if (broken) *broken = loaded().broken;
  return missing.empty() ? &loaded().functions : nullptr;
}
const Driver& driver() {
  if (!loaded().missing.empty()) fail<DeviceError>(Loc::current(), "cuda: {}", loaded().missing);
  return loaded().functions;
}
std::string describe(CUresult r) {
  const char *name = nullptr, *text = nullptr;
  driver().cuGetErrorName(r, &name);
  driver().cuGetErrorString(r, &text);
  return fmt::format("{} ({})", name ? name : "unknown error", text ? text : "no text");
}

}  // namespace flame::cuda
