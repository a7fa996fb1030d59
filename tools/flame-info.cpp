// flame-info: what of the CUDA device is there on this machine, which piece is missing, and what was tuned so far.
#include <cstdio>
#include <cstring>
#include <string>

#include "flame/device/device.h"
#include "flame/device/plugin.h"

int main(int argc, char** argv) {
  if (argc > 1) {
    std::fprintf(std::strcmp(argv[1], "--help") == 0 ? stdout : stderr,
                 "usage: flame-info\nPrints devices, driver, versions of NVIDIA's libraries, the cache folder and the "
                 "choices tuned in it.\n");
    return std::strcmp(argv[1], "--help") == 0 ? 0 : 2;
  }
  std::printf("FLAME on %d threads\n", flame::num_threads());
  std::string missing;
  const auto report = reinterpret_cast<const char* (*)()>(flame::cuda_plugin_function("flame_cuda_info", missing));
  if (report) std::fputs(report(), stdout);
  else std::printf("CUDA device: %s\n", missing.c_str());
  return 0;
}
