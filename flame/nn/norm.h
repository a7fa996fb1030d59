// Normalisation layers.
#pragma once
#include <optional>

#include "flame/nn/module.h"

namespace flame::nn {

struct BatchNormOptions {
  int64_t channels;
  std::optional<double> momentum = 0.1;  // running = (1 - momentum) * running + momentum * batch; none: the average
  double eps = 1e-5;
  bool affine = true;  // a learned weight (from 1) and bias (from 0) a channel
  bool track = true;   // keeps running statistics; without them eval mode normalises by the batch too
  DType dtype = DType::f32;
};

// Over [N, channels, ...]; in eval mode by the running statistics (buffers running_mean, running_var and, int64,
// num_batches_tracked).
class BatchNorm : public Layer {
 public:
  using Options = BatchNormOptions;
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight, bias;  // undefined if not affine
  Buffer running_mean, running_var, num_batches_tracked;

 protected:
  BatchNorm(const char* kind, int lowest_rank, int highest_rank, Module* parent, std::string name, const Options& o,
            Loc loc);

 private:
  const char* kind_;
  int lowest_rank_, highest_rank_;
};
// [N, C] or [N, C, L].
class BatchNorm1d : public BatchNorm {
 public:
  explicit BatchNorm1d(const Options& o, Loc loc = Loc::current())
      : BatchNorm("BatchNorm1d", 2, 3, nullptr, {}, o, loc) {}
  BatchNorm1d(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : BatchNorm("BatchNorm1d", 2, 3, &parent, std::move(name), o, loc) {}
};
// [N, C, H, W].
class BatchNorm2d : public BatchNorm {
 public:
  explicit BatchNorm2d(const Options& o, Loc loc = Loc::current())
      : BatchNorm("BatchNorm2d", 4, 4, nullptr, {}, o, loc) {}
  BatchNorm2d(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : BatchNorm("BatchNorm2d", 4, 4, &parent, std::move(name), o, loc) {}
};
// [N, C, D, H, W].
class BatchNorm3d : public BatchNorm {
 public:
  explicit BatchNorm3d(const Options& o, Loc loc = Loc::current())
      : BatchNorm("BatchNorm3d", 5, 5, nullptr, {}, o, loc) {}
  BatchNorm3d(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : BatchNorm("BatchNorm3d", 5, 5, &parent, std::move(name), o, loc) {}
};

struct InstanceNormOptions {
  int64_t channels;
  double momentum = 0.1;
  double eps = 1e-5;
  bool affine = false;
  bool track = false;  // keeps running statistics, by which eval mode normalises
  DType dtype = DType::f32;
};
// Over the positions of each sample and channel of [N, channels, ...], or of one sample [channels, ...].
class InstanceNorm : public Layer {
 public:
  using Options = InstanceNormOptions;
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight, bias;                                     // undefined if not affine
  Buffer running_mean, running_var, num_batches_tracked;  // undefined if not tracked; the last stays 0, as in PyTorch

 protected:
  InstanceNorm(const char* kind, int rank, Module* parent, std::string name, const Options& o, Loc loc);

 private:
  const char* kind_;
  int rank_;
};
class InstanceNorm1d : public InstanceNorm {
 public:
  explicit InstanceNorm1d(const Options& o, Loc loc = Loc::current())
      : InstanceNorm("InstanceNorm1d", 3, nullptr, {}, o, loc) {}
  InstanceNorm1d(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : InstanceNorm("InstanceNorm1d", 3, &parent, std::move(name), o, loc) {}
};
class InstanceNorm2d : public InstanceNorm {
 public:
  explicit InstanceNorm2d(const Options& o, Loc loc = Loc::current())
      : InstanceNorm("InstanceNorm2d", 4, nullptr, {}, o, loc) {}
  InstanceNorm2d(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : InstanceNorm("InstanceNorm2d", 4, &parent, std::move(name), o, loc) {}
};
class InstanceNorm3d : public InstanceNorm {
 public:
  explicit InstanceNorm3d(const Options& o, Loc loc = Loc::current())
      : InstanceNorm("InstanceNorm3d", 5, nullptr, {}, o, loc) {}
  InstanceNorm3d(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : InstanceNorm("InstanceNorm3d", 5, &parent, std::move(name), o, loc) {}
};

struct GroupNormOptions {
  int64_t groups, channels;
  double eps = 1e-5;
  bool affine = true;
  DType dtype = DType::f32;
};
class GroupNorm : public Layer {
 public:
  using Options = GroupNormOptions;
  explicit GroupNorm(const Options& o, Loc loc = Loc::current()) : GroupNorm(nullptr, {}, o, loc) {}
  GroupNorm(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : GroupNorm(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight, bias;  // undefined if not affine

 private:
  GroupNorm(Module* parent, std::string name, const Options& o, Loc loc);
};

struct LayerNormOptions {
  Shape normalized;  // the sizes of the last axes
  double eps = 1e-5;
  bool affine = true;  // a learned weight (from 1) and bias (from 0) an element
  bool bias = true;    // without one the weight stays
  DType dtype = DType::f32;
};

class LayerNorm : public Layer {
 public:
  using Options = LayerNormOptions;
  explicit LayerNorm(const Options& o, Loc loc = Loc::current()) : LayerNorm(nullptr, {}, o, loc) {}
  LayerNorm(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : LayerNorm(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight, bias;  // undefined if not affine

 private:
  LayerNorm(Module* parent, std::string name, const Options& o, Loc loc);
};

struct RMSNormOptions {
  Shape normalized;                // the sizes of the last axes
  std::optional<double> eps = {};  // none: that of x's dtype
  bool affine = true;              // a learned weight (from 1) an element
  DType dtype = DType::f32;
};
class RMSNorm : public Layer {
 public:
  using Options = RMSNormOptions;
  explicit RMSNorm(const Options& o, Loc loc = Loc::current()) : RMSNorm(nullptr, {}, o, loc) {}
  RMSNorm(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : RMSNorm(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight;  // undefined if not affine

 private:
  RMSNorm(Module* parent, std::string name, const Options& o, Loc loc);
};

}  // namespace flame::nn
