// The checked launcher, the plan cache, the device list and the counters.
#include "flame/device/device.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "flame/core/format.h"
#include "flame/device/counters.h"
#include "flame/device/cpu/cpu_device.h"
#include "flame/device/device_scope.h"
#include "flame/device/planted.h"
#include "flame/device/kernel.h"
#include "flame/device/plugin.h"
#include "flame/device/recorder.h"
#include "flame/device/settle.h"

namespace flame {

Counters& counters() {
  static Counters all;
  return all;
}
Stats stats() {
  const Counters& c = counters();
  return {c.launches,    c.island_launches, c.island_ops,       c.pointwise_ops, c.plans_prepared, c.system_allocations,
          c.host_copies, c.replays,         c.recording_misses, c.device_copies, c.uploads,        c.graph_launches};
}

namespace {
std::atomic<uint64_t> next_storage_id{1};
thread_local Recorder* recorder = nullptr;
thread_local Device* scoped_device = nullptr;
thread_local MemoryKind kind_of_allocation = MemoryKind::tensor;
std::atomic<int64_t> fail_after{0};
std::atomic<bool> deterministic_plans{false};

void* allocate(Device& d, size_t bytes, Loc where, MemoryKind kind) {
  struct Scope {
    MemoryKind before;
    explicit Scope(MemoryKind k) : before(std::exchange(kind_of_allocation, k)) {}
    ~Scope() { kind_of_allocation = before; }
  } const scope(kind);
  return d.allocate(bytes, where);
}
}  // namespace

namespace {
std::atomic<void (*)()> settle_hook{nullptr};
}  // namespace
void set_settle_hook(void (*hook)()) { settle_hook = hook; }
void settle_launches() {
  if (auto* const hook = settle_hook.load(std::memory_order_acquire)) hook();
}

void fail_allocation(int64_t n) { fail_after = n; }
int64_t allocations_until_failure() { return fail_after; }
bool allocation_fails() { return fail_after.load(std::memory_order_relaxed) > 0 && fail_after.fetch_sub(1) == 1; }
MemoryKind allocation_kind() { return kind_of_allocation; }
void set_deterministic(bool on) { deterministic_plans = on; }
bool deterministic() { return deterministic_plans; }

Storage::Storage(Device& device, size_t bytes, Loc where, MemoryKind kind)
    : device_(device),
      data_(allocate(device, bytes, where, kind)),
      bytes_(bytes),
      id_(next_storage_id.fetch_add(1, std::memory_order_relaxed)) {
  if (recorder) recorder->storage_made(id_);
}
Storage::Storage(Device& device, void* data, size_t bytes, std::function<void()> release)
    : device_(device),
      data_(data),
      bytes_(bytes),
      id_(next_storage_id.fetch_add(1, std::memory_order_relaxed)),
      release_(std::move(release)) {}
Storage::~Storage() {
  if (recorder && recorder->made_here(id_)) recorder->storage_gone(id_);
  if (release_) release_();
  else device_.deallocate(data_, bytes_);
}

void Key::put(const void* data, size_t n) {
  if (size_ + n > inline_.size()) {
    if (spill_.empty()) spill_.assign(inline_.data(), size_);
    spill_.append(static_cast<const char*>(data), n);
  } else {
    std::memcpy(inline_.data() + size_, data, n);
  }
  size_ += n;
}

uint64_t Key::hash() const {
  const std::string_view b = bytes();
  uint64_t h = 0x9e3779b97f4a7c15ull ^ b.size();
  const auto mix = [&](uint64_t w) {
    h = (h ^ w) * 0xff51afd7ed558ccdull;
    h ^= h >> 32;
  };
  size_t i = 0;
  for (; i + 8 <= b.size(); i += 8) {
    uint64_t w;
    std::memcpy(&w, b.data() + i, 8);
    mix(w);
  }
  uint64_t tail = 0;
  std::memcpy(&tail, b.data() + i, b.size() - i);
  mix(tail);
  return h;
}

Meta kept_meta(Activation a, const Meta& c) {
  if (a != Activation::relu) return contiguous_meta(c.dtype, c.shape);
  return contiguous_meta(DType::u8, {c.shape[0], (c.shape[1] + 127) / 128 * 16});
}

struct PlanCache::Impl {
  struct Entry {
    std::string bytes;
    Ref<Plan> plan;
  };
  std::shared_mutex mutex;
  std::unordered_multimap<uint64_t, Entry> map;

  Ref<Plan> find(uint64_t h, std::string_view bytes) {
    const auto [first, last] = map.equal_range(h);
    for (auto it = first; it != last; ++it)
      if (it->second.bytes == bytes) return it->second.plan;
    return {};
  }
};
PlanCache::PlanCache() : impl_(std::make_unique<Impl>()) {}
PlanCache::~PlanCache() = default;

Ref<Plan> PlanCache::get(const Key& key, const std::function<Ref<Plan>()>& make) {
  const uint64_t h = key.hash();
  {
    std::shared_lock lock(impl_->mutex);
    if (Ref<Plan> p = impl_->find(h, key.bytes())) return p;
  }
  Ref<Plan> made = make();
  counters().plans_prepared += 1;
  std::unique_lock lock(impl_->mutex);
  if (Ref<Plan> p = impl_->find(h, key.bytes())) return p;  // another thread was faster
  impl_->map.emplace(h, Impl::Entry{std::string(key.bytes()), made});
  return made;
}
size_t PlanCache::size() const {
  std::shared_lock lock(impl_->mutex);
  return impl_->map.size();
}
void PlanCache::clear() {
  std::unique_lock lock(impl_->mutex);
  impl_->map.clear();
}

Device::Device(Kind kind, std::string name) : kind_(kind), name_(std::move(name)) {}
Device::~Device() = default;

void Device::copy_within(void* dst, const void* src, size_t bytes) {
  if (bytes) std::memcpy(dst, src, bytes);
}
void Device::fill_bytes(void* dst, int byte, size_t bytes) {
  if (bytes) std::memset(dst, byte, bytes);
}
void Device::copy_from_device(void* dst, Device& from, const void* src, size_t bytes) {
  std::vector<char> staging(bytes);
  from.copy_to_host(staging.data(), src, bytes);
  copy_from_host(dst, staging.data(), bytes);
}
Upload Device::upload(const void* src, size_t bytes, Loc where) {
  Upload u{make_ref<Storage>(*this, bytes, where), [] {}};
  copy_from_host(u.storage->data(), src, bytes);
  return u;
}
void Device::set_memory_limit(size_t) {
  fail<NotImplemented>(Loc::current(), "set_memory_limit: the memory of {} has no limit of its own", name_);
}
Ref<Kernel> Device::kernel(const KernelDesc& d) {
  fail<NotImplemented>(Loc::current(), "{}: {} takes no kernels from text", d.name, name_);
}
Ref<Plan> Device::attention(const AttentionDesc&) { return {}; }

void Device::launch(const Launch& l, Loc where) {
  constexpr size_t few = 24;
  void* small[few];
  std::vector<void*> large;
  const size_t n = l.reads.size() + l.writes.size();
  void** pointers = small;
  if (n > few) {
    large.resize(n);
    pointers = large.data();
  }
  size_t i = 0;
  for (const Buffer& b : l.reads) pointers[i++] = static_cast<char*>(b.storage->data()) + b.offset;
  for (const Buffer& b : l.writes) pointers[i++] = static_cast<char*>(b.storage->data()) + b.offset;
  Ref<Storage> workspace;
  if (l.plan->workspace) workspace = make_ref<Storage>(*this, l.plan->workspace, where, MemoryKind::workspace);
  counters().launches += 1;
  run(*l.plan, l, Run{pointers, l.scalars.data(), workspace ? workspace->data() : nullptr});
  if (Recorder* r = Recorder::current()) r->note(l, where);
}

Ref<LaunchGraph> Device::capture(const GraphDesc&) { return {}; }
void Device::replay(const Launch& l, const Run& r, bool counted) {
  if (counted) counters().launches += 1;
  run(*l.plan, l, r);
}

Recorder::Recorder() : first_id(next_storage_id.load(std::memory_order_relaxed)), previous_(recorder) {
  recorder = this;
}
Recorder::~Recorder() { recorder = previous_; }
Recorder* Recorder::current() { return recorder && !recorder->paused_ ? recorder : nullptr; }
Recorder::Pause::Pause() : recorder_(current()) {
  if (recorder_) recorder_->paused_ = true;
}
Recorder::Pause::~Pause() {
  if (recorder_) recorder_->paused_ = false;
}

void Recorder::guard(const void* subject, const char* what, std::function<bool()> holds) {
  if (std::find(guarded_.begin(), guarded_.end(), subject) != guarded_.end()) return;
  guarded_.push_back(subject);
  guards.push_back({std::move(holds), what});
}
void Recorder::before_replay(const void* subject, std::function<void()> fn) {
  if (prepares(subject)) return;
  prepared_.push_back(subject);
  preparations.push_back(std::move(fn));
}

void Recorder::note(const Launch& l, Loc where) {
  RecordedLaunch r{l.plan, {}, static_cast<uint32_t>(l.reads.size()), {l.scalars.begin(), l.scalars.end()}, where};
  const auto add = [&](const Buffer& b) {
    r.buffers.push_back({b.storage->id(), b.storage->bytes(), b.offset});
    if (!made_here(b.storage->id())) {
      for (const Ref<Storage>& s : outside)
        if (s.get() == b.storage) return;
      outside.push_back(Ref<Storage>(b.storage));
    }
    Device& on = b.storage->device();
    if (device && device != &on && !refused) refused = "the step runs on two devices";
    device = &on;
  };
  for (const Buffer& b : l.reads) add(b);
  for (const Buffer& b : l.writes) add(b);
  launches.push_back(std::move(r));
}

namespace {
struct DeviceList {
  std::mutex mutex;
  std::vector<std::unique_ptr<Device>> devices;
  std::atomic<Device*> chosen{nullptr};
};
DeviceList& list() {
  static DeviceList* all = new DeviceList;  // never destroyed: tensors in static objects may outlive it
  return *all;
}
}  // namespace

Device& cpu() {
  static CpuDevice* d = new CpuDevice;  // never destroyed, as above
  return *d;
}
Device& default_device() {
  if (scoped_device) return *scoped_device;
  Device* d = list().chosen.load(std::memory_order_acquire);
  return d ? *d : cpu();
}
void set_default_device(Device& d) { list().chosen.store(&d, std::memory_order_release); }
DeviceScope::DeviceScope(Device& d) : before_(std::exchange(scoped_device, &d)) {}
DeviceScope::~DeviceScope() { scoped_device = before_; }
namespace {
Device* registered(std::string_view name) {
  std::lock_guard lock(list().mutex);
  for (const auto& d : list().devices)
    if (d->name() == name) return d.get();
  return nullptr;
}
}  // namespace

Device& device(std::string_view name) {
  if (name == "cpu") return cpu();
  const std::string wanted(name == "cuda" || name == "auto" ? "cuda:0" : name);
  if (Device* d = registered(wanted)) return *d;
  if (wanted.starts_with("cuda:dry")) {
    add_dry_device(std::atoi(wanted.c_str() + 8));
    if (Device* d = registered(wanted)) return *d;
  }
  if (wanted.starts_with("cuda:")) {
    bool broken = false;
    const std::string missing = open_cuda_device(wanted, broken);
    if (Device* d = registered(wanted)) return *d;
    if (name == "auto" && !broken) return cpu();
    if (name == "auto")
      fail<DeviceError>(Loc::current(), "device: 'auto' found a GPU that does not work: {}; 'cpu' goes on without it",
                        missing);
    fail<DeviceError>(Loc::current(), "device: '{}' is not there: {}", name, missing);
  }
  std::string known = "cpu";
  {
    std::lock_guard lock(list().mutex);
    for (const auto& d : list().devices) known += ", " + d->name();
  }
  fail<DeviceError>(Loc::current(), "device: expected one of {}; got '{}'", known, name);
}
MemoryStats memory_stats(const Device& d) { return d.memory_stats(); }
void reset_peak_memory(Device& d) { d.reset_peak_memory(); }
void empty_cache(Device& d) { d.empty_cache(); }
void set_memory_limit(Device& d, size_t bytes) { d.set_memory_limit(bytes); }
void register_device(std::unique_ptr<Device> d) {
  std::lock_guard lock(list().mutex);
  list().devices.push_back(std::move(d));
}

}  // namespace flame
