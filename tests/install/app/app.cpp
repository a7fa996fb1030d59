// Built against the installed tree by install_test.py, once through CMake and once through pkg-config.
#include <flame/flame.h>

#include <cstdio>

int main() {
  flame::Tensor x = flame::ones({2, 3}).requires_grad_();
  flame::backward((x * x).sum());
  std::puts(x.grad().to_string().c_str());
}
