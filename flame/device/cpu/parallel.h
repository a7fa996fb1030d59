// Internal: the one way to run a loop on several threads. OpenMP, or std::thread where a sanitizer needs to see the locks.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>

namespace flame {

using ParallelBody = void (*)(void* context, int64_t begin, int64_t end);
void parallel_run(int64_t n, int64_t grain, ParallelBody body, void* context);

// Calls fn(begin, end) on pieces that cover [0, n) once, each a multiple of `grain` long but the last. Serial when
// n <= grain, with one thread, and inside another parallel_for. The first exception of a piece reaches the caller, after
// all pieces ended. The number of pieces depends on the threads, so what fn computes for an index must not.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& fn) {
  if (n <= 0) return;
  if (n <= grain) return static_cast<void>(fn(int64_t{0}, n));
  using Fn = std::remove_reference_t<F>;
  parallel_run(
      n, grain, [](void* f, int64_t begin, int64_t end) { (*static_cast<Fn*>(f))(begin, end); },
      const_cast<void*>(static_cast<const void*>(std::addressof(fn))));
}

bool in_parallel();  // this thread runs a piece of a parallel_for

// While one lives, a library that asks OpenMP on this thread how many threads there are is told `n`.
class LibraryThreads {
 public:
  explicit LibraryThreads(int n);
  ~LibraryThreads();
  LibraryThreads(const LibraryThreads&) = delete;
  LibraryThreads& operator=(const LibraryThreads&) = delete;

 private:
  int before_ = 0;  // 0: nothing to restore
};

}  // namespace flame
