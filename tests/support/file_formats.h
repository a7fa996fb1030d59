// The file formats that are read, each with good and bad files of it: io_damage_test.cpp goes through all of them.
#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "flame/tensor/tensor.h"
#include "tests/support/bad_files.h"

namespace flame_test {

struct FileFormat {
  std::string name;
  std::function<std::vector<flame::Tensor>(const std::string& path)> load;
  std::function<std::vector<std::string>()> good;
  std::function<std::vector<BadFile>()> bad = {};
  size_t hot = 100;        // bytes at the front, and as many at the back, that mutants hit most
  double refused = 0.4;    // of the mutants, at least
  bool truncated = true;   // files cut off anywhere are refused
  bool checksums = false;  // whatever still loads is what it was
  bool zeros = false;      // the good files hold zeros
  std::function<std::string(const std::string&)> wrap = {};    // makes a file of what is damaged
  std::function<void(const std::string& folder)> beside = {};  // writes what the files refer to

  std::string file(const std::string& bytes) const { return wrap ? wrap(bytes) : bytes; }
};

inline std::vector<FileFormat>& file_formats() {
  static std::vector<FileFormat> all;
  return all;
}
struct AddFileFormat {
  explicit AddFileFormat(FileFormat f) { file_formats().push_back(std::move(f)); }
};

// Tensors of every dtype without a zero byte, so that zeros in what is read from a mutant would be the reader's.
inline std::vector<std::pair<std::string, flame::Tensor>> without_zeros(bool bf16 = true) {
  using namespace flame;
  std::vector<std::pair<std::string, Tensor>> out;
  for (const DType t : all_dtypes) {
    if (t == DType::bf16 && !bf16) continue;
    std::string bytes(35 * size_of(t), '\1');
    if (t != DType::boolean)
      for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(1 + i * 7 % 127);
    out.emplace_back(std::string(name_of(t)), Tensor::from_host(bytes.data(), 35, t, {5, 7}));
  }
  return out;
}

}  // namespace flame_test
