// Fashion-MNIST: 70,000 pictures of clothes, 28 x 28 grey pixels, in ten classes (Xiao, Rasul and Vollgraf 2017).
#pragma once
#include <flame/flame.h>

#include <array>

inline constexpr std::array class_names = {"T-shirt", "trouser", "pullover", "dress", "coat",
                                           "sandal",  "shirt",   "sneaker",  "bag",   "boot"};

// The 60,000 training images and the 10,000 test images, as bytes, with labels.
inline flame::data::ImageSets load_images() {
  const std::string folder = flame::data::dataset_folder("fashion-mnist");
  if (!flame::io::file_exists(folder))
    throw flame::IoError("no data set in '" + folder +
                             "': install it by `apt-get install dataset-fashion-mnist`, or set "
                             "FLAME_DATASETS to the folder that holds fashion-mnist/",
                         flame::Loc::current());
  return flame::data::idx_folder(folder);
}

// With the first `limit` training images alone; 0: all.
inline flame::data::ImageSets limited(const flame::data::ImageSets& sets, int64_t limit) {
  if (limit == 0 || limit >= sets.train.size()) return sets;
  std::vector<flame::Tensor> first;
  for (const flame::Tensor& t : sets.train.tensors()) first.push_back(t.narrow(0, 0, limit).contiguous());
  return {flame::data::TensorDataset(first), sets.test};
}
