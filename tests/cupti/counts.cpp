// A library of its own, so that tests need neither CUPTI's headers nor the library unless they count with it.
#include "tests/cupti/counts.h"

#include <cupti.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

namespace {

#define FLAME_CUPTI_FUNCTIONS(F)    \
  F(cuptiSubscribe)                 \
  F(cuptiUnsubscribe)               \
  F(cuptiEnableDomain)              \
  F(cuptiActivityRegisterCallbacks) \
  F(cuptiActivityEnable)            \
  F(cuptiActivityDisable)           \
  F(cuptiActivityFlushAll)          \
  F(cuptiActivityGetNextRecord)     \
  F(cuptiGetResultString)

struct Cupti {
#define FLAME_DECLARE(name) decltype(&::name) name;
  FLAME_CUPTI_FUNCTIONS(FLAME_DECLARE)
} cupti;

constexpr CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET,
                                        CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_SYNCHRONIZATION};
CUpti_SubscriberHandle subscriber = nullptr;
std::atomic<uint64_t> allocations, modules, synchronisations, launches, graphs;
std::atomic<uint64_t> host_to_device, device_to_host, other_copies, fills, kernels, waits;
std::string error;
std::mutex queries_mutex;
std::unordered_set<uint32_t> queries;  // calls that ask whether something is done and wait for nothing

bool starts(const char* name, std::initializer_list<const char*> with) {
  for (const char* w : with)
    if (std::strncmp(name, w, std::strlen(w)) == 0) return true;
  return false;
}

void CUPTIAPI called(void*, CUpti_CallbackDomain domain, CUpti_CallbackId, const void* data) {
  const auto* info = static_cast<const CUpti_CallbackData*>(data);
  if (domain != CUPTI_CB_DOMAIN_DRIVER_API || info->callbackSite != CUPTI_API_ENTER) return;
  const char* f = info->functionName;
  if (starts(f,
             {"cuMemAlloc", "cuMemHostAlloc", "cuMemHostRegister", "cuMemCreate", "cuArrayCreate", "cuArray3DCreate"}))
    ++allocations;
  else if (starts(f, {"cuModuleLoad", "cuLibraryLoad", "cuLinkCreate"})) ++modules;
  else if (starts(f, {"cuCtxSynchronize", "cuStreamSynchronize", "cuEventSynchronize"})) ++synchronisations;
  else if (starts(f, {"cuLaunch"})) ++launches;
  else if (starts(f, {"cuGraphLaunch"})) ++graphs;
  else if (starts(f, {"cuEventQuery", "cuStreamQuery"})) {
    std::lock_guard lock(queries_mutex);
    queries.insert(info->correlationId);
  }
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* most_records) {
  *size = size_t{1} << 20;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, *size));
  *most_records = 0;
}
void note(const CUpti_Activity& r) {
  if (r.kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
    const int kind = reinterpret_cast<const CUpti_ActivityMemcpy6&>(r).copyKind;
    ++(kind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD   ? host_to_device
       : kind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? device_to_host
                                                 : other_copies);
  } else if (r.kind == CUPTI_ACTIVITY_KIND_MEMSET) {
    ++fills;
  } else if (r.kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
    ++kernels;
  } else if (r.kind == CUPTI_ACTIVITY_KIND_SYNCHRONIZATION) {
    const auto& s = reinterpret_cast<const CUpti_ActivitySynchronization2&>(r);
    const auto type = s.type;
    std::lock_guard lock(queries_mutex);
    if (queries.erase(s.correlationId) > 0) return;  // CUPTI records these under the same types
    waits += type == CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_EVENT_SYNCHRONIZE ||
             type == CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_SYNCHRONIZE ||
             type == CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_CONTEXT_SYNCHRONIZE;
  }
}
void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  CUpti_Activity* r = nullptr;
  while (cupti.cuptiActivityGetNextRecord(buffer, valid, &r) == CUPTI_SUCCESS) note(*r);
  std::free(buffer);
}

bool failed(CUptiResult r, const char* what) {
  if (r == CUPTI_SUCCESS) return false;
  const char* text = nullptr;
  cupti.cuptiGetResultString(r, &text);
  error = std::string(what) + ": " + (text ? text : "no text");
  return true;
}

void* open_cupti() {
  std::vector<std::string> folders{""};
  for (const char* variable : {static_cast<const char*>(std::getenv("FLAME_CUDA_PATH")), FLAME_CUDA_LIBRARIES}) {
    const std::string all = variable ? variable : "";
    for (size_t at = 0; at < all.size();) {
      const size_t end = std::min(all.find(':', at), all.size());
      folders.push_back(all.substr(at, end - at) + "/");
      at = end + 1;
    }
  }
  for (const char* usual : {"lib64/", "lib/", "extras/CUPTI/lib64/"})
    folders.push_back(std::string("/usr/local/cuda/") + usual);
  for (const std::string& folder : folders)
    for (const char* name : {"libcupti.so.13", "libcupti.so"})
      if (void* l = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL)) return l;
  return nullptr;
}

}  // namespace

extern "C" {

// Counts from now on. Empty, or why it cannot.
[[gnu::visibility("default")]] const char* flame_cupti_start() {
  error.clear();
  void* library = open_cupti();
  if (!library) return "libcupti.so.13 is not there";
#define FLAME_LOAD(name) \
  if (!(cupti.name = reinterpret_cast<decltype(cupti.name)>(dlsym(library, #name)))) return "no function " #name;
  FLAME_CUPTI_FUNCTIONS(FLAME_LOAD)
  if (failed(cupti.cuptiSubscribe(&subscriber, called, nullptr), "cuptiSubscribe") ||
      failed(cupti.cuptiEnableDomain(1, subscriber, CUPTI_CB_DOMAIN_DRIVER_API), "cuptiEnableDomain") ||
      failed(cupti.cuptiActivityRegisterCallbacks(give_buffer, take_buffer), "cuptiActivityRegisterCallbacks"))
    return error.c_str();
  for (const CUpti_ActivityKind k : kinds)
    if (failed(cupti.cuptiActivityEnable(k), "cuptiActivityEnable")) return error.c_str();
  return "";
}
[[gnu::visibility("default")]] void flame_cupti_stop() {
  for (const CUpti_ActivityKind k : kinds) cupti.cuptiActivityDisable(k);
  cupti.cuptiActivityFlushAll(1);
  if (subscriber) cupti.cuptiUnsubscribe(subscriber);
  subscriber = nullptr;
}
// Since the last reset. With `flush`, what the device has done is complete up to its last synchronisation.
[[gnu::visibility("default")]] void flame_cupti_read(flame_cupti_counts* out, bool flush) {
  if (flush) cupti.cuptiActivityFlushAll(1);
  *out = {allocations,  modules, synchronisations, launches, graphs, host_to_device, device_to_host,
          other_copies, fills,   kernels,          waits};
}
[[gnu::visibility("default")]] void flame_cupti_reset() {
  cupti.cuptiActivityFlushAll(1);
  for (auto* c : {&allocations, &modules, &synchronisations, &launches, &graphs, &host_to_device, &device_to_host,
                  &other_copies, &fills, &kernels, &waits})
    *c = 0;
}
}
