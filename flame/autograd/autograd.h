// Gradients: backward, grad, modes, checks. The engine is iterative; rules are written in tensor ops.
#pragma once
#include <functional>

#include "flame/autograd/modes.h"
#include "flame/tensor/tensor.h"

namespace flame {

struct BackwardOptions {
  Tensor gradient = {};       // of the output; needed unless it has one element
  bool retain_graph = false;  // keep saved tensors for another backward
  bool create_graph = false;  // make the gradients differentiable
};
// Adds d(output)/d(leaf) to the gradient of every leaf that `output` depends on.
void backward(const Tensor& output, const BackwardOptions& options = {}, Loc loc = Loc::current());

struct GradOptions {
  std::vector<Tensor> grad_outputs = {};  // one per output; ones if left out and the output has one element
  bool retain_graph = false;              // implied by create_graph
  bool create_graph = false;
  bool allow_unused = false;  // give undefined tensors instead of throwing AutogradError
};
// d(outputs)/d(inputs), without touching any leaf's gradient.
std::vector<Tensor> grad(const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs,
                         const GradOptions& options = {}, Loc loc = Loc::current());

// While one lives, backward on this thread throws AutogradError at the first NaN or Inf in a gradient that reaches an op
// or leaves it, naming op and forward line.
class AnomalyMode {
 public:
  AnomalyMode();
  ~AnomalyMode();
  AnomalyMode(const AnomalyMode&) = delete;
  AnomalyMode& operator=(const AnomalyMode&) = delete;

 private:
  bool before_;
};

// A function with its own backward.
struct FunctionContext {
  std::vector<Tensor> saved;  // filled by forward, read by backward
};
struct Function {
  std::function<std::vector<Tensor>(FunctionContext&, const std::vector<Tensor>&)> forward;
  // Incoming gradients, one per output, to gradients of the inputs; an undefined tensor means none.
  std::function<std::vector<Tensor>(const FunctionContext&, const std::vector<Tensor>&)> backward;
  const char* name = "function";
};
std::vector<Tensor> apply(const Function& f, const std::vector<Tensor>& inputs, Loc loc = Loc::current());

// Numerical checks by central differences, for float64 inputs. Throws AutogradError that names the first entry that
// differs: input, index, analytic and numerical value.
using TensorFn = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;
struct GradcheckOptions {
  double eps = 1e-6, atol = 1e-5, rtol = 1e-3;
};
void gradcheck(const TensorFn& fn, const std::vector<Tensor>& inputs, const GradcheckOptions& o = {},
               Loc loc = Loc::current());
void gradgradcheck(const TensorFn& fn, const std::vector<Tensor>& inputs, const GradcheckOptions& o = {},
                   Loc loc = Loc::current());

}  // namespace flame
