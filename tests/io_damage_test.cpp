// Damage to files of every format: hand-made bad ones, files cut off anywhere, mutants. Each gives a FormatError that
// names the file and the trouble, within twice its size and 64 MiB, or loads; nothing crashes or invents zeros.
#include <gtest/gtest.h>

#include <cstdio>
#include <set>

#include "flame/data/token_dataset.h"
#include "flame/io/checkpoint.h"
#include "flame/io/file.h"
#include "support/compare.h"
#include "support/file_formats.h"

using namespace flame;
using flame_test::FileFormat;
using flame_test::Scratch;

namespace {

const flame_test::AddFileFormat tokens{
    {.name = "tokens",
     .load = [](const std::string& path) { return data::TokenDataset(path, {.window = 4, .vocabulary = 9000}).get(0); },
     .good = [] { return std::vector<std::string>{"\1\2\3\4\5\6\7\10\11\12\13\14"}; },
     .bad =
         [] {
           return std::vector<flame_test::BadFile>{{"", "0 tokens are too few"},
                                                   {"abc", "3 bytes are no whole number of 2-byte tokens"},
                                                   {"\1\1\2\1\3\1\4\1", "4 tokens are too few for a window of 4"},
                                                   {"\1\1\2\1\377\377\4\1\5\1\6\1", "byte 4: token 65535"}};
         },
     .hot = 12,
     .refused = 0.2,
     .truncated = false}};

std::vector<std::string> good_checkpoints() {
  const Scratch dir;
  io::save_checkpoint(dir / "c", flame_test::without_zeros(), {{"epoch", "1"}});
  return {io::read_file(dir / "c")};
}
std::vector<flame_test::BadFile> bad_checkpoints() {
  const std::string good = good_checkpoints()[0];
  std::string data = good, name = good, digits = good;
  data.back() ^= 1;
  name[good.find("epoch")] = 'E';
  digits[8 + 33] ^= 1;
  return {{"", "it does not begin with a checksum"},
          {"12345678{}", "it does not begin with a checksum"},
          {good.substr(0, 45), "it does not begin with a checksum"},
          {good + "x", "damaged: its checksum is"},
          {data, "damaged: its checksum is"},
          {name, "damaged: its checksum is"},
          {digits, "damaged: its checksum is"}};
}
const flame_test::AddFileFormat checkpoints{{.name = "checkpoint",
                                             .load =
                                                 [](const std::string& path) {
                                                   std::vector<Tensor> out;
                                                   for (auto& [name, t] : io::load_checkpoint(path).tensors)
                                                     out.push_back(t);
                                                   return out;
                                                 },
                                             .good = good_checkpoints,
                                             .bad = bad_checkpoints,
                                             .refused = 0.9,
                                             .checksums = true}};

int64_t zeros_in(const std::vector<Tensor>& tensors) {
  int64_t n = 0;
  for (const Tensor& t : tensors)
    for (const double v : test::numbers(t)) n += v == 0;
  return n;
}

std::vector<std::string> bytes_of(const std::vector<Tensor>& tensors) {
  std::vector<std::string> out;
  for (const Tensor& t : tensors) {
    const auto bytes = test::bytes(t);
    out.push_back(std::string(name_of(t.dtype())) + to_string(t.shape()) + std::string(bytes.begin(), bytes.end()));
  }
  return out;
}

// Mutants of one format; how many were refused.
int try_mutants(const FileFormat& f, const std::string& path, int mutants) {
  std::mt19937 random(11);
  const std::vector<std::string> good = f.good();
  std::vector<std::vector<std::string>> contents;
  for (const std::string& bytes : good) {
    flame_test::write_plain(path, f.file(bytes));
    contents.push_back(bytes_of(f.load(path)));
  }
  int told = 0;
  for (int i = 0; i < mutants; ++i) {
    const size_t k = static_cast<size_t>(i) % good.size();
    const std::string bad = flame_test::mutant(good[k], random, f.hot);
    std::vector<Tensor> loaded;
    const bool refused = flame_test::refusal(path, f.file(bad), [&](const std::string& p) { loaded = f.load(p); }) !=
                         flame_test::no_error;
    told += refused;
    if (refused) continue;
    if (f.checksums) { EXPECT_EQ(bytes_of(loaded), contents[k]) << f.name << ", mutant " << i; }
    if (!f.zeros) {
      EXPECT_LE(zeros_in(loaded), 150) << f.name << ", mutant " << i;  // an edit makes up to 40 bytes
    }
  }
  return told;
}

}  // namespace

TEST(FileFormats, GoodFilesLoad) {
  for (const FileFormat& f : flame_test::file_formats()) {
    const Scratch dir;
    if (f.beside) f.beside(dir.path());
    for (const std::string& bytes : f.good())
      EXPECT_EQ(flame_test::refusal(dir / "good", f.file(bytes), f.load), flame_test::no_error) << f.name;
  }
}

TEST(FileFormats, BadFilesAreToldApart) {
  size_t files = 0;
  for (const FileFormat& f : flame_test::file_formats()) {
    if (!f.bad) continue;
    SCOPED_TRACE(f.name);
    const Scratch dir;
    if (f.beside) f.beside(dir.path());
    const std::vector<flame_test::BadFile> bad = f.bad();
    flame_test::expect_refused(bad, dir.path(), f.load);
    files += bad.size();
    std::printf("  %-18s %3zu bad files\n", f.name.c_str(), bad.size());
  }
  std::printf("%zu hand-made bad files of %zu formats\n", files, flame_test::file_formats().size());
  EXPECT_GE(files, 60u);
}

TEST(FileFormats, TruncationsAreRefused) {
  size_t files = 0;
  for (const FileFormat& f : flame_test::file_formats()) {
    if (!f.truncated) continue;
    SCOPED_TRACE(f.name);
    const Scratch dir;
    if (f.beside) f.beside(dir.path());
    for (const std::string& good : f.good()) {
      std::set<size_t> sizes;
      for (size_t i = 0; i < 1000; ++i) sizes.insert(good.size() * i / 1000);
      for (const size_t size : sizes)
        EXPECT_NE(flame_test::refusal(dir / "bad", f.file(good.substr(0, size)), f.load), flame_test::no_error)
            << size << " of " << good.size();
      files += sizes.size();
    }
  }
  std::printf("%zu truncated files\n", files);
}

TEST(FileFormats, MutantsNeverCrash) {
  const int mutants = flame_test::full_size() ? 4000 : std::getenv("FLAME_QUICK") ? 300 : 1000;
  const auto& formats = flame_test::file_formats();
  for (const FileFormat& f : formats) {
    const Scratch dir;
    if (f.beside) f.beside(dir.path());
    const int told = try_mutants(f, dir / "bad", mutants);
    std::printf("  %-18s %d mutants, %d refused\n", f.name.c_str(), mutants, told);
    EXPECT_GE(told, f.refused * mutants) << f.name;
  }
  std::printf("%zu formats x %d mutants = %zu\n", formats.size(), mutants,
              formats.size() * static_cast<size_t>(mutants));
  EXPECT_GE(formats.size(), 10u) << "the files that register formats are not in this binary";
}
