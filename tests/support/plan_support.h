// Runs a plan on bare host memory, for tests of the CPU services beneath the ops.
#pragma once
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <random>
#include <vector>

#include "flame/core/dtype.h"
#include "flame/device/device.h"

namespace flame::test {

// Elements that a tensor of this description touches, counted from its first.
inline int64_t extent(const Meta& m) {
  int64_t last = 0;
  for (int i = 0; i < m.shape.rank(); ++i) {
    if (m.shape[i] == 0) return 0;
    last += (m.shape[i] - 1) * m.strides[i];
  }
  return last + 1;
}

// Host bytes of one tensor, between guards that show a write beside them.
class HostTensor {
 public:
  explicit HostTensor(const Meta& m)
      : meta(m), bytes_(static_cast<size_t>(extent(m)) * size_of(m.dtype) + 2 * guard, filler) {}
  Meta meta;
  void* data() { return bytes_.data() + guard; }
  double at(int64_t i) const {
    return visit_dtype(meta.dtype, [&](auto t) {
      decltype(t) v;
      std::memcpy(&v, bytes_.data() + guard + static_cast<size_t>(i) * sizeof v, sizeof v);
      if constexpr (std::is_arithmetic_v<decltype(t)>) return static_cast<double>(v);
      else return static_cast<double>(static_cast<float>(v));
    });
  }
  std::vector<double> values() const {
    std::vector<double> out(static_cast<size_t>(extent(meta)));
    for (size_t i = 0; i < out.size(); ++i) out[i] = at(static_cast<int64_t>(i));
    return out;
  }
  void put(int64_t i, double x) {
    visit_dtype(meta.dtype, [&](auto t) {
      if constexpr (std::is_arithmetic_v<decltype(t)>) t = static_cast<decltype(t)>(x);
      else t = decltype(t)(static_cast<float>(x));
      std::memcpy(bytes_.data() + guard + static_cast<size_t>(i) * sizeof t, &t, sizeof t);
    });
  }
  void randomize(std::mt19937_64& g) {
    const int64_t n = extent(meta);
    std::uniform_real_distribution<double> real(-1, 1);
    std::uniform_int_distribution<int> whole(0, 9);
    for (int64_t i = 0; i < n; ++i) put(i, is_float(meta.dtype) ? real(g) : whole(g));
  }
  bool guards_hold() const {
    for (size_t i = 0; i < guard; ++i)
      if (bytes_[i] != filler || bytes_[bytes_.size() - 1 - i] != filler) return false;
    return true;
  }
  bool operator==(const HostTensor& o) const { return bytes_ == o.bytes_; }

 private:
  static constexpr size_t guard = 64;
  static constexpr unsigned char filler = 0xa5;
  std::vector<unsigned char> bytes_;
};

inline void run_plan(const Plan& plan, std::initializer_list<HostTensor*> tensors) {
  std::vector<void*> buffers;
  for (HostTensor* t : tensors) buffers.push_back(t->data());
  const std::unique_ptr<void, decltype(&std::free)> workspace(std::aligned_alloc(64, (plan.workspace + 64) / 64 * 64),
                                                              &std::free);
  plan.body({buffers.data(), nullptr, workspace.get()});
}

}  // namespace flame::test
