// Reading a text and cutting it into windows.
#include "text.h"

#include <flame/core/format.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

using namespace flame;

Vocabulary::Vocabulary(const std::string& text) : characters_(text) {
  std::sort(characters_.begin(), characters_.end());
  characters_.erase(std::unique(characters_.begin(), characters_.end()), characters_.end());
}

std::vector<uint8_t> Vocabulary::encode(const std::string& text) const {
  std::vector<uint8_t> out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto at = std::lower_bound(characters_.begin(), characters_.end(), c);
    if (at == characters_.end() || *at != c)
      fail<ValueError>(Loc::current(), "the text that was learned has no character of code {:#04x}",
                       static_cast<unsigned char>(c));
    out.push_back(static_cast<uint8_t>(at - characters_.begin()));
  }
  return out;
}

std::string read_text(const std::string& path) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (!file) fail<IoError>(Loc::current(), "'{}': {}", path, std::strerror(errno));
  std::string out;
  char block[1 << 16];
  int n = 0;
  while ((n = gzread(file.get(), block, sizeof block)) > 0)
    std::copy_if(block, block + n, std::back_inserter(out), [](char c) { return c == '\n' || (c >= ' ' && c <= '~'); });
  int code = Z_OK;
  const char* what = gzerror(file.get(), &code);  // of a file that is cut off, too
  if (n < 0 || code != Z_OK) fail<FormatError>(Loc::current(), "'{}': {}", path, what);
  return out;
}

Windows::Windows(std::vector<uint8_t> text, int64_t context)
    : text_(std::make_shared<const std::vector<uint8_t>>(std::move(text))), context_(context) {
  if (size() < 1)
    fail<ValueError>(Loc::current(), "the text has {} characters, expected more than the context of {}", text_->size(),
                     context);
}

data::Sample Windows::get(int64_t index) const {
  const std::vector<Tensor> batch = get_batch({&index, 1});
  return {batch[0].select(0, 0), batch[1].select(0, 0)};
}

std::vector<Tensor> Windows::get_batch(std::span<const int64_t> indices, uint64_t) const {
  std::vector<int64_t> x, y;
  for (const int64_t i : indices) {
    const auto from = text_->begin() + i, to = from + context_;
    x.insert(x.end(), from, to);
    y.insert(y.end(), from + 1, to + 1);
  }
  const Shape shape{static_cast<int64_t>(indices.size()), context_};
  return {Tensor::from(x, shape, cpu()), Tensor::from(y, shape, cpu())};
}
