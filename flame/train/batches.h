// Batches of a data set that lives on a device, drawn there: for steps that are recorded, and repeated, without the host.
#pragma once
#include <cstdint>
#include <vector>

#include "flame/tensor/generator.h"
#include "flame/tensor/tensor.h"

namespace flame {

struct DeviceBatchesOptions {
  int64_t batch = 1;    // rows
  bool shuffle = true;  // each epoch has an order of its own; false: as they lie
  uint64_t seed = 0;    // of the orders, which are the same on every device
};

// An endless row of batches: epoch after epoch, each of which has every row once. A batch at the end of an epoch goes on with
// the first rows of the next. Copies share their place.
class DeviceBatches {
 public:
  // One to eight tensors on one device with as many rows (sizes of axis 0), at least one. ShapeError, DeviceError, ValueError.
  DeviceBatches(const std::vector<Tensor>& tensors, const DeviceBatchesOptions& o, Loc loc = Loc::current());
  // The next batch of each tensor, [batch, ...]. In a recorded step, every replay draws the batches that follow.
  std::vector<Tensor> next(Loc loc = Loc::current());
  size_t tensors() const { return tensors_.size(); }
  int64_t drawn() const { return static_cast<int64_t>(generator_.state().offset); }  // batches so far
  void seek(int64_t batch, Loc loc = Loc::current());  // the number of the next one, from 0: to resume
  int64_t batches_an_epoch() const { return (rows_ + options_.batch - 1) / options_.batch; }  // rounded up

 private:
  std::vector<Tensor> tensors_;
  DeviceBatchesOptions options_;
  int64_t rows_;
  Generator generator_;  // numbers the batches
};

}  // namespace flame
