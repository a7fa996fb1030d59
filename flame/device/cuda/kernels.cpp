// Kernels: compiled beside the program, loaded in the order of their launches, launched in the order of the program.
#include "flame/device/cuda/kernels.h"

#include <chrono>

#include "flame/core/format.h"
#include "flame/device/cuda/compiler.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/step_graph.h"
#include "flame/device/profile.h"
#include "flame/device/settle.h"

namespace flame::cuda {
namespace {

// Kept from the driver while launches wait, so that their kernels can be loaded whatever tensors take meanwhile.
constexpr size_t for_loading = size_t{32} << 20;
constexpr size_t most_waiting = 20'000;

}  // namespace

bool CudaKernel::compiled() const {
  return function_.load(std::memory_order_acquire) ||
         module_->cubin.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

void CudaKernel::load() const {
  if (function_.load(std::memory_order_acquire)) return;
  const std::string& cubin = module_->cubin.get();
  std::lock_guard lock(module_->mutex);
  if (function_.load(std::memory_order_acquire)) return;
  const Driver& d = driver();
  const CudaDevice::Direct direct(device_);
  device_.enter();
  const CudaDevice::Meter meter(device_);
  if (!module_->handle) {
    CUmodule m = nullptr;
    device_.check(device_.with_room([&] { return d.cuModuleLoadData(&m, cubin.data()); }), name_.c_str());
    device_.attach_faults(m, cubin);
    module_->handle = m;
  }
  CUfunction f = nullptr;
  const CUresult found = device_.with_room([&] { return d.cuModuleGetFunction(&f, module_->handle, entry_.c_str()); });
  if (found == CUDA_ERROR_NOT_FOUND)
    throw KernelError(fmt::format("{}: the text has no extern \"C\" __global__ function '{}'", name_, entry_));
  device_.check(found, name_.c_str());
  device_.check(device_.with_room([&] { return d.cuFuncLoad(f); }), name_.c_str());  // not at the first launch
  size_t at = 0, size = 0;  // the first may lie behind a gap, for its alignment
  for (size_t i = 0; d.cuFuncGetParamInfo(f, i, &at, &size) == CUDA_SUCCESS; ++i) {
    parameters_.push_back(at);
    parameter_bytes_ = at + size - parameters_[0];
  }
  int named = 0;
  device_.check(d.cuFuncGetAttribute(&named, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, f), name_.c_str());
  shared_ = named;
  int stack = 1;  // a kernel with a stack may make the driver take more for all of them
  if (d.cuFuncGetAttribute(&stack, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, f) == CUDA_SUCCESS && stack == 0) used_ = true;
  function_.store(f, std::memory_order_release);
}

// All that the GPU gives but what a text may name itself; how much that is shows only once it is compiled.
int CudaKernel::most_shared() const {
  constexpr int of_text = 3 << 10;
  return device_.shared_of_block() - of_text;
}

void CudaKernel::launch(const Grid& g, std::span<const std::byte> arguments) const {
  if (!device_.must_wait(*this)) return go(g, arguments);
  device_.later([self = Ref<const CudaKernel>(this), g,
                 copy = std::vector<std::byte>(arguments.begin(), arguments.end())] { self->go(g, copy); });
}

// A block gets 48 KiB, what the text names included, unless more is asked for. Only ever more, since other launches may count on it.
void CudaKernel::ask_for_shared(CUfunction f, int dynamic) const {
  constexpr int without_asking = 48 << 10;
  if (dynamic == 0 || dynamic + shared_ <= without_asking) return;
  std::lock_guard lock(shared_mutex_);
  if (dynamic <= shared_asked_) return;
  device_.check(driver().cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, dynamic),
                name_.c_str());
  shared_asked_ = dynamic;
}

void CudaKernel::go(const Grid& g, std::span<const std::byte> arguments) const {
  load();
  const CUfunction f = function_.load(std::memory_order_acquire);
  ask_for_shared(f, g.shared);
  if (arguments.size() != parameter_bytes_)
    throw KernelError(fmt::format("{}: the kernel's parameters are {} bytes, the arguments {}", name_, parameter_bytes_,
                                  arguments.size()));
  static thread_local std::vector<void*> each;  // argument
  each.clear();
  for (const size_t at : parameters_) each.push_back(const_cast<std::byte*>(arguments.data()) + at - parameters_[0]);
  StepGraph* const taken = StepGraph::taking(device_);
  if (taken && taken->renewing()) return taken->kernel(f, g, each.data(), entry_);
  const auto start = [&] {
    return driver().cuLaunchKernel(f, static_cast<unsigned>(g.blocks), static_cast<unsigned>(g.y),
                                   static_cast<unsigned>(g.z), static_cast<unsigned>(g.threads),
                                   static_cast<unsigned>(g.threads_y), static_cast<unsigned>(g.threads_z),
                                   static_cast<unsigned>(g.shared), device_.raw_stream(), each.data(), nullptr);
  };
  if (used_.load(std::memory_order_relaxed)) {
    device_.check(start(), name_.c_str());
    if (taken) taken->kernel(f, g, each.data(), entry_);
    return;
  }
  const CudaDevice::Meter meter(device_);
  device_.check(device_.with_room(start), name_.c_str());
  used_ = true;
  if (taken) taken->kernel(f, g, each.data(), entry_);
}

Ref<Kernel> CudaDevice::kernel(const KernelDesc& d) {
  std::string key;
  for (const std::string& o : d.options) key += o + '\n';
  key += d.text;
  const std::string full = d.entry + '\n' + key;
  Ref<CudaKernel> k;
  {
    std::lock_guard lock(kernel_mutex_);
    if (const auto it = kernels_.find(full); it != kernels_.end()) k = it->second;
    else {
      std::shared_ptr<Module>& m = modules_[key];
      if (!m) {
        auto made = std::make_shared<Module>();
        made->name = d.name;
        compiling_ += 1;
        try {
          made->cubin = compile_later(d.name, d.text, d.options, arch_, [this] { compiling_ -= 1; });
        } catch (...) {
          compiling_ -= 1;
          modules_.erase(key);
          throw;
        }
        m = std::move(made);
      }
      k = make_ref<CudaKernel>(*this, d.name, d.entry, m);
      kernels_.emplace(full, k);
      if (!d.at_once && !k->compiled()) {
        unloaded_.push_back(k);
        unsettled_ = true;
      }
    }
  }
  if (d.at_once || k->compiled() || !set_aside()) try {
      k->load();
    } catch (const OutOfMemory&) {
      if (!queue_.waiting()) throw;
      drain();  // after which the cache can be emptied
      k->load();
    }
  return k;
}

// Memory for the kernels that are on the way; false: there is none, or nothing may wait.
bool CudaDevice::set_aside() {
  if (!may_wait_) return false;
  if (reserve_) return true;
  enter();
  CUdeviceptr mine = 0, none = 0;
  if (with_room([&] { return driver().cuMemAlloc(&mine, for_loading); }) != CUDA_SUCCESS) return false;
  if (!reserve_.compare_exchange_strong(none, mine)) driver().cuMemFree(mine);  // another thread was faster
  set_settle_hook([] {
    for (CudaDevice* d : opened()) d->settle();
  });
  return true;
}
bool CudaDevice::give_reserve() const {
  if (!reserve_ || !try_enter()) return false;
  const CUdeviceptr held = reserve_.exchange(0);
  if (held) driver().cuMemFree(held);
  return held != 0;
}
size_t CudaDevice::reserved() const { return reserve_ ? for_loading : 0; }

bool CudaDevice::must_wait(const CudaKernel& k) {
  if (!may_wait_ || queue_.running()) return false;
  if (queue_.waiting()) return !catch_up();
  return !k.compiled();
}

// Once nothing is being compiled any more, or too much waits, what waits is launched.
bool CudaDevice::catch_up() {
  if (compiling_ > 0 && queue_.size() < most_waiting) return false;
  drain();
  return true;
}

void CudaDevice::later(std::function<void()> fn, LaunchQueue::Keep keep) {
  if (const uint64_t launch = ProfileRange::launch(); launch && profiling())
    fn = [launch, fn = std::move(fn)] {
      const ProfileRange::Late as(launch);
      fn();
    };
  queue_.push(launching_ ? *launching_ : "copy", std::move(fn), keep);
}
void CudaDevice::in_order(std::function<void()> fn, LaunchQueue::Keep keep) {
  if (queue_.waiting() && !catch_up()) later(std::move(fn), keep);
  else fn();
}

std::function<void(const Run&)> CudaDevice::in_order(size_t buffers, size_t scalars,
                                                     std::function<void(const Run&)> body) {
  const auto shared = std::make_shared<const std::function<void(const Run&)>>(std::move(body));
  return [this, buffers, scalars, shared](const Run& r) {
    if (!queue_.waiting() || catch_up()) {
      const Direct direct(*this);  // it may hold locks that work in the queue wants
      return (*shared)(r);
    }
    later([shared, b = std::vector<void*>(r.buffers, r.buffers + buffers),
           s = std::vector<Word>(r.scalars, r.scalars + scalars), at = r.workspace] {
      (*shared)({b.data(), s.data(), at});
    });
  };
}

void CudaDevice::drain() const {
  if (!queue_.waiting()) {
    queue_.rethrow();
    if (reserve_ && !queue_.running()) settled();
    return;
  }
  enter();
  queue_.drain([this](const std::string& op, const std::function<void()>& fn) {
    const LaunchWatch::Noted noted(watch_, op);
    fn();
  });
  settled();
}

// All that was asked for is compiled and loaded, and nothing waits.
void CudaDevice::settle() {
  if (queue_.running()) return;
  queue_.rethrow();
  if (!unsettled_ && !queue_.waiting()) return;
  std::vector<Ref<CudaKernel>> missing;
  {
    std::lock_guard lock(kernel_mutex_);
    missing.swap(unloaded_);
    unsettled_ = false;
  }
  const auto put_back = [&](size_t first) {
    std::lock_guard lock(kernel_mutex_);
    unloaded_.insert(unloaded_.end(), missing.begin() + static_cast<std::ptrdiff_t>(first), missing.end());
    unsettled_ = !unloaded_.empty();
  };
  for (size_t i = 0; i < missing.size(); ++i) try {
      missing[i]->load();
    } catch (const KernelError&) {  // it never will be
      put_back(i + 1);
      drain();  // what waits before its launch is made, the rest is not
      throw;
    } catch (...) {
      put_back(i);
      throw;
    }
  drain();
  settled();
}

void CudaDevice::settled() const {
  if (compiling_ == 0 && queue_.size() == 0) give_reserve();
}

}  // namespace flame::cuda
