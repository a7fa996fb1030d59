// DataLoader: order, permutation, exact resume, throwing workers, and a thousand starts and stops without a hang.
#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include "flame/data/loader.h"

using namespace flame;
using namespace flame::data;

namespace {

// Samples are (index, index squared); counts how many are being made at once and how many were made.
class Numbers : public Dataset {
 public:
  explicit Numbers(int64_t n) : n_(n) {}
  int64_t size() const override { return n_; }
  Sample get(int64_t i) const override {
    ++made;
    if (delay_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
    if (i == bad_index) throw std::runtime_error("sample " + std::to_string(i) + " is bad");
    return {Tensor::from<int64_t>({i}, {}), Tensor::from<int64_t>({i * i, -i}, {2})};
  }
  mutable std::atomic<int64_t> made{0}, bad_index{-1};
  int delay_us = 0;

 private:
  int64_t n_;
};

TensorDataset numbers(int64_t n) {
  std::vector<int64_t> x(static_cast<size_t>(n)), y;
  std::iota(x.begin(), x.end(), int64_t{0});
  for (const int64_t i : x) y.insert(y.end(), {i * i, -i});
  return TensorDataset({Tensor::from(x, {n}), Tensor::from(y, {n, 2})});
}

using Batches = std::vector<std::vector<int64_t>>;

Batches rest_of_epoch(DataLoader<2>& loader, int64_t at_most = 1 << 30) {
  Batches out;
  if (at_most == 0) return out;
  for (auto& [x, y] : loader) {
    out.push_back(x.to_vector<int64_t>());
    std::vector<int64_t> expected;
    for (const int64_t i : out.back()) expected.insert(expected.end(), {i * i, -i});
    EXPECT_EQ(y.to_vector<int64_t>(), expected);
    if (--at_most == 0) break;
  }
  return out;
}

std::vector<int64_t> joined(const Batches& b) {
  std::vector<int64_t> out;
  for (const auto& v : b) out.insert(out.end(), v.begin(), v.end());
  return out;
}

}  // namespace

TEST(Permutation, IsAPureFunctionOfSeedAndEpoch) {
  for (const int64_t n : {0, 1, 2, 3, 1000}) {
    auto p = permutation(5, 3, n);
    EXPECT_EQ(p, permutation(5, 3, n));
    std::sort(p.begin(), p.end());
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(p[static_cast<size_t>(i)], i);
  }
  std::set<std::vector<int64_t>> different;
  for (uint64_t seed = 0; seed < 10; ++seed)
    for (uint64_t epoch = 0; epoch < 10; ++epoch) different.insert(permutation(seed, epoch, 100));
  EXPECT_EQ(different.size(), 100u);
  EXPECT_EQ(permutation(1, 0, 10), (std::vector<int64_t>{7, 9, 6, 8, 2, 5, 0, 1, 4, 3}))
      << "saved runs would go on in another order";
}

// Each of the 24 orders of four samples equally often, and each place of ten: chi-square at about five sigma.
TEST(Permutation, IsUniform) {
  std::map<std::vector<int64_t>, int> orders;
  const int trials = 24'000;
  for (int e = 0; e < trials; ++e) ++orders[permutation(7, static_cast<uint64_t>(e), 4)];
  ASSERT_EQ(orders.size(), 24u);
  double chi = 0;
  for (const auto& [order, n] : orders) chi += (n - 1000.0) * (n - 1000.0) / 1000.0;
  EXPECT_LT(chi, 23 + 5 * std::sqrt(46.0));
  EXPECT_GT(chi, 2);
}

TEST(DataLoader, InOrderWithoutShuffle) {
  DataLoader loader{numbers(10), {.batch = 4}};
  EXPECT_EQ(loader.size(), 3);
  EXPECT_EQ(rest_of_epoch(loader), (Batches{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}}));
  EXPECT_EQ(rest_of_epoch(loader), (Batches{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}}));
  DataLoader dropping{numbers(10), {.batch = 4, .drop_last = true}};
  EXPECT_EQ(rest_of_epoch(dropping), (Batches{{0, 1, 2, 3}, {4, 5, 6, 7}}));
  DataLoader nothing{numbers(0), {.batch = 4}};
  EXPECT_TRUE(rest_of_epoch(nothing).empty());
  EXPECT_EQ(nothing.state(), (LoaderState{1, 0}));
  DataLoader large{numbers(3), {.batch = int64_t{1} << 62, .workers = 9}};
  EXPECT_EQ(rest_of_epoch(large), (Batches{{0, 1, 2}}));
}

TEST(DataLoader, SameBatchesForAnyWorkersAndDataset) {
  std::vector<Batches> reference;
  for (const int workers : {0, 1, 2, 7})
    for (const int prefetch : {1, 3, 100}) {
      const LoaderOptions options{.batch = 7, .shuffle = true, .seed = 42, .workers = workers, .prefetch = prefetch};
      DataLoader fast{numbers(100), options};
      DataLoader slow{std::make_shared<const Numbers>(100), options};
      std::vector<Batches> epochs;
      for (int e = 0; e < 3; ++e) {
        epochs.push_back(rest_of_epoch(fast));
        EXPECT_EQ(epochs.back(), rest_of_epoch(slow));
        EXPECT_EQ(joined(epochs.back()), permutation(42, static_cast<uint64_t>(e), 100));
      }
      if (reference.empty()) reference = epochs;
      EXPECT_EQ(epochs, reference) << workers << " workers, prefetch " << prefetch;
    }
  DataLoader other{numbers(100), {.batch = 7, .shuffle = true, .seed = 43}};
  EXPECT_NE(rest_of_epoch(other), reference[0]);
}

TEST(DataLoader, ResumesExactlyFromEveryPosition) {
  const LoaderOptions options{.batch = 8, .shuffle = true, .seed = 3, .workers = 2};
  DataLoader whole{numbers(50), options};
  Batches all;
  for (int e = 0; e < 2; ++e)
    for (auto& b : rest_of_epoch(whole)) all.push_back(b);
  for (int64_t stop = 0; stop <= 7; ++stop) {
    DataLoader first{numbers(50), options};
    Batches got = rest_of_epoch(first, stop);
    EXPECT_EQ(first.state(), (LoaderState{0, stop}));
    DataLoader second{numbers(50), {.batch = 8, .shuffle = true, .seed = 3, .workers = 1, .prefetch = 2}};
    rest_of_epoch(second, 3);  // wherever it stood before
    second.load_state(first.state());
    for (int e = 0; e < 2; ++e)  // the rest of epoch 0 (none after its last batch), then epoch 1
      for (auto& b : rest_of_epoch(second)) got.push_back(b);
    EXPECT_EQ(got, all) << "stopped after " << stop;
    EXPECT_EQ(second.state(), (LoaderState{2, 0}));
  }
  DataLoader control{numbers(50), options};  // a resume that forgets the position is told apart
  control.load_state({0, 1});
  EXPECT_NE(rest_of_epoch(control), Batches(all.begin(), all.begin() + 7));
  EXPECT_THROW(control.load_state({0, 8}), ValueError);
  EXPECT_THROW(control.load_state({-1, 0}), ValueError);
}

TEST(DataLoader, ALoopLeftEarlyIsContinued) {
  DataLoader loader{numbers(10), {.batch = 2}};
  EXPECT_EQ(rest_of_epoch(loader, 2), (Batches{{0, 1}, {2, 3}}));
  EXPECT_EQ(rest_of_epoch(loader), (Batches{{4, 5}, {6, 7}, {8, 9}}));
}

TEST(DataLoader, AWorkersErrorArrivesInItsTurn) {
  for (const int workers : {0, 1, 3})
    for (const int64_t bad : {0, 25, 99}) {
      auto dataset = std::make_shared<Numbers>(100);
      dataset->bad_index = bad;
      DataLoader loader{std::shared_ptr<const Dataset>(dataset), {.batch = 10, .workers = workers}};
      Batch<2> b;
      int64_t batches = 0;
      try {
        while (loader.next(b)) ++batches;
        FAIL() << "the error is lost";
      } catch (const std::runtime_error& e) {
        EXPECT_EQ(std::string(e.what()), "sample " + std::to_string(bad) + " is bad");
      }
      EXPECT_EQ(batches, bad / 10);
      EXPECT_EQ(loader.state().position, bad / 10);
      EXPECT_THROW(loader.next(b), std::runtime_error) << "the batch was skipped";
      dataset->bad_index = -1;  // mended: it goes on with the batch that failed
      EXPECT_EQ(joined(rest_of_epoch(loader)).front(), bad / 10 * 10);
    }
}

TEST(DataLoader, PrefetchIsBounded) {
  auto dataset = std::make_shared<Numbers>(1000);
  DataLoader loader{std::shared_ptr<const Dataset>(dataset), {.batch = 10, .workers = 3, .prefetch = 5}};
  Batch<2> b;
  for (int i = 0; i < 4; ++i) {
    loader.next(b);
    const int64_t bound = 10 * (i + 1 + 5);
    for (int wait = 0; dataset->made < bound && wait < 5000; ++wait)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_EQ(dataset->made, bound) << "less is made ahead than asked, or more";
  }
}

TEST(DataLoader, AThousandStartsAndStops) {
  std::mt19937 random(17);
  for (int trial = 0; trial < 1000; ++trial) {
    auto dataset = std::make_shared<Numbers>(200);
    dataset->delay_us = trial % 4 == 0 ? 20 : 0;
    if (trial % 10 == 0) dataset->bad_index = random() % 200;
    DataLoader loader{std::shared_ptr<const Dataset>(dataset),
                      {.batch = 1 + static_cast<int64_t>(random() % 20),
                       .shuffle = true,
                       .seed = random(),
                       .workers = static_cast<int>(random() % 5),
                       .prefetch = 1 + static_cast<int>(random() % 6)}};
    try {
      Batch<2> b;
      for (auto n = random() % 15; n > 0; --n) loader.next(b);
      if (trial % 3 == 0) loader.load_state({2, 1});
      if (trial % 3 == 1) loader.next(b);
    } catch (const std::runtime_error&) {}
  }  // each destroyed wherever it stands
}

// A worker that throws while another is in a sample that takes long: the caller hears of it at once.
TEST(DataLoader, AnErrorDoesNotWaitForOtherWorkers) {
  class Stuck : public Dataset {
   public:
    int64_t size() const override { return 4; }
    Sample get(int64_t i) const override {
      if (i == 0) throw FormatError("sample 0 is damaged", Loc::current());
      while (!release) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return {Tensor::from<int64_t>({i}, {})};
    }
    mutable std::atomic<bool> release{false};
  };
  auto dataset = std::make_shared<Stuck>();
  DataLoader<1> loader{std::shared_ptr<const Dataset>(dataset), {.batch = 1, .workers = 3}};
  Batch<1> b;
  const auto start = std::chrono::steady_clock::now();
  try {
    loader.next(b);
    ADD_FAILURE() << "the error is lost";
  } catch (const FormatError& e) { EXPECT_NE(std::string(e.what()).find("sample 0 is damaged"), std::string::npos); }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  dataset->release = true;
}

// A worker that throws, or whose thread is ended from inside, is an error in its turn, never a hang.
TEST(DataLoader, AFailingWorkerIsAnError) {
  class Failing : public Dataset {
   public:
    explicit Failing(bool dies, int64_t bad) : dies_(dies), bad_(bad) {}
    int64_t size() const override { return 100; }
    Sample get(int64_t i) const override {
      if (i == bad_ && dies_) pthread_exit(nullptr);
      if (i == bad_) throw std::runtime_error("sample is damaged");
      return {Tensor::from<int64_t>({i}, {})};
    }

   private:
    bool dies_;
    int64_t bad_;
  };
  const int trials = std::getenv("FLAME_QUICK") ? 20 : std::getenv("FLAME_FULL") ? 1000 : 100;
  std::mt19937 random(23);
  for (const bool dies : {false, true}) {
    std::chrono::duration<double> slowest{};
    for (int trial = 0; trial < trials; ++trial) {
      const int64_t bad = static_cast<int64_t>(random() % 100);
      DataLoader<1> loader{Failing(dies, bad),
                           {.batch = 10, .workers = 1 + trial % 4, .prefetch = 1 + static_cast<int>(random() % 6)}};
      Batch<1> b;
      int64_t batches = 0;
      const auto start = std::chrono::steady_clock::now();
      try {
        while (loader.next(b)) ++batches;
        ADD_FAILURE() << "the error is lost";
      } catch (const std::runtime_error& e) {
        EXPECT_STREQ(e.what(), dies ? "DataLoader: a worker's thread was ended" : "sample is damaged");
      }
      slowest = std::max<std::chrono::duration<double>>(slowest, std::chrono::steady_clock::now() - start);
      EXPECT_EQ(batches, bad / 10);
    }
    std::printf("%d workers that %s: the slowest error came after %.4f s\n", trials, dies ? "died" : "threw",
                slowest.count());
    EXPECT_LT(slowest, std::chrono::seconds(5));
  }
}

TEST(DataLoader, WorkersRunAtOnce) {
  auto dataset = std::make_shared<Numbers>(64);
  dataset->delay_us = 2000;
  const auto seconds = [&](int workers) {
    DataLoader loader{std::shared_ptr<const Dataset>(dataset), {.batch = 4, .workers = workers, .prefetch = 8}};
    const auto start = std::chrono::steady_clock::now();
    rest_of_epoch(loader);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  EXPECT_LT(seconds(4), 0.6 * seconds(1));
}

TEST(DataLoader, OptionsAreChecked) {
  EXPECT_THROW((DataLoader{numbers(3), {.batch = 0}}), ValueError);
  EXPECT_THROW((DataLoader{numbers(3), {.workers = -1}}), ValueError);
  EXPECT_THROW((DataLoader{numbers(3), {.prefetch = 0}}), ValueError);
  EXPECT_THROW((DataLoader<2>{std::shared_ptr<const Dataset>()}), ValueError);
  DataLoader<3> three{numbers(3)};
  Batch<3> b;
  EXPECT_THROW(three.next(b), ShapeError);
}

TEST(TensorDataset, ChecksAndCopies) {
  const Tensor x = Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {3, 2}),
               y = Tensor::from<int64_t>({7, 8, 9}, {3});
  const TensorDataset d({x, y});
  EXPECT_EQ(d.size(), 3);
  EXPECT_EQ(d.get(1)[0].to_vector<float>(), (std::vector<float>{3, 4}));
  EXPECT_EQ(d.get(1)[1].shape(), (Shape{}));
  const std::vector<int64_t> indices{2, 0, 2};
  const auto batch = d.get_batch(indices);
  EXPECT_EQ(batch[0].shape(), (Shape{3, 2}));
  EXPECT_EQ(batch[0].to_vector<float>(), (std::vector<float>{5, 6, 1, 2, 5, 6}));
  EXPECT_EQ(batch[1].to_vector<int64_t>(), (std::vector<int64_t>{9, 7, 9}));
  EXPECT_EQ(d.Dataset::get_batch(indices)[0].to_vector<float>(), batch[0].to_vector<float>());
  EXPECT_THROW(d.get(3), IndexError);
  EXPECT_THROW(d.get(-1), IndexError);
  EXPECT_THROW(TensorDataset({}), ValueError);
  EXPECT_THROW(TensorDataset({x, Tensor::from(std::vector<float>{1}, {1})}), ShapeError);
  EXPECT_THROW(TensorDataset({Tensor::from(std::vector<float>{1}, {})}), ShapeError);
  const TensorDataset empty_rows({Tensor::from(std::vector<float>{}, {4, 0})});
  EXPECT_EQ(empty_rows.get_batch(indices)[0].shape(), (Shape{3, 0}));
}

TEST(Dataset, SamplesThatDifferAreNamed) {
  struct Ragged : Dataset {
    int64_t size() const override { return 6; }
    Sample get(int64_t i) const override {
      if (i == 5) return {};
      if (i == 4) return {Tensor::from<int64_t>({1}, {1})};
      return {Tensor::from(std::vector<float>(i == 3 ? 2 : 1), {i == 3 ? 2 : 1})};
    }
  };
  const Ragged d;
  const std::vector<int64_t> shape{0, 3}, dtype{0, 4}, number{0, 5};
  EXPECT_THROW(d.get_batch(shape), ShapeError);
  EXPECT_THROW(d.get_batch(dtype), DTypeError);
  EXPECT_THROW(d.get_batch(number), ShapeError);
  try {
    d.get_batch(shape);
  } catch (const ShapeError& e) {
    EXPECT_NE(std::string(e.what()).find("tensor 0 of sample 3 has shape [2], expected [1] as in sample 0"),
              std::string::npos)
        << e.what();
  }
}
