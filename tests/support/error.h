// The message of the error that a call throws.
#pragma once
#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace flame::test {

template <class E, class F>
std::string message_of(F&& fn) {
  try {
    std::forward<F>(fn)();
  } catch (const E& e) { return e.what(); }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

}  // namespace flame::test
