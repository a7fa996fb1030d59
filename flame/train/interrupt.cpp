// A handler may only set a flag of the process, which therefore lives here and not in the object.
#include "flame/train/interrupt.h"

#include <signal.h>

namespace flame::train {
namespace {

volatile sig_atomic_t received = 0;
struct sigaction before_int, before_term;

extern "C" void on_signal(int number) { received = number; }

}  // namespace

Interrupt::Interrupt() {
  received = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &before_int);
  sigaction(SIGTERM, &action, &before_term);
}

Interrupt::~Interrupt() {
  sigaction(SIGINT, &before_int, nullptr);
  sigaction(SIGTERM, &before_term, nullptr);
}

int Interrupt::signal() const { return received; }

}  // namespace flame::train
