// Internal: under which name a composed op's parts stand in the graph, so that what goes wrong in its backward is reported
// by the name that the user wrote.
#pragma once

namespace flame {

// While one lives, the nodes made on this thread bear its name. The outermost one counts.
class OpScope {
 public:
  explicit OpScope(const char* name);
  ~OpScope();
  OpScope(const OpScope&) = delete;
  OpScope& operator=(const OpScope&) = delete;
  static const char* current();  // of this thread, or null

 private:
  const char* const before_;
};

}  // namespace flame
