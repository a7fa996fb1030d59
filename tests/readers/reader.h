// For tests that let another program read what FLAME wrote: a scratch folder and a Python with the right packages.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace flame_test {

// A folder that is removed at the end of the test.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "flame-test-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("no scratch folder");
    path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// For tests that write thousands of files: never waits for the disk, as ext4 does when a file is cut and rewritten.
inline void write_plain(const std::string& path, const std::string& bytes) {
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

inline bool full_size() { return std::getenv("FLAME_FULL") != nullptr; }

struct Output {
  int status;
  std::string text;
};
inline Output run(const std::string& command) {
  std::array<char, 4096> chunk;
  Output out{-1, {}};
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return out;
  while (const size_t n = fread(chunk.data(), 1, chunk.size(), pipe)) out.text.append(chunk.data(), n);
  out.status = pclose(pipe);
  return out;
}

// The tests' Python, if it has `package`; else empty.
inline std::string python_with(const std::string& package) {
  const auto repository = std::filesystem::path(FLAME_SOURCE_DIR);
  const std::string python = (repository / ".deps/pytest-venv/bin/python").string();
  const std::string import = " -c 'import " + package + "'";
  if (std::filesystem::exists(python) && run(python + import).status == 0) return python;
  return {};
}
inline std::string reader(const std::string& script) { return FLAME_SOURCE_DIR "/tests/readers/" + script; }

}  // namespace flame_test
