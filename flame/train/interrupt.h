// Stopping on request: Ctrl-C and `kill` set a flag that a training loop looks at between steps.
#pragma once

namespace flame::train {

// While one lives, the first SIGINT or SIGTERM only sets the flag; a second one ends the process as usual. One at a time.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  bool requested() const { return signal() != 0; }
  int signal() const;  // its number, or 0; a shell expects exit status 128 + number
};

}  // namespace flame::train
