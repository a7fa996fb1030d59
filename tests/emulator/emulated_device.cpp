// The emulated GPU: memory between pages that nobody may touch, and kernels.
#include "tests/emulator/emulated_device.h"

#include <sys/mman.h>

#include <cstring>

#include "flame/core/format.h"
#include "flame/device/out_of_range.h"
#include "tests/emulator/threads.h"

namespace flame::emulated {

namespace {
constexpr size_t page = 4096, zone = 64, vector = 16;
constexpr unsigned char untouched = 0xa5;

std::string span_of(const char* at, size_t n) {
  for (size_t i = 0; i < n; ++i)
    if (static_cast<unsigned char>(at[i]) != untouched) return fmt::format("byte {} of {}", i, n);
  return {};
}
}  // namespace

// The block ends at a page without rights, or up to 15 bytes before it, since kernels move 16 bytes at a time.
void* EmulatedDevice::allocate(size_t bytes, Loc where) {
  if (allocation_fails()) throw OutOfMemory("emulated: planted", where);
  const size_t rounded = (bytes + vector - 1) / vector * vector, pages = (rounded + zone + page - 1) / page * page;
  void* all = mmap(nullptr, pages + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED || mprotect(static_cast<char*>(all) + page, pages, PROT_READ | PROT_WRITE) != 0)
    throw OutOfMemory(fmt::format("emulated: no memory for {} bytes", bytes), where);
  char* const p = static_cast<char*>(all) + page + pages - rounded;
  std::memset(p - zone, untouched, zone);
  std::memset(p, 0xff, bytes);  // what is read before it is written shows
  std::memset(p + bytes, untouched, rounded - bytes);
  std::lock_guard lock(mutex_);
  blocks_[p] = {static_cast<char*>(all), pages + 2 * page, bytes};
  return p;
}
void EmulatedDevice::deallocate(void* p, size_t) noexcept {
  std::lock_guard lock(mutex_);
  const auto it = blocks_.find(p);
  if (it == blocks_.end()) return;
  munmap(it->second.mapping, it->second.mapped);
  blocks_.erase(it);
}
std::string EmulatedDevice::overwritten() const {
  for (const auto& [p, b] : blocks_) {
    const char* at = static_cast<const char*>(p);
    if (const std::string s = span_of(at - zone, zone); !s.empty())
      return fmt::format("before a tensor of {} bytes: {}", b.bytes, s);
    const size_t rest = (b.bytes + vector - 1) / vector * vector - b.bytes;
    if (const std::string s = span_of(at + b.bytes, rest); !s.empty())
      return fmt::format("behind a tensor of {} bytes: {}", b.bytes, s);
  }
  return {};
}

void EmulatedDevice::copy_to_host(void* dst, const void* src, size_t bytes) {
  synchronize();
  CpuDevice::copy_to_host(dst, src, bytes);
}
void EmulatedDevice::synchronize() {
  std::lock_guard lock(mutex_);
  if (!fault_.set) return;
  const FaultRecord r = fault_;
  fault_.set = claimed_ = 0;
  throw OutOfRange(
      r.axis < 0 ? fmt::format("{}: target {} is out of range for {} classes", r.op, r.index, r.size)
                 : fmt::format("{}: index {} is out of range for axis {} of size {}", r.op, r.index, r.axis, r.size));
}

// The CPU's kernels want scratch memory of an alignment that blocks here do not have.
Ref<Plan> EmulatedDevice::of_cpu(Ref<Plan> p) {
  return make_ref<Plan>(p->op, [p](const Run& r) {
    constexpr size_t align = 64;
    const std::unique_ptr<void, decltype(&std::free)> own(
        std::aligned_alloc(align, (p->workspace + align) / align * align), &std::free);
    p->body({r.buffers, r.scalars, own.get()});
  });
}

class EmulatedKernel final : public Kernel {
 public:
  EmulatedKernel(EmulatedDevice& d, KernelDesc desc) : device_(d), desc_(std::move(desc)) {
    if (desc_.at_once) module_ = device_.module(desc_);
  }
  // Compiled at the first launch: most tests ask for more kernels than they run.
  void launch(const Grid& g, std::span<const std::byte> arguments) const override {
    if (!module_) module_ = device_.module(desc_);
    device_.launch_kernel(desc_, *module_, g, arguments);
  }
  int most_shared() const override { return flame_emulated::most_dynamic; }

 private:
  EmulatedDevice& device_;
  const KernelDesc desc_;
  mutable std::shared_ptr<Module> module_;
};

Ref<Kernel> EmulatedDevice::kernel(const KernelDesc& d) { return make_ref<EmulatedKernel>(*this, d); }

std::shared_ptr<Module> EmulatedDevice::module(const KernelDesc& d) {
  std::string key = d.text;
  for (const std::string& o : d.options) key += '\n' + o;
  std::lock_guard lock(mutex_);
  std::shared_ptr<Module>& m = modules_[key];
  if (!m) {
    m = std::make_shared<Module>(d.name, d.text, d.options);
    if (void* faults = m->symbol("flame_faults")) {
      const FaultSink sink{&claimed_, &fault_};
      std::memcpy(faults, &sink, sizeof sink);
    }
  }
  if (!m->entry(d.entry))
    throw KernelError(fmt::format("{}: the text has no extern \"C\" __global__ function '{}'", d.name, d.entry));
  return m;
}

void EmulatedDevice::launch_kernel(const KernelDesc& d, Module& m, const Grid& g,
                                   std::span<const std::byte> arguments) {
  std::lock_guard lock(mutex_);
  const flame_emulated::Entry& e = *m.entry(d.entry);
  const auto refuse = [&](const std::string& why) { throw KernelError(fmt::format("{}: {}", d.name, why)); };
  const int64_t threads = int64_t{g.threads} * g.threads_y * g.threads_z;
  if (arguments.size() != e.argument_bytes)
    refuse(fmt::format("the kernel's parameters are {} bytes, the arguments {}", e.argument_bytes, arguments.size()));
  if (g.blocks < 1 || g.blocks > INT32_MAX || g.y < 1 || g.y > 65535 || g.z < 1 || g.z > 65535)
    refuse(fmt::format("no grid has {} x {} x {} blocks", g.blocks, g.y, g.z));
  if (threads < 1 || threads > (e.most_threads ? e.most_threads : 1024))
    refuse(fmt::format("{} threads a block, where {} are allowed", threads, e.most_threads ? e.most_threads : 1024));
  if (g.shared < 0 || g.shared > static_cast<int>(flame_emulated::most_dynamic))
    refuse(fmt::format("{} bytes of shared memory", g.shared));
  flame_emulated::Context& c = m.context();
  c.grid = {static_cast<unsigned>(g.blocks), static_cast<unsigned>(g.y), static_cast<unsigned>(g.z)};
  c.block_size = {static_cast<unsigned>(g.threads), static_cast<unsigned>(g.threads_y),
                  static_cast<unsigned>(g.threads_z)};
  launches_ += 1;
  if (const std::string wrong = run_grid(c, e, reinterpret_cast<const unsigned char*>(arguments.data()));
      !wrong.empty())
    refuse(wrong);
  if (const std::string wrong = overwritten(); !wrong.empty()) refuse("memory was written " + wrong);
}

EmulatedDevice& emulated_device() {
  static EmulatedDevice* const d = [] {
    auto owned = std::make_unique<EmulatedDevice>("cuda:emulated");
    EmulatedDevice* made = owned.get();
    register_device(std::move(owned));
    return made;
  }();
  return *d;
}

}  // namespace flame::emulated
