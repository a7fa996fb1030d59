// The plugin's door: C functions that the core looks up by name.
#include <charconv>
#include <map>
#include <mutex>

#include "abi_hash.h"
#include "flame/core/format.h"
#include "flame/device/cuda/cuda_device.h"

using namespace flame;

namespace {

struct Answer {
  std::string missing;
  bool broken = false;  // a GPU is there that should work
};

// Opens the GPU once; a failure stays.
Answer open_gpu(std::string_view name) {
  constexpr std::string_view prefix = "cuda:";
  int ordinal = -1;
  const std::string_view digits = name.substr(std::min(prefix.size(), name.size()));
  if (const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), ordinal);
      error != std::errc() || end != digits.data() + digits.size() || ordinal < 0)
    return {fmt::format("'{}' names no GPU", name)};
  Answer a;
  const cuda::Driver* d = cuda::find_driver(a.missing, &a.broken);
  if (!d) return a;
  int count = 0;
  if (const CUresult r = d->cuDeviceGetCount(&count); r != CUDA_SUCCESS) return {cuda::describe(r), true};
  if (count == 0) return {"the NVIDIA driver sees no GPU"};
  if (ordinal >= count) return {fmt::format("there are {} GPUs, cuda:0 to cuda:{}", count, count - 1)};
  try {
    register_device(std::make_unique<cuda::CudaDevice>(ordinal));
  } catch (const std::exception& e) { return {e.what(), true}; }
  return {};
}

}  // namespace

extern "C" {

[[gnu::visibility("default")]] const char* flame_cuda_abi() { return FLAME_ABI_HASH; }

// Registers the GPU of that name; others stay untouched. Empty, or what is missing; `broken` says whether it should be there.
[[gnu::visibility("default")]] const char* flame_cuda_register(const char* name, bool* broken) {
  static std::mutex mutex;
  static std::map<std::string, Answer> answers;
  std::lock_guard lock(mutex);
  const auto it = answers.find(name);
  const Answer& a = (it != answers.end() ? it : answers.emplace(name, open_gpu(name)).first)->second;
  *broken = a.broken;
  return a.missing.c_str();
}
}
