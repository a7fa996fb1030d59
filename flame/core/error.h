// Typed errors. Every message says op, expected and got; where() is the caller's line.
#pragma once
#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>

namespace flame {

using Loc = std::source_location;

class Error : public std::runtime_error {
 public:
  Error(const std::string& message, Loc where);
  const Loc& where() const { return where_; }

 private:
  Loc where_;
};

struct ShapeError : Error {
  using Error::Error;
};  // shapes or ranks that do not fit
struct DTypeError : Error {
  using Error::Error;
};  // element types that do not fit
struct DeviceError : Error {
  using Error::Error;
};  // a device that is missing, mixed or broken
struct IndexError : Error {
  using Error::Error;
};  // an axis or index out of range
struct ValueError : Error {
  using Error::Error;
};  // a hyperparameter or option out of range
struct FormatError : Error {
  using Error::Error;
};  // a file that is damaged or of another format
struct IoError : Error {
  using Error::Error;
};  // the operating system refused a file operation
struct OutOfMemory : Error {
  using Error::Error;
};  // catchable; nothing was written
struct NotImplemented : Error {
  using Error::Error;
};  // names op, dtype and device
struct NotDifferentiable : Error {
  using Error::Error;
};  // a gradient of an op that has none
struct AutogradError : Error {
  using Error::Error;
};  // a graph walked twice, a missing gradient, a NaN found
struct RecordError : Error {
  using Error::Error;
};  // a recorded step that does not repeat

}  // namespace flame
