// The names of the last launches, and the mark that the stream moves behind them.
#include "flame/device/cuda/launch_watch.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "flame/core/format.h"

namespace flame::cuda {

void LaunchWatch::start(CUstream stream) {
  stream_ = stream;
  void* at = nullptr;
  if (driver().cuMemAllocHost(&at, sizeof(uint32_t)) != CUDA_SUCCESS) return;  // then only waits move the mark
  mark_ = static_cast<volatile uint32_t*>(at);
  *mark_ = 0;
}

void LaunchWatch::launching(const std::string& op) {
  std::lock_guard lock(mutex_);
  auto& name = names_[++count_ % kept];
  const size_t n = std::min(op.size(), name.size() - 1);
  std::memcpy(name.data(), op.data(), n);
  name[n] = 0;
}

void LaunchWatch::launched() {
  uint32_t at;
  {
    std::lock_guard lock(mutex_);
    at = count_;
  }
  if (at % every != 0 || !mark_) return;
  CUstreamCaptureStatus capturing = CU_STREAM_CAPTURE_STATUS_NONE;
  if (driver().cuStreamIsCapturing(stream_, &capturing) != CUDA_SUCCESS || capturing != CU_STREAM_CAPTURE_STATUS_NONE)
    return;
  driver().cuStreamWriteValue32(stream_, reinterpret_cast<CUdeviceptr>(mark_), at, CU_STREAM_WRITE_VALUE_DEFAULT);
}

uint32_t LaunchWatch::count() {
  std::lock_guard lock(mutex_);
  return count_;
}
void LaunchWatch::finished(uint32_t upto) {
  std::lock_guard lock(mutex_);
  finished_ = upto;
}

std::string LaunchWatch::suspects() {
  std::lock_guard lock(mutex_);
  uint32_t done = finished_;
  if (const uint32_t mark = mark_ ? *mark_ : 0; mark - done < 1u << 31) done = mark;  // the later of the two
  // Everything up to `done` ended well; had the next mark been reached, it would have been written.
  const uint32_t last = mark_ ? std::min(count_, (done / every + 1) * every) : count_;
  std::vector<std::string> names;
  for (uint32_t i = last - std::min(last - done, kept - 1); i != last; ++i) {
    std::string name = fmt::format("'{}'", names_[(i + 1) % kept].data());
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
  }
  if (names.empty()) return "not known";
  return names.size() == 1 ? names[0] : fmt::format("one of {}", fmt::join(names, ", "));
}

}  // namespace flame::cuda
