// A library for tests/dlpack/dlpack_test.py: hands FLAME's tensors to Python by DLPack, and reads Python's.
#include <algorithm>
#include <cstring>

#include "flame/flame.h"

using namespace flame;

namespace {
int living = 0;  // tensors made by probe_export whose bytes still stand
}

extern "C" {

int probe_living() { return living; }

// [[0, 1, 2], [3, 4, 5]] of a dtype (bool: 0 and 1 by turns), transposed to [3, 2].
void* probe_export(int dtype, int copy, int legacy) {
  static int64_t numbers[6];
  const Tensor t = Tensor::from<int64_t>({0, 1, 2, 3, 4, 5}, {2, 3}).to(all_dtypes[dtype]);
  t.copy_to_host(numbers, t.dtype());
  ++living;
  auto* own = new std::byte[48];
  std::memcpy(own, numbers, 48);
  const Tensor blob = visit_dtype(t.dtype(), [&](auto v) {
    return Tensor::from_blob(reinterpret_cast<decltype(v)*>(own), {2, 3}, [own](void*) {
      delete[] own;
      --living;
    });
  });
  if (legacy) return io::to_dlpack_legacy(blob.t());
  return io::to_dlpack(blob.t(), {.copy = copy != 0});
}

// Takes the tensor, reads it and lets it go: shape and numbers as text, or the error.
void probe_import(void* managed, int legacy, char* text, size_t size) {
  std::string out;
  try {
    const Tensor t = legacy ? io::from_dlpack(static_cast<dlpack::DLManagedTensor*>(managed))
                            : io::from_dlpack(static_cast<dlpack::DLManagedTensorVersioned*>(managed));
    out = std::string(name_of(t.dtype())) + " " + to_string(t.shape());
    for (const double v : t.to(DType::f64).to_vector<double>()) out += " " + std::to_string(static_cast<int64_t>(v));
  } catch (const Error& e) { out = std::string("error: ") + e.what(); }
  std::memset(text, 0, size);
  std::memcpy(text, out.data(), std::min(out.size(), size - 1));
}
}
