// Sorted byte by byte, so that the same folder gives the same numbers on every machine.
#include "flame/data/image_folder.h"

#include <algorithm>
#include <filesystem>

#include "flame/core/format.h"

namespace flame::data {
namespace {

namespace fs = std::filesystem;

bool is_picture(const fs::path& p) {
  std::string end = p.extension().string();
  std::transform(end.begin(), end.end(), end.begin(), [](unsigned char c) { return std::tolower(c); });
  return end == ".png" || end == ".jpg" || end == ".jpeg";
}

std::vector<std::string> names_in(const fs::path& folder, bool (*wanted)(const fs::directory_entry&), Loc loc) {
  std::vector<std::string> out;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().filename().string()[0] != '.' && wanted(*it)) out.push_back(it->path().filename().string());
  if (error) fail<IoError>(loc, "cannot read folder '{}': {}", folder.string(), error.message());
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

ImageFolder::ImageFolder(const std::string& root, const ImageFolderOptions& options, Loc loc) : options_(options) {
  if (options.channels != 0 && options.channels != 1 && options.channels != 3 && options.channels != 4)
    fail<ValueError>(loc, "ImageFolder: {} channels, expected 0, 1, 3 or 4", options.channels);
  classes_ = names_in(
      root, [](const fs::directory_entry& e) { return e.is_directory(); }, loc);
  if (classes_.empty()) fail<FormatError>(loc, "'{}' has no folders, expected one for each class", root);
  for (size_t label = 0; label < classes_.size(); ++label) {
    const std::string folder = root + "/" + classes_[label];
    const auto files = names_in(
        folder, [](const fs::directory_entry& e) { return e.is_regular_file() && is_picture(e.path()); }, loc);
    if (files.empty()) fail<FormatError>(loc, "'{}' has no .png, .jpg or .jpeg files", folder);
    for (const std::string& f : files) files_.push_back({fmt::format("{}/{}", folder, f), static_cast<int64_t>(label)});
  }
}

const std::string& ImageFolder::file(int64_t index, Loc loc) const {
  if (index < 0 || index >= size())
    fail<IndexError>(loc, "ImageFolder: index {} is out of range for {} pictures", index, size());
  return files_[static_cast<size_t>(index)].path;
}

Sample ImageFolder::get(int64_t index) const {
  const Tensor image = io::read_image(file(index), {.channels = options_.channels});
  Tensor label = Tensor::empty({}, DType::i64, cpu());
  *static_cast<int64_t*>(label.data()) = files_[static_cast<size_t>(index)].label;
  return {image, label};
}

}  // namespace flame::data
