// libFuzzer target: a safetensors file.
#include "flame/io/safetensors.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return flame_test::fuzz(data, size, [](const std::string& path) { flame::io::load_safetensors(path); });
}
