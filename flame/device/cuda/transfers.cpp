// Copies of a GPU: from and to the host through pinned memory, beside the launches on a stream of their own, and between GPUs.
#include <algorithm>
#include <cstring>

#include "flame/core/format.h"
#include "flame/device/counters.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/step_graph.h"

namespace flame::cuda {
namespace {

constexpr size_t staging_bytes = size_t{8} << 20;
CUdeviceptr address(const void* p) { return reinterpret_cast<CUdeviceptr>(p); }

}  // namespace

void* CudaDevice::pinned(size_t bytes) {
  void* p = nullptr;
  check(with_room([&] { return driver().cuMemAllocHost(&p, bytes); }), "pinned memory");
  pinned_bytes_ += bytes;
  return p;
}

CudaDevice::Staging& CudaDevice::staging() {
  Staging& s = staging_[next_staging_];
  next_staging_ = 1 - next_staging_;
  if (!s.host) {
    if (!s.done) check(driver().cuEventCreate(&s.done, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    s.host = pinned(staging_bytes);
  } else if (driver().cuEventQuery(s.done) != CUDA_SUCCESS) {
    check(driver().cuEventSynchronize(s.done), "copy");
  }
  return s;
}

void CudaDevice::copy_from_host(void* dst, const void* src, size_t bytes) {
  if (StepGraph::taking(*this)) fail<RecordError>(Loc::current(), "record: a launch copies from the host");
  if (queue_.waiting() && !catch_up()) {
    if (bytes <= staging_bytes)
      return later(
          [this, dst, copy = std::string(static_cast<const char*>(src), bytes)] {
            copy_from_host(dst, copy.data(), copy.size());
          },
          LaunchQueue::Keep::even_after_errors);
    drain();
  }
  const Direct direct(*this);  // work in the queue wants the lock too
  enter();
  std::lock_guard lock(copy_mutex_);
  for (size_t at = 0; at < bytes; at += staging_bytes) {
    const size_t n = std::min(staging_bytes, bytes - at);
    Staging& s = staging();
    std::memcpy(s.host, static_cast<const char*>(src) + at, n);
    check(driver().cuMemcpyHtoDAsync(address(dst) + at, s.host, n, stream_), "copy from host");
    check(driver().cuEventRecord(s.done, stream_), "cuEventRecord");
  }
}
void CudaDevice::copy_to_host(void* dst, const void* src, size_t bytes) {
  if (StepGraph::taking(*this)) fail<RecordError>(Loc::current(), "record: a launch reads on the host");
  drain();
  const Direct direct(*this);
  enter();
  std::lock_guard lock(copy_mutex_);
  for (size_t at = 0; at < bytes; at += staging_bytes) {
    const size_t n = std::min(staging_bytes, bytes - at);
    Staging& s = staging();
    check(driver().cuMemcpyDtoHAsync(s.host, address(src) + at, n, stream_), "copy to host");
    wait_stream();
    index_faults_.raise();
    std::memcpy(static_cast<char*>(dst) + at, s.host, n);
  }
}
void CudaDevice::copy_within(void* dst, const void* src, size_t bytes) {
  if (bytes == 0) return;
  if (StepGraph* g = StepGraph::taking(*this)) return g->copy(address(dst), address(src), bytes);
  in_order([=, this] {
    enter();
    check(driver().cuMemcpyDtoDAsync(address(dst), address(src), bytes, stream_), "copy");
  });
}
void CudaDevice::fill_bytes(void* dst, int byte, size_t bytes) {
  if (bytes == 0) return;
  if (StepGraph* g = StepGraph::taking(*this)) return g->fill(address(dst), static_cast<unsigned char>(byte), bytes);
  in_order([=, this] {
    enter();
    check(driver().cuMemsetD8Async(address(dst), static_cast<unsigned char>(byte), bytes, stream_), "fill");
  });
}

// On this device's stream, after what `from` has launched and before what it launches next. The driver goes by the
// host where the GPUs do not reach each other.
void CudaDevice::copy_from_device(void* dst, Device& from, const void* src, size_t bytes) {
  auto* other = dynamic_cast<CudaDevice*>(&from);
  if (!other) return Device::copy_from_device(dst, from, src, bytes);
  if (bytes == 0) return;
  drain();
  other->drain();
  std::lock_guard lock(peer_mutex_);
  enter();
  if (!peers_.contains(other)) {
    int reaches = 0;
    check(driver().cuDeviceCanAccessPeer(&reaches, handle_, other->handle_), "cuDeviceCanAccessPeer");
    if (reaches) {
      const CUresult r = driver().cuCtxEnablePeerAccess(other->context_, 0);
      if (r != CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED) check(r, "cuCtxEnablePeerAccess");
    }
    peers_[other] = reaches != 0;
  }
  if (!peer_events_[1]) check(driver().cuEventCreate(&peer_events_[1], CU_EVENT_DISABLE_TIMING), "cuEventCreate");
  CUevent before = nullptr, after = peer_events_[1];
  other->enter();
  std::unique_lock theirs(other->upload_mutex_);
  if (!other->peer_events_[0])
    check(driver().cuEventCreate(&other->peer_events_[0], CU_EVENT_DISABLE_TIMING), "cuEventCreate");
  before = other->peer_events_[0];
  check(driver().cuEventRecord(before, other->stream_), "cuEventRecord");
  enter();
  check(driver().cuStreamWaitEvent(stream_, before, 0), "cuStreamWaitEvent");
  theirs.unlock();
  check(driver().cuMemcpyPeerAsync(address(dst), context_, address(src), other->context_, bytes, stream_),
        "copy between devices");
  check(driver().cuEventRecord(after, stream_), "cuEventRecord");
  other->enter();
  check(driver().cuStreamWaitEvent(other->stream_, after, 0), "cuStreamWaitEvent");
  enter();
}

// A used slot of about that size, or a new one. Its memory may be in use by launches that were made earlier.
CudaDevice::Slot CudaDevice::take_slot(size_t bytes, Loc where) {
  bytes = std::max<size_t>((bytes + 511) / 512 * 512, 512);
  std::unique_lock lock(upload_mutex_);
  const auto first = free_slots_.lower_bound(bytes);
  if (first != free_slots_.end() && first->first <= 2 * bytes) {
    auto it = first;  // one that the launches have done with, if there is any
    while (it != free_slots_.end() && it->first <= 2 * bytes &&
           driver().cuEventQuery(it->second.consumed) != CUDA_SUCCESS)
      ++it;
    if (it == free_slots_.end() || it->first > 2 * bytes) it = first;
    const Slot s = it->second;
    free_slots_.erase(it);
    return s;
  }
  lock.unlock();
  staged_ = true;
  Slot s{.bytes = bytes};
  try {
    s.device = memory_.allocate(s.bytes, MemoryKind::staging);
    if (!s.device) {  // idle slots of other sizes may hold it
      empty_cache();
      s.device = memory_.allocate(s.bytes, MemoryKind::staging);
    }
    if (!s.device) refuse(s.bytes, where);
    s.pinned = pinned(s.bytes);
    check(driver().cuEventCreate(&s.copied, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    check(driver().cuEventCreate(&s.consumed, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    drain();  // the memory may be that of tensors which launches in the queue still read
    check(driver().cuEventRecord(s.consumed, stream_), "cuEventRecord");
  } catch (...) {
    free_slot(s);
    throw;
  }
  return s;
}
void CudaDevice::free_slot(const Slot& s) {
  for (CUevent e : {s.copied, s.consumed})
    if (e) driver().cuEventDestroy(e);
  if (s.pinned) {
    driver().cuMemFreeHost(s.pinned);
    pinned_bytes_ -= s.bytes;
  }
  if (s.device) memory_.deallocate(s.device);
}

Upload CudaDevice::upload(const void* src, size_t bytes, Loc where) {
  enter();
  const Slot s = take_slot(bytes, where);
  const auto release = [this, s] {
    const auto give_back = [this, s] {
      if (!try_enter()) return;  // the device is lost
      driver().cuEventRecord(s.consumed, stream_);
      std::lock_guard lock(upload_mutex_);
      free_slots_.emplace(s.bytes, s);
    };
    if (queue_.size() > 0) later(give_back, LaunchQueue::Keep::even_after_errors);  // behind those that read it
    else give_back();
  };
  Upload u;
  try {
    u.storage = make_ref<Storage>(*this, s.device, bytes, release);
  } catch (...) {
    free_slot(s);
    throw;
  }
  if (driver().cuEventQuery(s.copied) != CUDA_SUCCESS)  // of its last use, which is over long since
    check(driver().cuEventSynchronize(s.copied), "upload");
  if (bytes) std::memcpy(s.pinned, src, bytes);
  {
    std::lock_guard lock(upload_mutex_);
    check(driver().cuStreamWaitEvent(copy_stream_, s.consumed, 0), "cuStreamWaitEvent");
    if (bytes) check(driver().cuMemcpyHtoDAsync(address(s.device), s.pinned, bytes, copy_stream_), "upload");
    check(driver().cuEventRecord(s.copied, copy_stream_), "cuEventRecord");
  }
  counters().uploads += 1;
  u.arrive = [this, copied = s.copied, keep = u.storage] {
    in_order(
        [this, copied, keep] {
          enter();
          check(driver().cuStreamWaitEvent(stream_, copied, 0), "cuStreamWaitEvent");
        },
        LaunchQueue::Keep::even_after_errors);
  };
  return u;
}

void CudaDevice::empty_cache() {
  drain();
  std::multimap<size_t, Slot> unused;
  {
    std::lock_guard lock(upload_mutex_);
    unused.swap(free_slots_);
  }
  if (!unused.empty()) {
    enter();
    check(driver().cuStreamSynchronize(copy_stream_), "synchronize");
    for (const auto& [bytes, s] : unused) free_slot(s);
  }
  while (!memory_.empty_cache() && queue_.waiting()) drain();  // not from within what waited
}

}  // namespace flame::cuda
