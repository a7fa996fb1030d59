// Files of the cache's folder.
#include "flame/device/cuda/cache.h"

#include <pwd.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "flame/core/format.h"

namespace flame::cuda {

namespace fs = std::filesystem;

fs::path cache_folder() {
  if (const char* own = std::getenv("FLAME_CACHE"); own && *own) return own;
  std::string home;
  if (const char* given = std::getenv("HOME"); given && *given) home = given;
  else if (const passwd* user = getpwuid(getuid())) home = user->pw_dir;
  if (home.empty()) return "/dev/null/flame";  // where nothing can be: no folder that others may write to
  return fs::path(home) / ".cache" / "flame";
}

void write_by_renaming(const fs::path& file, std::string_view bytes) {
  std::error_code ignored;
  fs::create_directories(file.parent_path(), ignored);
  static std::atomic<uint64_t> counter{0};
  const fs::path own = file.string() + fmt::format(".{}.{}", ::getpid(), counter.fetch_add(1));
  {
    std::ofstream out(own, std::ios::binary);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!out.flush()) {
      out.close();
      fs::remove(own, ignored);
      return;
    }
  }
  fs::rename(own, file, ignored);
  if (ignored) fs::remove(own, ignored);
}

std::string read_file(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream all;
  if (in) all << in.rdbuf();
  return all.str();
}

uint64_t cache_hash(std::string_view bytes, uint64_t h) {
  for (const unsigned char c : bytes) h = (h ^ c) * 0x100000001b3ull;
  h ^= h >> 29;
  return h * 0xbf58476d1ce4e5b9ull;
}

}  // namespace flame::cuda
