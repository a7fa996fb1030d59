// An index out of range that a device met while it ran, of which the caller's line is not known.
#pragma once
#include <utility>

#include "flame/core/error.h"

namespace flame {

struct OutOfRange : IndexError {
  explicit OutOfRange(std::string message) : IndexError(message, Loc::current()), text(std::move(message)) {}
  std::string text;
};
// Runs fn; an OutOfRange from it becomes an IndexError at the caller's line.
template <class F>
decltype(auto) at_line(Loc loc, F&& fn) {
  try {
    return fn();
  } catch (const OutOfRange& e) { throw IndexError(e.text, loc); }
}

}  // namespace flame
