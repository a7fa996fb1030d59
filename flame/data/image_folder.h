// Folders of pictures, a class each: ROOT/cat/1.png, ROOT/dog/a.jpg.
#pragma once
#include <string>
#include <vector>

#include "flame/data/dataset.h"
#include "flame/io/image.h"

namespace flame::data {

struct ImageFolderOptions {
  int channels = 3;  // 1, 3 or 4; 0 as in each file
};

// Samples are uint8 [channels, height, width] and int64 [], the number of the class in alphabetical order. Files end in
// .png, .jpg or .jpeg, in any case, and come sorted by class and name; others and hidden ones are passed over. A
// picture is read when it is asked for. FormatError for a root without classes or a class without pictures.
class ImageFolder final : public Dataset {
 public:
  explicit ImageFolder(const std::string& root, const ImageFolderOptions& options = {}, Loc loc = Loc::current());
  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  Sample get(int64_t index) const override;
  const std::vector<std::string>& classes() const { return classes_; }
  const std::string& file(int64_t index, Loc loc = Loc::current()) const;

 private:
  struct File {
    std::string path;
    int64_t label;
  };
  ImageFolderOptions options_;
  std::vector<std::string> classes_;
  std::vector<File> files_;
};

}  // namespace flame::data
