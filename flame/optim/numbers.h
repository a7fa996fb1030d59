// Internal: what kernels read of a step, from a group's numbers and the count of steps. The host's text and, where a device
// counts the steps that were not skipped, its kernels'.
#pragma once
#include <cmath>

namespace flame::optim {

// A group's numbers, in the order in which they are saved. Each algorithm gives them their meaning; a schedule moves
// lr, and beta1 (SGD's and RMSprop's momentum).
struct Hyper {
  double lr = 0, weight_decay = 0, beta1 = 0, beta2 = 0, eps = 0;
  double extra[2] = {0, 0};
  double flags = 0;
  constexpr bool has(unsigned f) const { return (static_cast<unsigned>(flags) & f) != 0; }
};
inline constexpr int hyper_size = 8;
static_assert(sizeof(Hyper) == hyper_size * sizeof(double));

namespace flag {
inline constexpr unsigned maximize = 1, decoupled = 2, nesterov = 4, amsgrad = 8, centered = 16, relative_step = 32,
                          scale_parameter = 64;
}

// Step n counts from 1; a: ten arguments. The first three mean the same everywhere: the factor of the gradient (1, or -1
// uphill), what remains of the parameter by decoupled decay, and the L2 decay that is added to the gradient.
namespace numbers {

inline void common(const Hyper& h, double* a) {
  const bool decoupled = h.has(flag::decoupled);
  a[0] = h.has(flag::maximize) ? -1.0 : 1.0;
  a[1] = decoupled ? 1 - h.lr * h.weight_decay : 1;
  a[2] = decoupled ? 0 : h.weight_decay;
}

inline void adam(const Hyper& h, double n, double* a) {
  common(h, a);
  a[3] = 1 - h.beta1;
  a[4] = h.beta2;
  a[5] = 1 - h.beta2;
  a[6] = std::sqrt(1 - std::pow(h.beta2, n));
  a[7] = h.eps;
  a[8] = h.lr / (1 - std::pow(h.beta1, n));
}

// With a constant beta1 the product of all momenta so far is a function of the step, so it is no state.
inline double nadam_momentum(const Hyper& h, double n) { return h.beta1 * (1 - 0.5 * std::pow(0.96, n * h.extra[0])); }
inline void nadam(const Hyper& h, double n, double* a) {
  double product = 1;  // of the first n momenta; below 1e-20, 1 minus it is 1
  for (double i = 1; i <= n && product > 1e-20; ++i) product *= nadam_momentum(h, i);
  const double next = nadam_momentum(h, n + 1);
  common(h, a);
  a[3] = 1 - h.beta1;
  a[4] = h.beta2;
  a[5] = 1 - h.beta2;
  a[6] = 1 - std::pow(h.beta2, n);
  a[7] = h.eps;
  a[8] = h.lr * (1 - nadam_momentum(h, n)) / (1 - product);
  a[9] = h.lr * next / (1 - product * next);
}

inline void radam(const Hyper& h, double n, double* a) {
  const double power = std::pow(h.beta2, n), correction = 1 - power;
  const double longest = 2 / (1 - h.beta2) - 1;  // rho_inf: how many gradients the second moment averages in the end
  const double length = longest - 2 * n * power / correction;  // rho_t: and now
  common(h, a);
  a[3] = 1 - h.beta1;
  a[4] = h.beta2;
  a[5] = 1 - h.beta2;
  a[6] = length > 5 ? std::sqrt(correction) *
                          std::sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
                    : 0;
  a[7] = h.eps;
  a[8] = h.lr / (1 - std::pow(h.beta1, n));
}

inline void adamax(const Hyper& h, double n, double* a) {
  common(h, a);
  a[3] = 1 - h.beta1;
  a[4] = h.beta2;
  a[5] = h.eps;
  a[6] = h.lr / (1 - std::pow(h.beta1, n));
}

inline void sgd(const Hyper& h, double n, double* a) {
  const bool first = n == 1, nesterov = h.has(flag::nesterov);
  common(h, a);
  a[3] = h.lr;
  a[4] = first ? 0 : h.beta1;
  a[5] = first ? 1 : 1 - h.beta2;
  a[6] = nesterov ? 1 : 0;
  a[7] = nesterov ? h.beta1 : 1;
}

// beta1 is the momentum, beta2 alpha.
inline void rmsprop(const Hyper& h, double, double* a) {
  common(h, a);
  a[3] = h.lr;
  a[4] = h.beta2;
  a[5] = 1 - h.beta2;
  a[6] = h.eps;
  a[7] = h.beta1;
}

// extra: lr_decay and the sum's start.
inline void adagrad(const Hyper& h, double n, double* a) {
  common(h, a);
  a[3] = h.lr / (1 + (n - 1) * h.extra[0]);
  a[4] = h.eps;
}

inline void lion(const Hyper& h, double, double* a) {
  common(h, a);
  a[3] = h.lr;
  a[4] = h.beta1;
  a[5] = 1 - h.beta1;
  a[6] = h.beta2;
  a[7] = 1 - h.beta2;
}

// eps: eps1, or NaN for none; beta2: beta2_decay; extra: eps2 and d.
inline void adafactor(const Hyper& h, double n, double* a) {
  const double least = 1 / std::sqrt(n);
  common(h, a);
  a[3] = std::pow(n, h.beta2);
  a[4] = h.has(flag::relative_step) && least < h.lr ? least : h.lr;
  a[5] = h.eps;
  a[6] = h.extra[0];
  a[7] = h.extra[1];
  a[8] = h.has(flag::scale_parameter) ? 1 : 0;
}

}  // namespace numbers
}  // namespace flame::optim
