// Image sets in IDX files, as MNIST and Fashion-MNIST come.
#pragma once
#include <string>

#include "flame/data/dataset.h"

namespace flame::data {

// Images as uint8 [n, h, w] and labels as int64 [n]. FormatError if the two files do not belong together.
TensorDataset idx_dataset(const std::string& images, const std::string& labels, Loc loc = Loc::current());

struct ImageSets {
  TensorDataset train, test;
};
// From the four files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-… of a folder, plain or gzip'd.
ImageSets idx_folder(const std::string& folder, Loc loc = Loc::current());

// The folder of a named data set: below $FLAME_DATASETS if that is set, else below /usr/share/datasets.
std::string dataset_folder(const std::string& name);

}  // namespace flame::data
