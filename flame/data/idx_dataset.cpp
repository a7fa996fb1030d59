// Labels become int64, the type of class indices; pixels stay bytes until the program scales them.
#include "flame/data/idx_dataset.h"

#include <cstdlib>
#include <optional>
#include <utility>

#include "flame/core/format.h"
#include "flame/device/cpu/parallel.h"
#include "flame/io/file.h"
#include "flame/io/idx.h"

namespace flame::data {

TensorDataset idx_dataset(const std::string& images, const std::string& labels, Loc loc) {
  const Tensor pixels = io::read_idx(images, loc), bytes = io::read_idx(labels, loc);
  for (const auto& [path, t] : {std::pair(&images, &pixels), std::pair(&labels, &bytes)})
    if (t->dtype() != DType::u8) fail<FormatError>(loc, "'{}': elements are {}, expected uint8", *path, t->dtype());
  if (pixels.rank() != 3) fail<FormatError>(loc, "'{}': sizes {}, expected images of rank 3", images, pixels.shape());
  if (bytes.rank() != 1) fail<FormatError>(loc, "'{}': sizes {}, expected labels of rank 1", labels, bytes.shape());
  if (pixels.shape()[0] != bytes.shape()[0])
    fail<FormatError>(loc, "'{}' has {} labels for the {} images of '{}'", labels, bytes.shape()[0], pixels.shape()[0],
                      images);
  Tensor classes = Tensor::empty(bytes.shape(), DType::i64, cpu(), loc);
  const auto* from = static_cast<const uint8_t*>(bytes.data());
  auto* to = static_cast<int64_t*>(classes.data());
  for (int64_t i = 0; i < bytes.numel(); ++i) to[i] = from[i];
  return TensorDataset({pixels, classes}, loc);
}

ImageSets idx_folder(const std::string& folder, Loc loc) {
  const auto file = [&](const std::string& name) {
    const std::string plain = folder + "/" + name;
    return io::file_exists(plain) ? plain : plain + ".gz";
  };
  std::optional<TensorDataset> sets[2];
  parallel_for(2, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const std::string set = i == 0 ? "train" : "t10k";
      sets[i] = idx_dataset(file(set + "-images-idx3-ubyte"), file(set + "-labels-idx1-ubyte"), loc);
    }
  });
  return {*std::move(sets[0]), *std::move(sets[1])};
}

std::string dataset_folder(const std::string& name) {
  const char* root = std::getenv("FLAME_DATASETS");
  return std::string(root && *root ? root : "/usr/share/datasets") + "/" + name;
}

}  // namespace flame::data
