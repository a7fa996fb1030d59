// What a finished run leaves for people and other programs: weights, predictions, pictures.
#pragma once
#include <flame/flame.h>

#include "net.h"

// The class of each image with the highest score. Leaves the network in training mode.
std::vector<int64_t> predict(Net& net, const flame::Tensor& images);
// Per cent of predictions that equal the labels.
double accuracy(const std::vector<int64_t>& predicted, const std::vector<int64_t>& labels);
// model.safetensors, predictions.csv, predictions.png and loss.svg.
void write_results(const flame::train::RunFolder& folder, const Net& net, const flame::data::TensorDataset& test,
                   const std::vector<int64_t>& predicted);
