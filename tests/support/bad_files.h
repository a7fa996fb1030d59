// Damaged files for loaders: each must give a FormatError that says what is wrong, in little memory, or load.
#pragma once
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "flame/core/error.h"
#include "flame/device/device.h"
#include "tests/readers/reader.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FLAME_TEST_SANITIZED 1
#endif

namespace flame_test {

// How far this process's resident memory rose above what it was, in bytes. Under a sanitizer, which keeps freed memory,
// always 0.
class PeakMemory {
 public:
  PeakMemory() {
    flame::empty_cache();  // what is kept for later would hide what is taken
    malloc_trim(0);
    std::ofstream("/proc/self/clear_refs") << "5";  // the peak starts anew
    before_ = status("VmRSS:");
  }
  size_t growth() const {
#ifdef FLAME_TEST_SANITIZED
    return 0;
#else
    const size_t peak = status("VmHWM:");
    return peak > before_ ? peak - before_ : 0;
#endif
  }

 private:
  static size_t status(std::string_view key) {
    std::ifstream file("/proc/self/status");
    for (std::string line; std::getline(file, line);)
      if (line.starts_with(key)) return std::stoul(line.substr(key.size())) * 1024;
    return 0;
  }
  size_t before_ = 0;
};

struct BadFile {
  std::string bytes;
  std::string expected;  // a part of the message
};

constexpr const char* no_error = "no error";

// The loader's message, or no_error; checks the memory it took, which a file that loads may exceed by its tensors.
template <class Load>
std::string refusal(const std::string& path, const std::string& bytes, Load&& load, size_t* grown = nullptr) {
  write_plain(path, bytes);
  const PeakMemory memory;
  std::string message = no_error;
  try {
    load(path);
  } catch (const flame::FormatError& e) { message = e.what(); }
  const size_t growth = memory.growth();
  if (grown) *grown = growth;
  if (message != no_error) { EXPECT_LE(growth, 2 * bytes.size() + (size_t{64} << 20)) << message.substr(0, 400); }
  return message;
}

template <class Load>
void expect_refused(const std::vector<BadFile>& files, const std::string& folder, Load&& load) {
  const std::string path = folder + "/bad";
  for (const BadFile& f : files) {
    const std::string m = refusal(path, f.bytes, load);
    EXPECT_NE(m.find(f.expected), m.npos) << "expected: " << f.expected << "\ngot: " << m.substr(0, 400);
    EXPECT_NE(m.find(path), m.npos) << m.substr(0, 400);
  }
}

// Random damage to `good`: bytes changed, cut out, put in, doubled, cut off. `hot` bytes at the front, and as many at the
// back, are hit most.
inline std::string mutant(const std::string& good, std::mt19937& random, size_t hot) {
  const auto below = [&](size_t n) { return static_cast<size_t>(random()) % n; };
  constexpr unsigned char telling[] = {0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, '0', '9', '(', ')', '-', '\n', ' '};
  std::string bad = good;
  for (size_t edits = 1 + below(3); edits > 0 && !bad.empty(); --edits) {
    const size_t edge = std::min(hot, bad.size()), place = below(4);
    const size_t at = place == 0 ? below(bad.size()) : place == 1 ? bad.size() - 1 - below(edge) : below(edge);
    switch (below(7)) {
      case 0: bad[at] = static_cast<char>(random()); break;
      case 1: bad[at] = static_cast<char>(telling[below(std::size(telling))]); break;
      case 2: bad[at] = static_cast<char>(bad[at] ^ (1 << below(8))); break;
      case 3: bad.erase(at, 1 + below(8)); break;
      case 4: bad.insert(at, 1, static_cast<char>(telling[below(std::size(telling))])); break;
      case 5: bad.resize(at + 1); break;
      default: bad.insert(at, bad.substr(below(bad.size()), below(40))); break;
    }
  }
  return bad;
}

}  // namespace flame_test
