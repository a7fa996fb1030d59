// Device texts compiled for the host: translated, given to the C++ compiler, kept in a folder, loaded.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "tests/emulator/module.h"

namespace flame::emulated {

class Module {
 public:
  // KernelError with the compiler's words if the text does not compile.
  Module(const std::string& name, const std::string& text, const std::vector<std::string>& options);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  const flame_emulated::Entry* entry(const std::string& name) const;  // null: the text has none
  flame_emulated::Context& context() const { return *context_; }
  void* symbol(const char* name) const;

 private:
  void* handle_;
  flame_emulated::Context* context_;
};

struct CompileCounts {
  int compiled = 0, from_disk = 0;
  double seconds = 0;
};
CompileCounts compile_counts();

}  // namespace flame::emulated
