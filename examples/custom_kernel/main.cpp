// A kernel of one's own with a gradient: the Snake activation x + sin(a x)^2 / a, forward and backward in CUDA text.
#include <flame/flame.h>

#include <cmath>
#include <cstdio>

using namespace flame;

// REAL is given as an option, so that one text serves float32 and float64.
const char* text = R"(
extern "C" __global__ void snake(const REAL* x, REAL* y, REAL a, long long n) {
  const long long i = flame::global_thread();
  if (i >= n) return;
  const REAL s = sin(a * x[i]);
  y[i] = x[i] + s * s / a;
}

extern "C" __global__ void snake_backward(flame::View<REAL> g, const REAL* x, REAL* dx, REAL a, long long n) {
  const long long i = flame::global_thread();
  if (i < n) dx[i] = g[i] * (1 + sin(2 * a * x[i]));  // g may be of any strides, such as a sum's, which repeats one number
}
)";

template <class T>
Tensor snake(const Tensor& x, T a, Loc loc = Loc::current()) {
  const std::vector<std::string> options{std::is_same_v<T, double> ? "-DREAL=double" : "-DREAL=float"};
  const CudaKernel forward(text, "snake", options), backward(text, "snake_backward", options);
  const Function f{
      .forward =
          [=](FunctionContext& c, const std::vector<Tensor>& in) {
            c.saved = in;
            const int64_t n = in[0].numel();
            const KernelOutput y{in[0].shape(), in[0].dtype()};
            return std::vector<Tensor>{forward({.blocks = blocks_over(n), .loc = loc}, in[0], y, a, n)};
          },
      .backward =
          [=](const FunctionContext& c, const std::vector<Tensor>& grads) {
            const Tensor& x = c.saved[0];
            const int64_t n = x.numel();
            const KernelOutput dx{x.shape(), x.dtype()};
            return std::vector<Tensor>{backward({.blocks = blocks_over(n)}, KernelView{grads[0]}, x, dx, a, n)};
          },
      .name = "snake"};
  return apply(f, {x}, loc)[0];
}

int main() {
  try {
    set_default_device(device("cuda"));
  } catch (const DeviceError& e) {
    std::printf("no GPU: %s\n", e.what());
    return 0;
  }
  Tensor x = arange(0, 8, 1, DType::f32);
  x.requires_grad_();
  const Tensor y = snake(x, 0.5f);
  backward(sum(y));
  std::printf("y  = %s\ndx = %s\n", y.to_string().c_str(), x.grad().to_string().c_str());

  // The gradient against differences.
  gradcheck([](const std::vector<Tensor>& in) { return std::vector<Tensor>{snake(in[0], 2.0)}; },
            {(arange(0, 8, 1, DType::f64) / 3).requires_grad_()});
  std::printf("the gradient is right\n");

  try {
    const CudaKernel wrong("extern \"C\" __global__ void wrong(float* y) {\n  y[0] = z;\n}", "wrong");
    wrong({}, KernelOutput{{1}});
  } catch (const ValueError& e) { std::printf("%s\n", e.what()); }
}
