// parallel_for: every index once, on more than one thread, with exceptions carried to the caller.
#include "flame/device/cpu/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "flame/device/device.h"

namespace flame {
namespace {

struct Threads {
  explicit Threads(int n) : before(num_threads()) { set_num_threads(n); }
  ~Threads() { set_num_threads(before); }
  int before;
};

TEST(Parallel, CoversEveryIndexOnce) {
  for (int threads : {1, 2, 3, 7}) {
    const Threads set(threads);
    EXPECT_EQ(num_threads(), threads);
    for (int64_t n : {0, 1, 2, 7, 64, 1000})
      for (int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
        std::atomic<int> ragged{0};
        parallel_for(n, grain, [&](int64_t begin, int64_t end) {
          EXPECT_LT(begin, end);
          if (end != n && end % grain != 0) ++ragged;
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        for (const auto& s : seen) EXPECT_EQ(s, 1);
        EXPECT_EQ(ragged, 0);
      }
  }
}

TEST(Parallel, RunsOnSeveralThreadsAndNestedOnOne) {
  const Threads set(3);
  std::mutex mutex;
  std::set<std::thread::id> ids;
  std::atomic<int> pieces{0}, nested_away{0};
  EXPECT_FALSE(in_parallel());
  parallel_for(300, 1, [&](int64_t, int64_t) {
    EXPECT_TRUE(in_parallel());
    const std::thread::id me = std::this_thread::get_id();
    parallel_for(100, 1, [&](int64_t begin, int64_t end) {
      if (begin != 0 || end != 100 || std::this_thread::get_id() != me) ++nested_away;
    });
    const std::lock_guard lock(mutex);
    ids.insert(me);
    ++pieces;
  });
  EXPECT_EQ(pieces, 3);
  EXPECT_EQ(ids.size(), 3u);
  EXPECT_EQ(nested_away, 0);
  EXPECT_FALSE(in_parallel());
}

TEST(Parallel, AnExceptionReachesTheCallerAfterAllPieces) {
  for (int threads : {1, 3}) {
    const Threads set(threads);
    std::atomic<int> done{0};
    EXPECT_THROW(parallel_for(3, 1,
                              [&](int64_t begin, int64_t) {
                                ++done;
                                if (begin == 0) throw std::runtime_error("first");
                              }),
                 std::runtime_error);
    EXPECT_EQ(done, threads == 1 ? 1 : 3);
    int64_t sum = 0;  // the next loop works
    parallel_for(4, 4, [&](int64_t begin, int64_t end) { sum += end - begin; });
    EXPECT_EQ(sum, 4);
  }
}

TEST(Parallel, SeveralCallersAtOnce) {
  const Threads set(2);
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int i = 0; i < 200; ++i) parallel_for(100, 10, [&](int64_t begin, int64_t end) { sum += end - begin; });
    });
  for (std::thread& t : callers) t.join();
  EXPECT_EQ(sum, 4 * 200 * 100);
}

TEST(Parallel, ZeroThreadsAreRefused) { EXPECT_THROW(set_num_threads(0), ValueError); }

}  // namespace
}  // namespace flame
