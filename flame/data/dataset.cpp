// Batches are plain copies of rows: no tensor ops, so worker threads leave nothing pending.
#include "flame/data/dataset.h"

#include <cstring>

#include "flame/core/format.h"

namespace flame::data {
namespace {

Shape stacked_shape(int64_t count, const Shape& row) {
  Shape s = row;
  s.insert(0, count);
  return s;
}

// The same numbers, row-major in host memory. A State's bytes change under their handle, so they are copied.
Tensor host_copy_if_needed(const Tensor& t, Loc loc) {
  t.data();  // materialises
  const bool plain = t.device().host_accessible() && is_contiguous(t.shape(), t.strides()) && !t.value().cell;
  if (plain && &t.device() == &cpu()) return t.detach();
  Tensor out = Tensor::empty(t.shape(), t.dtype(), cpu(), loc);
  t.copy_to_host(out.data(), t.dtype(), loc);
  return out;
}

}  // namespace

std::vector<Tensor> Dataset::get_batch(std::span<const int64_t> indices, uint64_t epoch) const {
  std::vector<Tensor> out;
  Sample first;
  for (size_t i = 0; i < indices.size(); ++i) {
    const Sample sample = get_in_epoch(indices[i], epoch);
    if (i == 0) {
      first = sample;
      for (const Tensor& t : sample)
        out.push_back(Tensor::empty(stacked_shape(static_cast<int64_t>(indices.size()), t.shape()), t.dtype(), cpu()));
    }
    if (sample.size() != first.size())
      fail<ShapeError>(Loc::current(), "Dataset: sample {} has {} tensors, expected {} as in sample {}", indices[i],
                       sample.size(), first.size(), indices[0]);
    for (size_t k = 0; k < sample.size(); ++k) {
      const Tensor &t = sample[k], &f = first[k];
      if (t.shape() != f.shape())
        fail<ShapeError>(Loc::current(), "Dataset: tensor {} of sample {} has shape {}, expected {} as in sample {}", k,
                         indices[i], t.shape(), f.shape(), indices[0]);
      if (t.dtype() != f.dtype())
        fail<DTypeError>(Loc::current(), "Dataset: tensor {} of sample {} is {}, expected {} as in sample {}", k,
                         indices[i], t.dtype(), f.dtype(), indices[0]);
      const size_t bytes = static_cast<size_t>(t.numel()) * size_of(t.dtype());
      t.copy_to_host(static_cast<std::byte*>(out[k].data()) + i * bytes, t.dtype());
    }
  }
  return out;
}

TensorDataset::TensorDataset(std::vector<Tensor> tensors, Loc loc) {
  if (tensors.empty()) fail<ValueError>(loc, "TensorDataset: no tensors");
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& t = tensors[i];
    if (t.rank() == 0) fail<ShapeError>(loc, "TensorDataset: tensor {} has no axis for the samples", i);
    if (i == 0) size_ = t.shape()[0];
    if (t.shape()[0] != size_)
      fail<ShapeError>(loc, "TensorDataset: tensor {} has {} samples, expected {} as tensor 0", i, t.shape()[0], size_);
    tensors_.push_back(host_copy_if_needed(t, loc));
    Shape row = t.shape();
    row.erase(0);
    const size_t bytes = static_cast<size_t>(numel(row)) * size_of(t.dtype());
    sources_.push_back({static_cast<const std::byte*>(tensors_[i].data()), bytes, row});
  }
}

Tensor TensorDataset::gather(size_t tensor, std::span<const int64_t> indices, const Shape& shape) const {
  const Source& s = sources_[tensor];
  Tensor out = Tensor::empty(shape, tensors_[tensor].dtype(), cpu());
  auto* dst = static_cast<std::byte*>(out.data());
  for (const int64_t i : indices) {
    if (i < 0 || i >= size_)
      fail<IndexError>(Loc::current(), "TensorDataset: index {} is out of range for {} samples", i, size_);
    if (s.row_bytes > 0) std::memcpy(dst, s.data + static_cast<size_t>(i) * s.row_bytes, s.row_bytes);
    dst += s.row_bytes;
  }
  return out;
}

Sample TensorDataset::get(int64_t index) const {
  Sample out;
  for (size_t k = 0; k < sources_.size(); ++k) out.push_back(gather(k, {&index, 1}, sources_[k].row_shape));
  return out;
}

std::vector<Tensor> TensorDataset::get_batch(std::span<const int64_t> indices, uint64_t) const {
  std::vector<Tensor> out;
  for (size_t k = 0; k < sources_.size(); ++k)
    out.push_back(gather(k, indices, stacked_shape(static_cast<int64_t>(indices.size()), sources_[k].row_shape)));
  return out;
}

}  // namespace flame::data
