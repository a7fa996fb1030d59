// Scopes that say whether ops build a graph. Each belongs to the thread that made it: no other thread sees it, and a new
// thread starts with the graph on. Scopes nest, and end in the opposite order, as objects on the stack do.
#pragma once

namespace flame {

// Whether this thread's ops build a graph where an input requires a gradient.
bool grad_enabled();
void set_grad_enabled(bool on);  // without effect while an InferenceMode lives, and then until it ends

class GradMode {
 public:
  explicit GradMode(bool on);
  ~GradMode();
  GradMode(const GradMode&) = delete;
  GradMode& operator=(const GradMode&) = delete;

 private:
  bool before_;
};
// While one lives, ops on this thread build no graph.
struct NoGrad : GradMode {
  NoGrad() : GradMode(false) {}
};
// Inside a NoGrad: ops build one again.
struct EnableGrad : GradMode {
  EnableGrad() : GradMode(true) {}
};
template <class F>
decltype(auto) no_grad(F&& fn) {
  NoGrad guard;
  return fn();
}
template <class F>
decltype(auto) enable_grad(F&& fn) {
  EnableGrad guard;
  return fn();
}

// While one lives, ops on this thread build no graph, whatever code inside enables; grad with create_graph throws
// AutogradError. For serving: a call into it that expects gradients is found, not silently slow.
class InferenceMode {
 public:
  explicit InferenceMode(bool on = true);
  ~InferenceMode();
  InferenceMode(const InferenceMode&) = delete;
  InferenceMode& operator=(const InferenceMode&) = delete;
  static bool enabled();

 private:
  bool before_;
};

}  // namespace flame
