// The text a model learns: ASCII characters as numbers, cut into windows.
#pragma once
#include <flame/flame.h>

#include <memory>
#include <string>

// Characters and their numbers; those beyond ASCII are left out.
class Vocabulary {
 public:
  explicit Vocabulary(const std::string& text);  // of the characters in it, in the order of their codes
  int64_t size() const { return static_cast<int64_t>(characters_.size()); }
  std::vector<uint8_t> encode(const std::string& text) const;  // ValueError for a character that is not in it
  char character(int64_t number) const { return characters_[static_cast<size_t>(number)]; }

 private:
  std::string characters_;
};

// The ASCII characters of a file, plain or gzip'd.
std::string read_text(const std::string& path);

// Sample i: `context` characters from place i on, and those that follow each of them. Both int64 [context].
class Windows : public flame::data::Dataset {
 public:
  Windows(std::vector<uint8_t> text, int64_t context);
  int64_t size() const override { return static_cast<int64_t>(text_->size()) - context_; }
  flame::data::Sample get(int64_t index) const override;
  std::vector<flame::Tensor> get_batch(std::span<const int64_t> indices, uint64_t epoch = 0) const override;

 private:
  std::shared_ptr<const std::vector<uint8_t>> text_;
  int64_t context_;
};
