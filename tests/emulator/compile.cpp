// The way of a device text: what the preprocessor makes of it with the library's device headers, translated, compiled into a
// shared object. $FLAME_EMULATOR_CACHE or <build>/emulated keeps objects under a hash of all that decides them.
#include "tests/emulator/compile.h"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "flame/core/format.h"
#include "flame/device/kernel.h"
#include "tests/emulator/translate.h"

namespace flame::emulated {
namespace {

namespace fs = std::filesystem;
CompileCounts counts;

std::string read_file(const fs::path& p) {
  std::ifstream in(p, std::ios::binary);
  std::ostringstream all;
  all << in.rdbuf();
  return all.str();
}
// FNV-1a, from two starts.
std::string hash_of(const std::string& s) {
  uint64_t a = 14695981039346656037ull, b = 1099511628211ull * 31;
  for (const unsigned char c : s) {
    a = (a ^ c) * 1099511628211ull;
    b = (b ^ c) * 1099511628211ull;
  }
  return fmt::format("{:016x}{:016x}", a, b);
}

// -O1: twice as quick to compile as -O2. Traps where a GPU would: misaligned accesses; and where it would read elsewhere.
std::string flags() {
  std::string all =
      "-std=c++20 -O1 -fPIC -ffp-contract=off -fno-strict-aliasing -fno-exceptions -fno-rtti -fno-math-errno "
      "-fvisibility=hidden -nostdinc -w -fsanitize=alignment,bounds";
#if defined(__clang__)
  all += " -fsanitize-trap=all";
#else
  all += " -fno-gnu-unique -fsanitize-undefined-trap-on-error";
#endif
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all += " -mavx2 -mfma -mf16c";
#endif
  return all;
}

struct Folder {
  fs::path root, headers;
  std::string key;  // of what all texts share
  Folder() {
    const char* given = std::getenv("FLAME_EMULATOR_CACHE");
    root = given ? fs::path(given) : fs::path(FLAME_BINARY_DIR) / "emulated";
    key = std::string(FLAME_EMULATOR_COMPILER) + flags();
    for (const char* own : {"cuda_names.h", "meetings.h", "module.h", "ptx.h", "translate.cpp"})
      key += read_file(fs::path(FLAME_SOURCE_DIR) / "tests/emulator" / own);
    for (const DeviceHeader& h : device_headers()) key += fmt::format("\n{}\n{}", h.name, h.text);
    key = hash_of(key);
    headers = root / ("headers-" + key);
    if (fs::exists(headers)) return;
    const fs::path mine = root / fmt::format("headers-{}.{}", key, getpid());
    for (const DeviceHeader& h : device_headers()) {
      fs::create_directories((mine / h.name).parent_path());
      std::ofstream(mine / h.name) << h.text;
    }
    std::error_code another_was_faster;
    fs::rename(mine, headers, another_was_faster);
    if (another_was_faster) fs::remove_all(mine);
  }
};
const Folder& folder() {
  static const Folder one;
  return one;
}

void command(const std::string& name, const std::string& line) {
  FILE* pipe = popen((line + " 2>&1").c_str(), "r");
  std::string said;
  char part[4096];
  for (size_t n; pipe && (n = fread(part, 1, sizeof part, pipe)) > 0;) said.append(part, n);
  if (!pipe || pclose(pipe) != 0)
    throw KernelError(fmt::format("{}: the emulator cannot compile the kernel:\n{}", name, said.substr(0, 4000)));
}

fs::path compiled(const std::string& name, const std::string& text, const std::vector<std::string>& options) {
  const Folder& f = folder();
  std::string defines;
  for (const std::string& o : options)
    if (o.starts_with("-D")) defines += fmt::format(" '{}'", o);
  const std::string hash = hash_of(f.key + defines + '\n' + text);
  const fs::path object = f.root / (hash + ".so");
  if (fs::exists(object)) {
    counts.from_disk += 1;
    return object;
  }
  const auto start = std::chrono::steady_clock::now();
  const std::string stem = (f.root / fmt::format("{}.{}", hash, getpid())).string();
  std::ofstream(stem + ".cu") << text;
  command(name,
          fmt::format(
              "{} -E -x c++ -std=c++20 -nostdinc -w -D__CUDACC_RTC__ -D__CUDA_ARCH__=900 {} -I '{}' '{}.cu' -o '{}.ii'",
              FLAME_EMULATOR_COMPILER, defines, f.headers.string(), stem, stem));
  std::ofstream(stem + ".cpp") << translate(read_file(stem + ".ii"));
  command(name, fmt::format("{} {} -shared -nostartfiles -I '{}' '{}.cpp' -o '{}.so'", FLAME_EMULATOR_COMPILER, flags(),
                            FLAME_SOURCE_DIR, stem, stem));
  fs::rename(stem + ".so", object);
  if (!std::getenv("FLAME_EMULATOR_KEEP"))
    for (const char* end : {".cu", ".ii", ".cpp"}) fs::remove(stem + end);
  counts.compiled += 1;
  counts.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return object;
}

}  // namespace

namespace {
// The uninitialised memory of the object that holds `context`, into it.
int find_shared(dl_phdr_info* info, size_t, void* context) {
  auto& c = *static_cast<flame_emulated::Context*>(context);
  const auto own = reinterpret_cast<uintptr_t>(context);
  unsigned char *begin = nullptr, *end = nullptr;
  bool here = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& p = info->dlpi_phdr[i];
    if (p.p_type != PT_LOAD || !(p.p_flags & PF_W)) continue;
    const uintptr_t at = info->dlpi_addr + p.p_vaddr;
    here = here || (own >= at && own < at + p.p_filesz);
    if (p.p_memsz == p.p_filesz) continue;
    begin = reinterpret_cast<unsigned char*>(at + p.p_filesz);
    end = reinterpret_cast<unsigned char*>(at + p.p_memsz);
  }
  if (!here) return 0;
  c.shared = begin;
  c.shared_end = end;
  return 1;
}
}  // namespace

CompileCounts compile_counts() { return counts; }

Module::Module(const std::string& name, const std::string& text, const std::vector<std::string>& options)
    : handle_(dlopen(compiled(name, text, options).c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (!handle_) throw KernelError(fmt::format("{}: {}", name, dlerror()));
  context_ = static_cast<flame_emulated::Context*>(symbol("flame_emulated_context"));
  dl_iterate_phdr(find_shared, context_);
  if (!context_->shared) throw KernelError(fmt::format("{}: the compiled text has no shared memory", name));
}
Module::~Module() { dlclose(handle_); }
void* Module::symbol(const char* name) const { return dlsym(handle_, name); }
const flame_emulated::Entry* Module::entry(const std::string& name) const {
  return static_cast<const flame_emulated::Entry*>(symbol(("flame_entry_" + name).c_str()));
}

}  // namespace flame::emulated
