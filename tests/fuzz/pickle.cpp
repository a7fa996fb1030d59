// libFuzzer target: the pickle of a PyTorch file, without the zip archive whose checksums would hide it.
#include "flame/io/pickle_internal.h"

#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    flame::io::read_pickle({reinterpret_cast<const char*>(data), size}, size, "fuzz", flame::Loc::current());
  } catch (const flame::FormatError&) {  // refused, as it should be
  }
  return 0;
}
