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

void LaunchWatch::launching(const std::string& op, const Names& step) {
  std::lock_guard lock(mutex_);
  ++between_;
  auto& name = names_[++count_ % kept];
  const size_t n = std::min(op.size(), name.size() - 1);
  std::memcpy(name.data(), op.data(), n);
  name[n] = 0;
  steps_[count_ % kept] = step;
}

// A mark is of all launches noted so far, so it is sent when all of them are made.
void LaunchWatch::launched() {
  std::lock_guard lock(mutex_);
  const uint32_t last = marks_[(next_mark_ + marks_.size() - 1) % marks_.size()];
  if (--between_ > 0 || count_ - last < every || !mark_) return;
  CUstreamCaptureStatus capturing = CU_STREAM_CAPTURE_STATUS_NONE;
  if (driver().cuStreamIsCapturing(stream_, &capturing) != CUDA_SUCCESS || capturing != CU_STREAM_CAPTURE_STATUS_NONE)
    return;
  if (driver().cuStreamWriteValue32(stream_, reinterpret_cast<CUdeviceptr>(mark_), count_,
                                    CU_STREAM_WRITE_VALUE_DEFAULT) != CUDA_SUCCESS)
    return;
  marks_[next_mark_] = count_;
  next_mark_ = (next_mark_ + 1) % marks_.size();
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
  uint32_t last = count_;
  const auto ahead = [done](uint32_t m) { return static_cast<int32_t>(m - done); };
  for (const uint32_t m : marks_)
    if (ahead(m) > 0 && ahead(m) < ahead(last)) last = m;
  std::vector<std::string> names;
  const auto add = [&](std::string name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
  };
  for (uint32_t i = last - std::min(last - done, kept - 1); i != last; ++i) {
    const uint32_t at = (i + 1) % kept;
    if (!steps_[at]) add(fmt::format("'{}'", names_[at].data()));
    else
      for (const std::string& op : *steps_[at]) add(fmt::format("'{}' of a recorded step", op));
  }
  if (names.empty()) return "not known";
  return names.size() == 1 ? names[0] : fmt::format("one of {}", fmt::join(names, ", "));
}

}  // namespace flame::cuda
