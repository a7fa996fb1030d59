// The table of user errors: what is wrong, the typed error it gives, and the text that must stand in its message.
// Test files add rows by a `const AddErrors` at namespace scope; tests/error_table_test.cpp runs all of them.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "flame/flame.h"

namespace flame::test {

enum class Mistake : uint8_t { rank, shape, dtype, device, axis, index, empty, option };

struct ErrorCase {
  std::string op;
  Mistake mistake;
  std::string message;                      // a part of it; the op's name must stand there too
  std::function<void()> call;               // the user's mistake
  bool (*right_type)(const Error& thrown);  // the expected error type
};

inline std::vector<ErrorCase>& error_cases() {
  static std::vector<ErrorCase> all;
  return all;
}

// Ops whose calls cannot make the mistake need no row for it.
template <class E>
void expect_error(const std::string& op, Mistake m, const std::string& message, std::function<void()> call) {
  error_cases().push_back(
      {op, m, message, std::move(call), [](const Error& e) { return dynamic_cast<const E*>(&e) != nullptr; }});
}

struct AddErrors {
  explicit AddErrors(void (*add)()) { add(); }
};

}  // namespace flame::test
