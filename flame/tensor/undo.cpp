// The thread's undo scopes.
#include "flame/tensor/undo.h"

#include <algorithm>
#include <exception>

#include "flame/device/settle.h"

namespace flame {

namespace {
thread_local UndoScope* innermost = nullptr;
}

UndoScope::UndoScope() : exceptions_(std::uncaught_exceptions()), before_(std::exchange(innermost, this)) {}
UndoScope::~UndoScope() {
  innermost = before_;
  if (std::uncaught_exceptions() == exceptions_) return;
  for (auto n = notes_.rbegin(); n != notes_.rend(); ++n) n->second();
}

void UndoScope::before_change(const void* subject, const std::function<std::function<void()>()>& note) {
  for (UndoScope* s = innermost; s; s = s->before_)
    if (std::none_of(s->notes_.begin(), s->notes_.end(), [&](const auto& n) { return n.first == subject; }))
      s->notes_.emplace_back(subject, note());
}

void UndoScope::settle() { settle_launches(); }

}  // namespace flame
