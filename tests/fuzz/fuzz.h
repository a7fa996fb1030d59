// What all fuzz targets share: the input as a file in memory, and the one error that damage may give.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "flame/core/error.h"

namespace flame_test {

// Always 0, as libFuzzer asks. Anything but a FormatError ends the process, and so is found.
template <class Load>
int fuzz(const uint8_t* data, size_t size, Load&& load) {
  const int fd = memfd_create("fuzz", 0);
  if (fd < 0 || write(fd, data, size) != static_cast<ssize_t>(size)) __builtin_trap();
  try {
    load("/proc/self/fd/" + std::to_string(fd));
  } catch (const flame::FormatError&) {  // refused, as it should be
  }
  close(fd);
  return 0;
}

}  // namespace flame_test
