// Undoing what a failed piece of code has changed: States, generators and gradients. See train/attempt.h for the public face.
#pragma once
#include <functional>
#include <utility>
#include <vector>

namespace flame {

// While one lives, this thread notes how to take back each change; if an exception ends it, all are taken back.
class UndoScope {
 public:
  UndoScope();
  ~UndoScope();
  UndoScope(const UndoScope&) = delete;
  UndoScope& operator=(const UndoScope&) = delete;

  // Called before `subject` changes: for each scope in which it is the first time, `note` says how to take it back, by a
  // function that keeps the subject alive and does not throw.
  static void before_change(const void* subject, const std::function<std::function<void()>()>& note);
  // What was launched has reached its device; throws if it cannot (device/settle.h).
  static void settle();

 private:
  const int exceptions_;
  UndoScope* const before_;
  std::vector<std::pair<const void*, std::function<void()>>> notes_;
};

}  // namespace flame
