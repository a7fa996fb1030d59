// Layers without parameters that change the size of pictures and the like: pools and upsampling.
#pragma once
#include "flame/nn/module.h"
#include "flame/ops/interpolate.h"
#include "flame/ops/pool.h"

namespace flame::nn {

template <int axes>
struct AdaptivePoolOptions {
  PerAxis<axes> output_size;
};
struct UpsampleOptions {  // as in ops/interpolate.h
  PerSpatialAxis<int64_t> size = {};
  PerSpatialAxis<double> scale_factor = {};
  InterpolateMode mode = InterpolateMode::nearest;
  bool align_corners = false, recompute_scale_factor = false;
};
struct PixelShuffleOptions {
  int64_t factor;
};

// A layer that is a call of its op.
template <class O>
class Resize : public Layer {
 public:
  using Options = O;
  explicit Resize(const Options& o) : options(o) {}
  Resize(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : Layer(parent, std::move(name), loc), options(o) {}
  const Options options;
};

template <int axes>
class MaxPool : public Resize<MaxPoolOptions<axes>> {
 public:
  using Resize<MaxPoolOptions<axes>>::Resize;
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;
};
template <int axes>
class AvgPool : public Resize<AvgPoolOptions<axes>> {
 public:
  using Resize<AvgPoolOptions<axes>>::Resize;
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;
};
template <int axes>
class AdaptiveMaxPool : public Resize<AdaptivePoolOptions<axes>> {
 public:
  using Resize<AdaptivePoolOptions<axes>>::Resize;
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;
};
template <int axes>
class AdaptiveAvgPool : public Resize<AdaptivePoolOptions<axes>> {
 public:
  using Resize<AdaptivePoolOptions<axes>>::Resize;
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;
};
using MaxPool1d = MaxPool<1>;
using MaxPool2d = MaxPool<2>;
using MaxPool3d = MaxPool<3>;
using AvgPool1d = AvgPool<1>;
using AvgPool2d = AvgPool<2>;
using AvgPool3d = AvgPool<3>;
using AdaptiveMaxPool1d = AdaptiveMaxPool<1>;
using AdaptiveMaxPool2d = AdaptiveMaxPool<2>;
using AdaptiveMaxPool3d = AdaptiveMaxPool<3>;
using AdaptiveAvgPool1d = AdaptiveAvgPool<1>;
using AdaptiveAvgPool2d = AdaptiveAvgPool<2>;
using AdaptiveAvgPool3d = AdaptiveAvgPool<3>;

class Upsample : public Resize<UpsampleOptions> {
 public:
  using Resize::Resize;
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;
};
class PixelShuffle : public Resize<PixelShuffleOptions> {
 public:
  using Resize::Resize;
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;
};
class PixelUnshuffle : public Resize<PixelShuffleOptions> {
 public:
  using Resize::Resize;
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;
};

}  // namespace flame::nn
