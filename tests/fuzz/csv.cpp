// libFuzzer target: a CSV file.
#include "flame/io/csv.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return flame_test::fuzz(data, size, [](const std::string& path) { flame::io::read_csv(path); });
}
