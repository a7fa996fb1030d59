// The contract of an opaque op: attributes, shape inference, device bodies and gradient in one object.
// One object lives per call; forward and backward share it.
#pragma once
#include <array>
#include <initializer_list>
#include <optional>

#include "flame/tensor/tensor.h"

namespace flame {

// What an op's gradient rule sees: the forward's saved tensors and the incoming gradients; it gives one
// gradient an input. Rules are written in tensor ops, so they fuse, record and differentiate again.
class Vjp {
 public:
  virtual ~Vjp() = default;
  virtual bool needs(int input) const = 0;          // false: giving is allowed but wasted
  virtual Tensor input(int i) const = 0;            // only if the op saves it
  virtual Tensor output(int i) const = 0;           // only if the op saves it
  virtual const Meta& input_meta(int i) const = 0;  // always known
  virtual const Meta& output_meta(int i) const = 0;
  virtual Tensor grad(int output) const = 0;  // zeros if nothing arrived
  virtual bool has_grad(int output) const = 0;
  virtual bool create_graph() const = 0;  // the gradients will be differentiated again
  virtual void give(int input, const Tensor& g) = 0;
  virtual const Loc& call_site() const = 0;  // the forward call's line
};

enum class Layout : uint8_t { any, contiguous, channels_last };

class Op : public RefCounted {
 public:
  virtual const char* name() const = 0;
  // Checks the inputs and returns the outputs' metadata. Throws typed errors at `loc`.
  virtual std::vector<Meta> infer(std::span<const Tensor> in, Loc loc) const = 0;
  // The layout an input must have for the bodies; asked once a call, and made in one place.
  virtual Layout layout(int /*input*/, const Meta&) const { return Layout::any; }
  // Where an op without inputs runs; null: the default device.
  virtual Device* device() const { return nullptr; }
  // Attributes that a plan depends on.
  virtual void key(Key&) const {}
  // Host numbers and addresses handed to the body at every launch; no part of the plan.
  virtual std::vector<Word> scalars() const { return {}; }
  // Multiplications and additions of the products that it takes, for profilers.
  virtual int64_t flops(std::span<const Meta> /*in*/, std::span<const Meta> /*out*/) const { return 0; }
  // The device body. Library services are asked of the device; own kernels override prepare_cpu
  // and prepare_cuda.
  virtual Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const;
  virtual Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const;
  virtual Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const;

  // Which tensors the gradient rule reads; the rest are not kept alive.
  virtual bool saves_input(int) const { return true; }
  virtual bool saves_output(int) const { return false; }
  virtual bool differentiable() const { return true; }  // false: asking for a gradient throws NotDifferentiable
  virtual void vjp(Vjp& v) const;
};

// What the op reference and the registry suite know of an op. Each ops/*.cpp registers its own.
struct SampleCase {
  std::vector<Tensor> inputs;
  std::function<std::vector<Tensor>(const std::vector<Tensor>&)> fn;
  std::string label;
  int wrt = -1;             // inputs [0, wrt) are differentiated; -1: all floating inputs
  bool reads_host = false;  // the result's shape depends on values
};
struct OpEntry {
  std::string name;
  std::string signature;  // as a user calls it
  std::string formula;
  bool differentiable = true;
  // Test inputs for a floating dtype, deterministic; strided, broadcast, empty and ragged ones included.
  std::function<std::vector<SampleCase>(DType)> samples;
  std::string source = {};  // the file that holds it all, from the repository's root; found by RegisterOp
};
class Registry {
 public:
  static Registry& global();
  void add(OpEntry e);
  const std::vector<OpEntry>& entries() const { return entries_; }  // in order of registration
  const OpEntry* find(std::string_view name) const;

 private:
  std::vector<OpEntry> entries_;
};
struct RegisterOp {
  explicit RegisterOp(OpEntry e, Loc where = Loc::current());
};

}  // namespace flame
