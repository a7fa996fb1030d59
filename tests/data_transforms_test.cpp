// Transforms against plain arithmetic, their independence of workers, and windows over token files.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "flame/data/loader.h"
#include "flame/data/token_dataset.h"
#include "flame/data/transforms.h"
#include "support/bad_files.h"
#include "support/error.h"

using namespace flame;
using namespace flame::data;
using flame::test::message_of;
using flame_test::Scratch;
using flame_test::write_plain;

namespace {

Tensor image(const Shape& shape) {
  std::vector<uint8_t> v(static_cast<size_t>(numel(shape)));
  std::iota(v.begin(), v.end(), uint8_t{0});
  return Tensor::from(v, shape);
}
Tensor applied(const Transform& t, const Tensor& x, uint64_t sample = 0) {
  SampleRandom random(1, 0, sample);
  return t(x, random);
}
std::vector<uint8_t> resized(const std::vector<uint8_t>& row, int64_t to, Interpolation by) {
  const Tensor x = Tensor::from(row, {1, 1, static_cast<int64_t>(row.size())});
  return applied(resize({.height = 1, .width = to, .by = by}), x).to_vector<uint8_t>();
}

}  // namespace

TEST(Transforms, FloatAndNormalize) {
  const Tensor f = applied(to_float(), image({2, 1, 2}));
  EXPECT_EQ(f.to_vector<float>(), (std::vector<float>{0, 1 / 255.f, 2 / 255.f, 3 / 255.f}));
  const Tensor n = applied(normalize({1, 2}, {2, 4}), Tensor::from<float>({3, 5, 10, 2}, {2, 1, 2}));
  EXPECT_EQ(n.to_vector<float>(), (std::vector<float>{1, 2, 2, 0}));
  EXPECT_THROW(normalize({1}, {0}), ValueError);
  EXPECT_THROW(normalize({1, 2}, {1}), ValueError);
  EXPECT_THROW(applied(normalize({1}, {1}), f), ShapeError);
  EXPECT_THROW(applied(normalize({1, 1}, {1, 1}), image({2, 1, 2})), DTypeError);
  EXPECT_THROW(applied(to_float(), f), DTypeError);
}

TEST(Transforms, Flip) {
  const Tensor x = image({2, 2, 3});
  EXPECT_EQ(applied(random_horizontal_flip(1), x).to_vector<uint8_t>(),
            (std::vector<uint8_t>{2, 1, 0, 5, 4, 3, 8, 7, 6, 11, 10, 9}));
  EXPECT_EQ(applied(random_horizontal_flip(0), x).to_vector<uint8_t>(), x.to_vector<uint8_t>());
  int flipped = 0;
  for (uint64_t i = 0; i < 1000; ++i)
    flipped += applied(random_horizontal_flip(), x, i).to_vector<uint8_t>() != x.to_vector<uint8_t>();
  EXPECT_NEAR(flipped, 500, 80);  // five sigma
  EXPECT_THROW(random_horizontal_flip(1.5), ValueError);
  EXPECT_THROW(applied(random_horizontal_flip(), image({4})), ShapeError);
  const Tensor strided = image({2, 3, 2}).transpose(1, 2);
  EXPECT_EQ(applied(random_horizontal_flip(1), strided).to_vector<uint8_t>(),
            (std::vector<uint8_t>{4, 2, 0, 5, 3, 1, 10, 8, 6, 11, 9, 7}));
}

TEST(Transforms, Crop) {
  const Tensor x = image({1, 3, 3});  // 0 to 8
  std::set<std::vector<uint8_t>> seen;
  for (uint64_t i = 0; i < 2000; ++i)
    seen.insert(applied(random_crop({.height = 3, .width = 3, .padding = 1, .fill = 99}), x, i).to_vector<uint8_t>());
  EXPECT_EQ(seen.size(), 9u) << "every place";
  EXPECT_TRUE(seen.contains({99, 99, 99, 99, 0, 1, 99, 3, 4}));
  EXPECT_TRUE(seen.contains({0, 1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_TRUE(seen.contains({4, 5, 99, 7, 8, 99, 99, 99, 99}));
  const Tensor far = applied(random_crop({.height = 1, .width = 1, .padding = 5}), x, 3);
  EXPECT_EQ(far.shape(), (Shape{1, 1, 1}));
  EXPECT_EQ(applied(random_crop({.height = 3, .width = 3}), applied(to_float(1), x)).to_vector<float>()[8], 8.f);
  EXPECT_THROW(applied(random_crop({.height = 4, .width = 3}), x), ShapeError);
  EXPECT_THROW(random_crop({.height = 0, .width = 3}), ValueError);
  EXPECT_THROW(applied(random_crop({.height = 1, .width = 1, .fill = -1}), x), ValueError);
  EXPECT_THROW(applied(random_crop({.height = 1, .width = 1}), Tensor::from<int64_t>({1}, {1, 1, 1})), DTypeError);
}

TEST(Transforms, ResizeByArea) {
  EXPECT_EQ(resized({0, 10, 20, 30}, 2, Interpolation::area), (std::vector<uint8_t>{5, 25}));
  EXPECT_EQ(resized({0, 30, 60}, 2, Interpolation::area), (std::vector<uint8_t>{10, 50}));  // (0 + 30/2) / 1.5
  EXPECT_EQ(resized({0, 100}, 4, Interpolation::area), (std::vector<uint8_t>{0, 0, 100, 100}));
  EXPECT_EQ(resized({7, 7, 7, 7, 7, 7, 7}, 3, Interpolation::area), (std::vector<uint8_t>{7, 7, 7}));
  const Tensor t = applied(resize({.height = 2, .width = 1}), image({2, 4, 2}));
  EXPECT_EQ(t.shape(), (Shape{2, 2, 1}));
  EXPECT_EQ(t.to_vector<uint8_t>(), (std::vector<uint8_t>{2, 6, 10, 14}));  // 1.5, 5.5, ... to even
}

TEST(Transforms, ResizeBilinear) {
  EXPECT_EQ(resized({0, 100}, 4, Interpolation::bilinear), (std::vector<uint8_t>{0, 25, 75, 100}));
  EXPECT_EQ(resized({0, 100, 200, 50}, 2, Interpolation::bilinear), (std::vector<uint8_t>{50, 125}));
  EXPECT_EQ(resized({9}, 3, Interpolation::bilinear), (std::vector<uint8_t>{9, 9, 9}));
  EXPECT_EQ(
      applied(resize({.height = 5, .width = 7, .by = Interpolation::bilinear}), image({1, 5, 7})).to_vector<uint8_t>(),
      image({1, 5, 7}).to_vector<uint8_t>());
  EXPECT_THROW(resize({.height = 0, .width = 1}), ValueError);
  EXPECT_THROW(applied(resize({.height = 1, .width = 1}), image({1, 0, 3})), ShapeError);
  EXPECT_THROW(applied(resize({.height = 1, .width = 1}), Tensor::from<float>({1}, {1, 1, 1})), DTypeError);
}

TEST(Transforms, DrawsAreAFunctionOfSeedEpochAndSample) {
  std::set<uint32_t> different;
  for (uint64_t seed = 0; seed < 5; ++seed)
    for (uint64_t epoch = 0; epoch < 5; ++epoch)
      for (uint64_t sample = 0; sample < 5; ++sample) {
        SampleRandom a(seed, epoch, sample), b(seed, epoch, sample);
        for (int i = 0; i < 10; ++i) {
          const uint32_t v = a.bits();
          EXPECT_EQ(v, b.bits());
          different.insert(v);
        }
      }
  EXPECT_EQ(different.size(), 1250u);
  SampleRandom r(3, 0, 0);
  std::vector<int> count(7);
  for (int i = 0; i < 7000; ++i) ++count[static_cast<size_t>(r.below(7))];
  for (const int n : count) EXPECT_NEAR(n, 1000, 150);
}

TEST(Transforms, NeitherWorkersNorOrderChangeThem) {
  const auto base = std::make_shared<const TensorDataset>(
      std::vector<Tensor>{image({40, 1, 2, 3}), Tensor::from(std::vector<int64_t>(40), {40})});
  const Transform both = compose({random_crop({.height = 2, .width = 3, .padding = 2}), random_horizontal_flip(),
                                  to_float(1), normalize({10}, {2})});
  const auto epochs = [&](int workers, uint64_t seed) {
    DataLoader loader{std::make_shared<const TransformedDataset>(base, both, seed),
                      {.batch = 7, .shuffle = true, .seed = 2, .workers = workers}};
    std::vector<std::vector<float>> out;
    for (int e = 0; e < 2; ++e)
      for (auto& [x, y] : loader) out.push_back(x.to_vector<float>());
    return out;
  };
  const auto reference = epochs(0, 5);
  EXPECT_EQ(epochs(1, 5), reference);
  EXPECT_EQ(epochs(4, 5), reference);
  EXPECT_NE(epochs(1, 6), reference);
  const TransformedDataset d(base, both, 5);
  EXPECT_EQ(d.get(3)[0].to_vector<float>(), d.get_in_epoch(3, 0)[0].to_vector<float>());
  int changed = 0;
  for (int64_t i = 0; i < 40; ++i)
    changed += d.get_in_epoch(i, 0)[0].to_vector<float>() != d.get_in_epoch(i, 1)[0].to_vector<float>();
  EXPECT_GT(changed, 20) << "each epoch draws anew";
  EXPECT_THROW(TransformedDataset(nullptr, both), ValueError);
  EXPECT_THROW(TransformedDataset(base, {}), ValueError);
}

TEST(TokenDataset, WindowsOfAFile) {
  const Scratch dir;
  std::string two, four;
  for (uint32_t i = 0; i < 11; ++i) {
    const uint32_t v = i * 6000, w = i * 400'000'000;
    two.append(reinterpret_cast<const char*>(&v), 2);
    four.append(reinterpret_cast<const char*>(&w), 4);
  }
  write_plain(dir / "two", two);
  write_plain(dir / "four", four);
  const TokenDataset d(dir / "two", {.window = 3});
  EXPECT_EQ(d.tokens(), 11);
  ASSERT_EQ(d.size(), 3);
  EXPECT_EQ(d.get(1)[0].to_vector<int64_t>(), (std::vector<int64_t>{18000, 24000, 30000}));
  EXPECT_EQ(d.get(1)[1].to_vector<int64_t>(), (std::vector<int64_t>{24000, 30000, 36000}));
  const std::vector<int64_t> indices{2, 0};
  const auto batch = d.get_batch(indices), slow = d.Dataset::get_batch(indices);
  EXPECT_EQ(batch[0].shape(), (Shape{2, 3}));
  for (size_t k = 0; k < 2; ++k) EXPECT_EQ(batch[k].to_vector<int64_t>(), slow[k].to_vector<int64_t>());
  const TokenDataset all(dir / "four", {.width = TokenWidth::uint32, .window = 10, .stride = 1});
  EXPECT_EQ(all.size(), 1);
  EXPECT_EQ(all.get(0)[1].to_vector<int64_t>()[9], 4'000'000'000);
  EXPECT_EQ(TokenDataset(dir / "two", {.window = 3, .stride = 1}).size(), 8);
  EXPECT_EQ(TokenDataset(dir / "two", {.window = 3, .stride = INT64_MAX}).size(), 1);
  DataLoader loader{d, {.batch = 2, .workers = 2}};
  int64_t windows = 0;
  for (auto& [x, y] : loader) windows += x.shape()[0];
  EXPECT_EQ(windows, 3);

  EXPECT_THROW(d.get(3), IndexError);
  EXPECT_THROW(d.get(-1), IndexError);
  EXPECT_THROW(TokenDataset(dir / "two", {.window = 0}), ValueError);
  EXPECT_THROW(TokenDataset(dir / "none", {}), IoError);
  const auto message = [&](const std::string& bytes, const TokenOptions& o) {
    write_plain(dir / "bad", bytes);
    return message_of<FormatError>([&] { TokenDataset(dir / "bad", o).get(0); });
  };
  EXPECT_NE(message("", {}).find("0 tokens are too few"), std::string::npos);
  EXPECT_NE(message("abc", {.window = 1}).find("3 bytes are no whole number of 2-byte tokens"), std::string::npos);
  EXPECT_NE(message("abcdef", {.width = TokenWidth::uint32, .window = 1}).find("of 4-byte tokens"), std::string::npos);
  EXPECT_NE(message(two, {.window = 11}).find("11 tokens are too few for a window of 11"), std::string::npos);
  EXPECT_NE(message(two, {.window = 3, .vocabulary = 18000}).find("byte 6: token 18000, expected below 18000"),
            std::string::npos);
}
