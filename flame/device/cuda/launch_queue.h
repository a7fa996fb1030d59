// Internal: what would go onto a device's stream but waits for kernels that are still being compiled, in order. The order
// of all work is: what waits here, then what is launched next.
#pragma once
#include <atomic>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace flame::cuda {

class LaunchQueue {
 public:
  enum class Keep : uint8_t { no, even_after_errors };
  // False: this thread's work goes straight onto the stream. Work that is being taken from the queue does too.
  bool waiting() const { return size_.load(std::memory_order_acquire) > 0 && running_ != this; }
  bool running() const { return running_ == this; }  // on this thread
  size_t size() const { return size_.load(std::memory_order_acquire); }
  // `op` names it in errors; with Keep::even_after_errors it is done although something before it failed.
  void push(std::string op, std::function<void()> fn, Keep keep = Keep::no);
  // Does all that waits, by do_it(op, fn). At the first error the rest is dropped. Each thread whose work failed or was dropped
  // gets the error: this one at once, others from their next drain() or rethrow(). Nothing, if called by what waited.
  void drain(const std::function<void(const std::string&, const std::function<void()>&)>& do_it);
  void rethrow();  // what another thread's drain() met of this thread's work
  // While one lives, this thread's work goes straight onto the stream: loading a kernel touches nothing that waits.
  class Direct {
   public:
    explicit Direct(const LaunchQueue& q) : before_(std::exchange(running_, &q)) {}
    ~Direct() { running_ = before_; }
    Direct(const Direct&) = delete;
    Direct& operator=(const Direct&) = delete;

   private:
    const LaunchQueue* before_;
  };

 private:
  struct Item {
    std::string op;
    std::function<void()> fn;
    Keep keep;
    std::thread::id owner;
  };
  static thread_local const LaunchQueue* running_;
  std::mutex mutex_, drain_mutex_;
  std::deque<Item> items_;
  std::atomic<size_t> size_{0};  // with the one that is being done
  std::map<std::thread::id, std::exception_ptr> errors_;
  std::atomic<bool> has_errors_{false};
};

}  // namespace flame::cuda
