// libFuzzer target: the index of a sharded safetensors file.
#include "flame/io/safetensors_shards.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return flame_test::fuzz(data, size, [](const std::string& path) { flame::io::ShardedSafetensors shards(path); });
}
