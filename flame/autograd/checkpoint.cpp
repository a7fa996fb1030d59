// Checkpoints as a policy on saved tensors: pack keeps a number, unpack runs the segment again and takes what its ops save.
// The graph is the one of the first run, so derivatives of any order go through it.
#include "flame/autograd/autocast.h"
#include "flame/autograd/checkpoint.h"

#include <map>

#include "flame/autograd/modes.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/device_scope.h"
#include "flame/tensor/segment.h"

namespace flame {
namespace {

using SegmentFn = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;

class Checkpoint : public std::enable_shared_from_this<Checkpoint> {
 public:
  Checkpoint(SegmentFn fn, const std::vector<Tensor>& inputs, Loc loc)
      : fn_(std::move(fn)),
        generator_(default_generator()),
        device_(default_device()),
        autocast_(autocast_dtype()),
        origin_(new Origin(loc)) {
    for (const Tensor& t : inputs) {
      Input& in = inputs_.emplace_back();
      if (!t.defined()) continue;
      in.value.save(t.value_ref());  // through the hooks around, so that an outer checkpoint keeps nothing either
      in.requires_grad = t.requires_grad();
    }
  }

  std::vector<Tensor> run(const std::vector<Tensor>& inputs) {
    const auto self = shared_from_this();
    const SavedTensorHooksScope hooks({[self](const Tensor& t) { return std::any(self->pack(t)); },
                                       [self](const std::any& i) { return self->unpack(std::any_cast<size_t>(i)); }});
    const SegmentScope notes(segment_, SegmentScope::Run::first);
    std::vector<Tensor> out = fn_(inputs);
    segment_.forget_dead();
    complete_ = true;
    return out;
  }

 private:
  struct Origin final : Node {  // names the call in errors
    explicit Origin(Loc loc) : Node("checkpoint", loc, 0) {}
    void backward(BackwardContext&) override {}
  };
  struct Input {
    SavedValue value;
    bool requires_grad = false;
  };
  struct Saved {
    DType dtype;
    Shape shape;
  };
  using Values = std::vector<Ref<Value>>;

  SegmentFn fn_;
  std::vector<Input> inputs_;
  Generator generator_;
  Device& device_;
  const std::optional<DType> autocast_;
  const Ref<Node> origin_;
  Segment segment_;                   // what the first run read and drew
  std::vector<Saved> saved_;          // in order
  bool complete_ = false;             // false while the first run goes on
  std::mutex mutex_;                  // passes of several threads may share a graph
  std::map<uint64_t, Values> again_;  // by pass: what the second run saved; each is taken once

  size_t pack(const Tensor& t) {
    saved_.push_back({t.dtype(), t.shape()});
    return saved_.size() - 1;
  }

  Tensor unpack(size_t i) {
    BackwardPass* pass = BackwardPass::current();
    if (pass) {
      const std::lock_guard lock(mutex_);
      if (const auto it = again_.find(pass->id); it != again_.end() && it->second[i])
        return Tensor(std::exchange(it->second[i], {}));
    }
    Values values = second_run();
    Tensor found(std::exchange(values[i], {}));
    if (pass) {
      const std::lock_guard lock(mutex_);
      if (again_.insert_or_assign(pass->id, std::move(values)).second)
        pass->at_end.push_back([self = weak_from_this(), id = pass->id] {
          const auto alive = self.lock();
          if (!alive) return;
          Values left;  // freed after the lock is gone
          const std::lock_guard lock(alive->mutex_);
          if (const auto it = alive->again_.find(id); it != alive->again_.end()) {
            left = std::move(it->second);
            alive->again_.erase(it);
          }
        });
    }
    return found;
  }

  Values second_run() {
    const Loc& loc = origin_->where;
    std::vector<Tensor> inputs;  // before the scopes: an outer checkpoint may run again for them
    for (const Input& in : inputs_) {
      Tensor& t = inputs.emplace_back();
      if (!in.value) continue;
      t = Tensor(in.value.get(*origin_));
      if (in.requires_grad) t.requires_grad_(loc);
    }
    Segment world = segment_;
    const SegmentScope scope(world, SegmentScope::Run::second);
    const GeneratorScope generator(generator_);
    const DeviceScope device(device_);
    const AutocastScope autocast(autocast_);
    const InferenceMode plain(false);
    const EnableGrad graph;
    Values values;
    const SavedTensorHooksScope hooks({[&](const Tensor& t) {
                                         check(values.size(), t);
                                         values.push_back(t.value_ref());
                                         return std::any(t);
                                       },
                                       [](const std::any& t) { return std::any_cast<const Tensor&>(t); }});
    fn_(inputs);
    if (values.size() < saved_.size())
      fail<AutogradError>(loc, "checkpoint: the first run saved {} tensors, the second {}; both must do the same",
                          saved_.size(), values.size());
    return values;
  }

  void check(size_t i, const Tensor& t) const {
    if (i >= saved_.size()) {
      if (complete_)
        fail<AutogradError>(origin_->where,
                            "checkpoint: the first run saved {} tensors, the second more; both must do the same",
                            saved_.size());
      return;
    }
    if (saved_[i].dtype != t.dtype() || saved_[i].shape != t.shape())
      fail<AutogradError>(
          origin_->where,
          "checkpoint: saved tensor {} was {} {} in the first run and {} {} in the second; both must do "
          "the same",
          i, saved_[i].dtype, saved_[i].shape, t.dtype(), t.shape());
  }
};

}  // namespace

std::vector<Tensor> checkpoint(SegmentFn fn, const std::vector<Tensor>& inputs, Loc loc) {
  if (!grad_enabled()) return fn(inputs);
  return std::make_shared<Checkpoint>(std::move(fn), inputs, loc)->run(inputs);
}

}  // namespace flame
