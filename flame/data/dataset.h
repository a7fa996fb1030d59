// Datasets: samples by index, as tensors on the CPU.
#pragma once
#include <span>
#include <vector>

#include "flame/tensor/tensor.h"

namespace flame::data {

using Sample = std::vector<Tensor>;

// get and get_batch are called from several worker threads at once and must return materialised CPU tensors.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  virtual Sample get(int64_t index) const = 0;
  // The sample as it is in an epoch. Override it where samples are changed at random.
  virtual Sample get_in_epoch(int64_t index, uint64_t) const { return get(index); }
  // Samples stacked along a new first axis; ShapeError or DTypeError if they differ. Override it where a whole batch
  // can be made faster than sample by sample.
  virtual std::vector<Tensor> get_batch(std::span<const int64_t> indices, uint64_t epoch = 0) const;
};

// Tensors in memory whose first axis counts the samples. Copies share the bytes.
class TensorDataset final : public Dataset {
 public:
  explicit TensorDataset(std::vector<Tensor> tensors, Loc loc = Loc::current());
  int64_t size() const override { return size_; }
  Sample get(int64_t index) const override;
  std::vector<Tensor> get_batch(std::span<const int64_t> indices, uint64_t epoch = 0) const override;
  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  struct Source {
    const std::byte* data;
    size_t row_bytes;
    Shape row_shape;
  };
  Tensor gather(size_t tensor, std::span<const int64_t> indices, const Shape& shape) const;
  std::vector<Tensor> tensors_;  // contiguous, materialised, on the CPU
  std::vector<Source> sources_;
  int64_t size_ = 0;
};

}  // namespace flame::data
