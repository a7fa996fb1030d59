// Windows over a memory-mapped file of tokens, for language models: text of any length without loading it.
#pragma once
#include <memory>
#include <string>

#include "flame/data/dataset.h"
#include "flame/io/file.h"

namespace flame::data {

enum class TokenWidth : uint8_t { uint16 = 2, uint32 = 4 };
struct TokenOptions {
  TokenWidth width = TokenWidth::uint16;  // of the file's little-endian numbers
  int64_t window = 128;                   // tokens of x and of y
  int64_t stride = 0;                     // from the start of one window to the next; 0: `window`
  int64_t vocabulary = 0;                 // tokens of this and above are a FormatError when read; 0: any
};

// Sample i is x = tokens[s, s + window) and y = tokens[s + 1, s + 1 + window) with s = i * stride, both int64. Copies
// share the mapping. FormatError if the file is not whole tokens or has fewer than window + 1.
class TokenDataset final : public Dataset {
 public:
  TokenDataset(const std::string& path, const TokenOptions& options, Loc loc = Loc::current());
  int64_t size() const override { return size_; }
  int64_t tokens() const { return tokens_; }
  Sample get(int64_t index) const override;
  std::vector<Tensor> get_batch(std::span<const int64_t> indices, uint64_t epoch = 0) const override;

 private:
  void read(int64_t index, int64_t* x, int64_t* y) const;
  std::shared_ptr<const io::MappedFile> file_;
  TokenOptions options_;
  int64_t tokens_ = 0, size_ = 0;
};

}  // namespace flame::data
