// Tokens are widened straight from the mapping into the batch.
#include "flame/data/token_dataset.h"

#include <bit>
#include <cstring>

#include "flame/core/format.h"

namespace flame::data {
namespace {

static_assert(std::endian::native == std::endian::little, "tokens are read in memory order");

template <class T>
void widen(const std::byte* src, int64_t count, int64_t* dst) {
  for (int64_t i = 0; i < count; ++i) {
    T v;
    std::memcpy(&v, src + static_cast<size_t>(i) * sizeof v, sizeof v);
    dst[i] = v;
  }
}

}  // namespace

TokenDataset::TokenDataset(const std::string& path, const TokenOptions& options, Loc loc)
    : file_(std::make_shared<const io::MappedFile>(path, loc)), options_(options) {
  if (options.window < 1 || options.stride < 0 || options.vocabulary < 0)
    fail<ValueError>(loc, "TokenDataset: window {}, stride {}, vocabulary {}, expected at least 1, 0 and 0",
                     options.window, options.stride, options.vocabulary);
  if (options_.stride == 0) options_.stride = options_.window;
  const auto width = static_cast<size_t>(options_.width);
  if (file_->size() % width != 0)
    fail<FormatError>(loc, "'{}': {} bytes are no whole number of {}-byte tokens", path, file_->size(), width);
  tokens_ = static_cast<int64_t>(file_->size() / width);
  if (tokens_ - 1 < options_.window)
    fail<FormatError>(loc, "'{}': {} tokens are too few for a window of {} and the token after it", path, tokens_,
                      options_.window);
  size_ = (tokens_ - 1 - options_.window) / options_.stride + 1;
}

void TokenDataset::read(int64_t index, int64_t* x, int64_t* y) const {
  if (index < 0 || index >= size_)
    fail<IndexError>(Loc::current(), "TokenDataset: index {} is out of range for {} windows", index, size_);
  const int64_t start = index * options_.stride, window = options_.window;
  const auto width = static_cast<size_t>(options_.width);
  const std::byte* from = file_->data() + static_cast<size_t>(start) * width;
  const auto take = [&](const std::byte* src, int64_t* dst) {
    if (options_.width == TokenWidth::uint16) widen<uint16_t>(src, window, dst);
    else widen<uint32_t>(src, window, dst);
  };
  take(from, x);
  take(from + width, y);
  if (options_.vocabulary == 0) return;
  for (int64_t i = 0; i <= window; ++i)
    if (const int64_t token = i < window ? x[i] : y[window - 1]; token >= options_.vocabulary)
      fail<FormatError>(Loc::current(), "'{}': byte {}: token {}, expected below {}", file_->path(),
                        static_cast<size_t>(start + i) * width, token, options_.vocabulary);
}

Sample TokenDataset::get(int64_t index) const {
  Sample out{Tensor::empty({options_.window}, DType::i64, cpu()), Tensor::empty({options_.window}, DType::i64, cpu())};
  read(index, static_cast<int64_t*>(out[0].data()), static_cast<int64_t*>(out[1].data()));
  return out;
}

std::vector<Tensor> TokenDataset::get_batch(std::span<const int64_t> indices, uint64_t) const {
  const Shape shape{static_cast<int64_t>(indices.size()), options_.window};
  Tensor x = Tensor::empty(shape, DType::i64, cpu()), y = Tensor::empty(shape, DType::i64, cpu());
  for (size_t i = 0; i < indices.size(); ++i) {
    const auto at = static_cast<ptrdiff_t>(i) * options_.window;
    read(indices[i], static_cast<int64_t*>(x.data()) + at, static_cast<int64_t*>(y.data()) + at);
  }
  return {x, y};
}

}  // namespace flame::data
