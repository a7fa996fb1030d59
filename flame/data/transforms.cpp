// Plain loops over host memory: no tensor ops, so worker threads leave nothing pending.
#include "flame/data/transforms.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "flame/core/format.h"
#include "flame/core/philox.h"

namespace flame::data {
namespace {

constexpr uint64_t transform_key = 0x7472616e'73666f72;  // keeps these draws apart from others of the same seed

struct Planes {
  int64_t channels, height, width;
};
Planes planes_of(const char* op, const Tensor& x) {
  if (x.rank() != 3)
    fail<ShapeError>(Loc::current(), "{}: expected [channels, height, width], got shape {}", op, x.shape());
  return {x.shape()[0], x.shape()[1], x.shape()[2]};
}

void expect_dtype(const char* op, const Tensor& x, DType t) {
  if (x.dtype() != t) fail<DTypeError>(Loc::current(), "{}: expected {}, got {}", op, t, x.dtype());
}

// x as row-major host memory.
Tensor dense(const Tensor& x) {
  const bool plain = &x.device() == &cpu() && !x.is_pending() && is_contiguous(x.shape(), x.strides());
  if (plain) return x;
  Tensor out = Tensor::empty(x.shape(), x.dtype(), cpu());
  x.copy_to_host(out.data(), x.dtype());
  return out;
}

template <class T>
const T* elements(const Tensor& x) {
  return static_cast<const T*>(x.data());
}

template <class T>
Tensor cropped(const Tensor& x, const Planes& p, const RandomCrop& o, int64_t top, int64_t left) {
  Tensor out = Tensor::empty({p.channels, o.height, o.width}, x.dtype(), cpu());
  auto* to = static_cast<T*>(out.data());
  std::fill_n(to, out.numel(), static_cast<T>(o.fill));
  const int64_t from_x = std::max<int64_t>(left, 0), to_x = std::min(left + o.width, p.width);
  for (int64_t c = 0; c < p.channels; ++c)
    for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + o.height, p.height); ++y)
      if (from_x < to_x)
        std::copy_n(elements<T>(x) + (c * p.height + y) * p.width + from_x, to_x - from_x,
                    to + (c * o.height + y - top) * o.width + from_x - left);
  return out;
}

// What new pixel i of `to` takes from old pixels along an axis of `from`: weights that sum to 1, from pixel `first` on.
struct Taps {
  int64_t first;
  std::vector<double> weights;
};
std::vector<Taps> taps(int64_t from, int64_t to, Interpolation by) {
  std::vector<Taps> out(static_cast<size_t>(to));
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  for (int64_t i = 0; i < to; ++i) {
    Taps& t = out[static_cast<size_t>(i)];
    if (by == Interpolation::bilinear) {
      const double at = std::max((static_cast<double>(i) + 0.5) * scale - 0.5, 0.0);
      t.first = std::min(static_cast<int64_t>(at), from - 1);
      const double part = t.first + 1 < from ? at - static_cast<double>(t.first) : 0;
      t.weights = {1 - part};
      if (part > 0) t.weights.push_back(part);
      continue;
    }
    const double low = static_cast<double>(i) * scale, high = static_cast<double>(i + 1) * scale;
    t.first = std::min(static_cast<int64_t>(low), from - 1);
    double sum = 0;
    for (int64_t k = t.first; k < from && static_cast<double>(k) < high; ++k) {
      const double covered = std::min(high, static_cast<double>(k + 1)) - std::max(low, static_cast<double>(k));
      t.weights.push_back(std::max(covered, 0.0));
      sum += t.weights.back();
    }
    for (double& w : t.weights) w /= sum;
  }
  return out;
}

// Rows first, then columns.
Tensor resized(const Tensor& x, const Planes& p, const Resize& o) {
  const std::vector<Taps> rows = taps(p.height, o.height, o.by), columns = taps(p.width, o.width, o.by);
  Tensor out = Tensor::empty({p.channels, o.height, o.width}, DType::u8, cpu());
  auto* to = static_cast<uint8_t*>(out.data());
  std::vector<double> line(static_cast<size_t>(p.width));
  for (int64_t c = 0; c < p.channels; ++c)
    for (const Taps& row : rows) {
      std::fill(line.begin(), line.end(), 0.0);
      const uint8_t* from = elements<uint8_t>(x) + (c * p.height + row.first) * p.width;
      for (const double w : row.weights)
        for (double& v : line) v += w * *from++;
      for (const Taps& column : columns) {
        double v = 0;
        auto at = static_cast<size_t>(column.first);
        for (const double w : column.weights) v += w * line[at++];
        *to++ = static_cast<uint8_t>(std::clamp(std::nearbyint(v), 0.0, 255.0));
      }
    }
  return out;
}

}  // namespace

uint32_t SampleRandom::bits() {
  const uint64_t offset = epoch_ << 32 | draws_ / 4;
  const PhiloxBlock block = philox(seed_ ^ transform_key, sample_, offset);
  return block[draws_++ % 4];
}
double SampleRandom::uniform() { return bits() * 0x1p-32; }
int64_t SampleRandom::below(int64_t n) {
  return static_cast<int64_t>(uint64_t{bits()} * static_cast<uint64_t>(n) >> 32);
}

Transform compose(std::vector<Transform> steps) {
  return [steps = std::move(steps)](const Tensor& x, SampleRandom& random) {
    Tensor out = x;
    for (const Transform& step : steps) out = step(out, random);
    return out;
  };
}

Transform to_float(float divisor) {
  return [divisor](const Tensor& x, SampleRandom&) {
    expect_dtype("to_float", x, DType::u8);
    const Tensor from = dense(x);
    Tensor out = Tensor::empty(x.shape(), DType::f32, cpu());
    const auto* a = elements<uint8_t>(from);
    std::transform(a, a + x.numel(), static_cast<float*>(out.data()),
                   [divisor](uint8_t v) { return static_cast<float>(v) / divisor; });
    return out;
  };
}

Transform normalize(std::vector<float> mean, std::vector<float> std, Loc loc) {
  if (mean.empty() || mean.size() != std.size())
    fail<ValueError>(loc, "normalize: {} means and {} standard deviations", mean.size(), std.size());
  for (const float s : std)
    if (!(s > 0)) fail<ValueError>(loc, "normalize: a standard deviation is {}, expected above 0", s);
  return [mean = std::move(mean), std = std::move(std)](const Tensor& x, SampleRandom&) {
    const Planes p = planes_of("normalize", x);
    expect_dtype("normalize", x, DType::f32);
    if (static_cast<size_t>(p.channels) != mean.size())
      fail<ShapeError>(Loc::current(), "normalize: expected {} channels, got {}", mean.size(), p.channels);
    const Tensor from = dense(x);
    Tensor out = Tensor::empty(x.shape(), DType::f32, cpu());
    const auto* a = elements<float>(from);
    auto* to = static_cast<float*>(out.data());
    for (size_t c = 0; c < mean.size(); ++c)
      for (int64_t i = 0; i < p.height * p.width; ++i) *to++ = (*a++ - mean[c]) / std[c];
    return out;
  };
}

Transform random_horizontal_flip(double probability, Loc loc) {
  if (!(probability >= 0 && probability <= 1))
    fail<ValueError>(loc, "random_horizontal_flip: probability {}, expected 0 to 1", probability);
  return [probability](const Tensor& x, SampleRandom& random) {
    const Planes p = planes_of("random_horizontal_flip", x);
    if (random.uniform() >= probability || p.width == 0) return x;
    const Tensor from = dense(x);
    Tensor out = Tensor::empty(x.shape(), x.dtype(), cpu());
    const size_t size = size_of(x.dtype());
    const auto* a = elements<std::byte>(from);
    auto* to = static_cast<std::byte*>(out.data());
    for (int64_t row = 0; row < p.channels * p.height; ++row)
      for (int64_t i = p.width - 1; i >= 0; --i, to += size)
        std::memcpy(to, a + static_cast<size_t>(row * p.width + i) * size, size);
    return out;
  };
}

Transform random_crop(const RandomCrop& options, Loc loc) {
  if (options.height < 1 || options.width < 1 || options.padding < 0)
    fail<ValueError>(loc, "random_crop: {} x {} with padding {}, expected at least 1 x 1 and 0", options.height,
                     options.width, options.padding);
  return [o = options](const Tensor& x, SampleRandom& random) {
    const Planes p = planes_of("random_crop", x);
    if (x.dtype() != DType::u8) expect_dtype("random_crop", x, DType::f32);
    else if (!(o.fill >= 0 && o.fill <= 255))
      fail<ValueError>(Loc::current(), "random_crop: fill {} of a uint8 image, expected 0 to 255", o.fill);
    const int64_t rows = p.height + 2 * o.padding - o.height, columns = p.width + 2 * o.padding - o.width;
    if (rows < 0 || columns < 0)
      fail<ShapeError>(Loc::current(), "random_crop: {} x {} with padding {} is smaller than {} x {}", p.height,
                       p.width, o.padding, o.height, o.width);
    const int64_t top = random.below(rows + 1) - o.padding, left = random.below(columns + 1) - o.padding;
    const Tensor from = dense(x);
    return x.dtype() == DType::u8 ? cropped<uint8_t>(from, p, o, top, left) : cropped<float>(from, p, o, top, left);
  };
}

Transform resize(const Resize& options, Loc loc) {
  if (options.height < 1 || options.width < 1)
    fail<ValueError>(loc, "resize: {} x {}, expected at least 1 x 1", options.height, options.width);
  return [o = options](const Tensor& x, SampleRandom&) {
    const Planes p = planes_of("resize", x);
    expect_dtype("resize", x, DType::u8);
    if (p.height == 0 || p.width == 0) fail<ShapeError>(Loc::current(), "resize: an empty image, shape {}", x.shape());
    return resized(dense(x), p, o);
  };
}

TransformedDataset::TransformedDataset(std::shared_ptr<const Dataset> dataset, Transform transform, uint64_t seed,
                                       Loc loc)
    : dataset_(std::move(dataset)), transform_(std::move(transform)), seed_(seed) {
  if (!dataset_ || !transform_) fail<ValueError>(loc, "TransformedDataset: no dataset or no transform");
}

Sample TransformedDataset::get_in_epoch(int64_t index, uint64_t epoch) const {
  Sample sample = dataset_->get_in_epoch(index, epoch);
  if (sample.empty()) fail<ValueError>(Loc::current(), "TransformedDataset: sample {} has no tensors", index);
  SampleRandom random(seed_, epoch, static_cast<uint64_t>(index));
  sample[0] = transform_(sample[0], random);
  return sample;
}

}  // namespace flame::data
