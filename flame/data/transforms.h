// Small functions from tensor to tensor for the samples of a dataset. Random ones draw from a generator that is a pure
// function of seed, epoch and sample, so that neither the number of workers nor their order changes anything.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "flame/data/dataset.h"

namespace flame::data {

class SampleRandom {
 public:
  SampleRandom(uint64_t seed, uint64_t epoch, uint64_t sample) : seed_(seed), epoch_(epoch), sample_(sample) {}
  uint32_t bits();           // 32 random bits
  double uniform();          // [0, 1)
  int64_t below(int64_t n);  // 0 to n - 1, each as likely to one part in 2^32; n is 1 to 2^32

 private:
  uint64_t seed_, epoch_, sample_;
  uint32_t draws_ = 0;
};

// Called from several worker threads at once; returns a materialised CPU tensor.
using Transform = std::function<Tensor(const Tensor& x, SampleRandom& random)>;

Transform compose(std::vector<Transform> steps);  // the first one first

// Images are [channels, height, width]. ShapeError or DTypeError for anything else, when a sample is made.
Transform to_float(float divisor = 255);  // uint8 to float32, divided; of any shape
// (x - mean[c]) / std[c] of float32, by channel. ValueError unless each std is above 0.
Transform normalize(std::vector<float> mean, std::vector<float> std, Loc loc = Loc::current());
Transform random_horizontal_flip(double probability = 0.5, Loc loc = Loc::current());
struct RandomCrop {
  int64_t height, width;
  int64_t padding = 0;  // added to each side first, with `fill`
  double fill = 0;
};
Transform random_crop(const RandomCrop& options, Loc loc = Loc::current());  // uint8 or float32
enum class Interpolation : uint8_t { area, bilinear };
struct Resize {
  int64_t height, width;
  // area: the mean of what a new pixel covers. bilinear: between the four nearest pixel centres, without a filter
  // against aliasing (PyTorch's interpolate with align_corners = false). Both rounded to nearest.
  Interpolation by = Interpolation::area;
};
Transform resize(const Resize& options, Loc loc = Loc::current());  // uint8

// Another dataset with its first tensor transformed. The epoch is the loader's; get() and get_batch() take epoch 0.
class TransformedDataset final : public Dataset {
 public:
  TransformedDataset(std::shared_ptr<const Dataset> dataset, Transform transform, uint64_t seed = 0,
                     Loc loc = Loc::current());
  int64_t size() const override { return dataset_->size(); }
  Sample get(int64_t index) const override { return get_in_epoch(index, 0); }
  Sample get_in_epoch(int64_t index, uint64_t epoch) const override;

 private:
  std::shared_ptr<const Dataset> dataset_;
  Transform transform_;
  uint64_t seed_;
};

}  // namespace flame::data
