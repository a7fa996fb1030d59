// The queue of launches that wait for their kernels.
#include "flame/device/cuda/launch_queue.h"

#include <utility>

namespace flame::cuda {

thread_local const LaunchQueue* LaunchQueue::running_ = nullptr;

void LaunchQueue::push(std::string op, std::function<void()> fn, Keep keep) {
  std::lock_guard lock(mutex_);
  items_.push_back({std::move(op), std::move(fn), keep, std::this_thread::get_id()});
  size_.fetch_add(1, std::memory_order_release);
}

void LaunchQueue::rethrow() {
  if (!has_errors_ || running()) return;
  std::exception_ptr mine;
  {
    std::lock_guard lock(mutex_);
    if (auto found = errors_.extract(std::this_thread::get_id())) mine = std::move(found.mapped());
    has_errors_ = !errors_.empty();
  }
  if (mine) std::rethrow_exception(mine);
}

void LaunchQueue::drain(const std::function<void(const std::string&, const std::function<void()>&)>& do_it) {
  if (running()) return;
  if (waiting()) {
    std::lock_guard one(drain_mutex_);
    const Direct direct(*this);
    std::exception_ptr failed;
    for (;;) {
      Item item;
      {
        std::lock_guard lock(mutex_);
        if (items_.empty()) break;
        item = std::move(items_.front());
        items_.pop_front();
      }
      bool done = false;
      if (!failed || item.keep == Keep::even_after_errors) try {
          do_it(item.op, item.fn);
          done = true;
        } catch (...) {
          if (!failed) failed = std::current_exception();
        }
      if (!done) {
        std::lock_guard lock(mutex_);
        errors_.emplace(item.owner, failed);
        has_errors_ = true;
      }
      item = {};  // what it held is let go of before the queue counts as empty
      size_.fetch_sub(1, std::memory_order_release);
    }
  }
  rethrow();
}

}  // namespace flame::cuda
