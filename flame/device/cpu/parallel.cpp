// Threads of the CPU device: how many there are, and the loop that uses them.
// A build without OpenMP (TSan) keeps a pool of std::thread, since libgomp's futexes are invisible to the sanitizer.
#include "flame/device/cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

#include "flame/core/format.h"
#include "flame/device/device.h"

#ifdef FLAME_WITH_OPENMP
// Declared here because omp.h comes with each compiler, and clang-tidy's may be missing.
extern "C" int omp_get_max_threads();
extern "C" void omp_set_num_threads(int n);
#else
#include <condition_variable>
#include <functional>
#include <mutex>
#endif

namespace flame {
namespace {

// The cores this process may use, or OMP_NUM_THREADS if set.
int initial_threads() {
#ifdef FLAME_WITH_OPENMP
  return std::max(1, omp_get_max_threads());
#else
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#endif
}

struct Threads {
  std::atomic<int> count{initial_threads()};
};
Threads& threads() {
  static Threads t;
  return t;
}

thread_local bool inside = false;

struct Inside {
  bool before = std::exchange(inside, true);
  ~Inside() { inside = before; }
};

// Keeps the first exception that any piece threw.
class FirstError {
 public:
  template <class F>
  void guard(F&& fn) noexcept {
    try {
      Inside mark;
      fn();
    } catch (...) {
      if (!taken_.test_and_set()) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
  std::exception_ptr error_;
};

#ifndef FLAME_WITH_OPENMP
// Workers that sleep between loops. One loop at a time; a second caller meanwhile runs its loop serially.
class Pool {
 public:
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& t : workers_) t.join();
  }
  // Calls piece(i) for i in [0, pieces), piece 0 on the caller. False if the pool is busy.
  bool run(int pieces, const std::function<void(int)>& piece) {
    std::unique_lock one(busy_, std::try_to_lock);
    if (!one) return false;
    {
      std::lock_guard lock(mutex_);
      while (static_cast<int>(workers_.size()) < pieces - 1)
        workers_.emplace_back([this, id = static_cast<int>(workers_.size()) + 1, seen = round_] { work(id, seen); });
      piece_ = &piece;
      pieces_ = pieces;
      left_ = pieces - 1;
      ++round_;
    }
    wake_.notify_all();
    piece(0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return left_ == 0; });
    return true;
  }

 private:
  void work(int id, uint64_t seen) {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || round_ != seen; });
      if (stop_) return;
      seen = round_;
      if (id >= pieces_) continue;
      const std::function<void(int)>& piece = *piece_;
      lock.unlock();
      piece(id);
      lock.lock();
      if (--left_ == 0) done_.notify_one();
    }
  }

  std::mutex busy_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* piece_ = nullptr;
  int pieces_ = 0, left_ = 0;
  uint64_t round_ = 0;
  bool stop_ = false;
};
#endif

}  // namespace

bool in_parallel() { return inside; }

#ifdef FLAME_WITH_OPENMP
LibraryThreads::LibraryThreads(int n) {
  const int now = omp_get_max_threads();
  if (now == n) return;
  before_ = now;
  omp_set_num_threads(n);
}
LibraryThreads::~LibraryThreads() {
  if (before_ > 0) omp_set_num_threads(before_);
}
#else
LibraryThreads::LibraryThreads(int) {}
LibraryThreads::~LibraryThreads() = default;
#endif

int num_threads() { return threads().count.load(std::memory_order_relaxed); }

void set_num_threads(int n) {
  if (n < 1) fail<ValueError>(Loc::current(), "set_num_threads: expected at least 1 thread, got {}", n);
  if (threads().count.exchange(n) != n) cpu().plans().clear();  // library plans are made for a number of threads
}

void parallel_run(int64_t n, int64_t grain, ParallelBody body, void* context) {
  grain = std::max<int64_t>(grain, 1);
  const int64_t grains = (n + grain - 1) / grain;
  const int64_t wanted = inside ? 1 : std::min<int64_t>(num_threads(), grains);
  if (wanted <= 1) return body(context, 0, n);
  const int64_t piece = (grains + wanted - 1) / wanted * grain;
  const int pieces = static_cast<int>((n + piece - 1) / piece);
  FirstError error;
  const auto run_piece = [&](int i) { error.guard([&] { body(context, i * piece, std::min(n, (i + 1) * piece)); }); };
#ifdef FLAME_WITH_OPENMP
  // A worksharing loop is right also when the runtime grants fewer threads than asked for.
#pragma omp parallel for num_threads(pieces) schedule(static, 1)
  for (int i = 0; i < pieces; ++i) run_piece(i);
#else
  static Pool pool;
  if (!pool.run(pieces, run_piece))
    for (int i = 0; i < pieces; ++i) run_piece(i);
#endif
  error.rethrow();
}

}  // namespace flame
