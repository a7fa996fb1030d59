// NVRTC and the cache on disk.
#include "flame/device/cuda/compiler.h"

#include <nvrtc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_set>

#include "flame/core/format.h"
#include "flame/device/cuda/cache.h"
#include "flame/device/cuda/library.h"
#include "flame/device/kernel.h"

namespace flame::cuda {
namespace {

namespace fs = std::filesystem;

#define FLAME_NVRTC_FUNCTIONS(F) \
  F(nvrtcVersion)                \
  F(nvrtcCreateProgram)          \
  F(nvrtcCompileProgram)         \
  F(nvrtcDestroyProgram)         \
  F(nvrtcGetCUBINSize)           \
  F(nvrtcGetCUBIN)               \
  F(nvrtcGetProgramLogSize)      \
  F(nvrtcGetProgramLog)          \
  F(nvrtcGetErrorString)

struct Nvrtc {
#define FLAME_DECLARE(name) decltype(&::name) name;
  FLAME_NVRTC_FUNCTIONS(FLAME_DECLARE)
  int major = 0, minor = 0;
  Nvrtc() {
    void* l = need_library("NVRTC", {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"});
#define FLAME_LOAD(name) name = reinterpret_cast<decltype(name)>(need_symbol(l, #name));
    FLAME_NVRTC_FUNCTIONS(FLAME_LOAD)
    nvrtcVersion(&major, &minor);
  }
};
const Nvrtc& nvrtc() {
  static const Nvrtc all;
  return all;
}
void check(nvrtcResult r, const char* what) {
  if (r != NVRTC_SUCCESS)
    fail<DeviceError>(Loc::current(), "cuda: {} failed: {}", what, nvrtc().nvrtcGetErrorString(r));
}

std::atomic<uint64_t> compiled{0}, from_disk{0}, nanoseconds{0};
std::atomic<int> under_way{0}, most_at_once{0};

// What an entry of the cache starts with.
struct Header {
  char magic[8];
  uint64_t bytes, checksum;
};
constexpr char magic[8] = {'F', 'L', 'A', 'M', 'E', 'C', 'B', '1'};

std::optional<std::string> read_entry(const fs::path& file) {
  std::string all = read_file(file);
  Header h{};
  if (all.size() < sizeof h) return {};
  std::memcpy(&h, all.data(), sizeof h);
  if (std::memcmp(h.magic, magic, sizeof magic) != 0 || h.bytes != all.size() - sizeof h) return {};
  all.erase(0, sizeof h);
  if (cache_hash(all, 1) != h.checksum) return {};
  return all;
}
void write_entry(const fs::path& file, const std::string& cubin) {
  Header h{{}, cubin.size(), cache_hash(cubin, 1)};
  std::memcpy(h.magic, magic, sizeof magic);
  write_by_renaming(file, std::string(reinterpret_cast<const char*>(&h), sizeof h) + cubin);
}

// $FLAME_KERNEL_LOG: a file that gets a line of each kernel asked for, once a process: the hash of text and options, and a name.
// $FLAME_KERNEL_TEXTS: a folder that gets the texts, as HASH.cu.
void log_kernel(const std::string& name, std::string_view text, uint64_t hash) {
  static const char* path = std::getenv("FLAME_KERNEL_LOG");
  static const char* texts = std::getenv("FLAME_KERNEL_TEXTS");
  if (texts) std::ofstream(fs::path(texts) / fmt::format("{:016x}.cu", hash)) << text;
  if (!path) return;
  static std::mutex mutex;
  static std::unordered_set<uint64_t> known;
  std::lock_guard lock(mutex);
  if (known.insert(hash).second) std::ofstream(path, std::ios::app) << fmt::format("{:016x} {}\n", hash, name);
}

// Where a kernel lies, and all that decides what it compiles to.
fs::path file_of(std::string_view text, const std::vector<std::string>& options, int arch) {
  static const std::string headers = [] {
    std::string all;
    for (const DeviceHeader& h : device_headers()) all += fmt::format("\n{} {:x}", h.name, cache_hash(h.text, 7));
    return all;
  }();
  std::string key = fmt::format("sm_{} nvrtc {}", arch, nvrtc_version());
  for (const std::string& o : options) key += '\n' + o;
  key += headers;
  return cache_folder() / fmt::format("{:016x}{:016x}.cubin", cache_hash(text, cache_hash(key, 11)),
                                      cache_hash(key, cache_hash(text, 13)));
}
std::optional<std::string> known_cubin(const fs::path& file) {
  std::optional<std::string> known = read_entry(file);
  if (known) from_disk += 1;
  return known;
}

// A few threads that compile. NVRTC takes different programs from different threads, and from 12.3 on works on them at once.
class Pool {
 public:
  explicit Pool(size_t threads) {
    for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  // What has begun is finished, what has not is left.
  void stop() {
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(stop_, true)) return;
      jobs_.clear();
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
  }
  void add(std::function<void()> job) {
    {
      std::lock_guard lock(mutex_);
      if (!stop_) jobs_.push_back(std::exchange(job, {}));
    }
    if (job) job();  // the process is ending
    else wake_.notify_one();
  }

 private:
  void work() {
    for (;;) {
      std::function<void()> job;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
        if (stop_) return;
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      job();
    }
  }
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};
Pool& pool() {
  static auto* all = new Pool(std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 8));
  return *all;
}

// NVRTC may not be compiling when its own handlers run at exit, some of which it registers while it compiles first. The
// main thread's objects go before any handler; for an exit() elsewhere there is a handler of ours behind NVRTC's.
void stop_at_exit() {
  struct Stop {
    ~Stop() { pool().stop(); }
  };
  if (gettid() == getpid()) {
    static thread_local const Stop stop;
    (void)stop;
  }
}
void stop_before_handlers() {
  static std::atomic<int> times{0};
  if (times.fetch_add(1) < 8) std::atexit([] { pool().stop(); });
}

struct UnderWay {
  UnderWay() {
    const int now = under_way.fetch_add(1) + 1;
    for (int most = most_at_once; now > most && !most_at_once.compare_exchange_weak(most, now);) {}
  }
  ~UnderWay() { under_way -= 1; }
};

}  // namespace

uint64_t kernel_hash(const std::string& name, std::string_view text, const std::vector<std::string>& options) {
  uint64_t h = cache_hash(text, 17);
  for (const std::string& o : options) h = cache_hash(o, h);
  log_kernel(name, text, h);
  return h;
}

std::string compile(const std::string& name, std::string_view text, const std::vector<std::string>& options, int arch) {
  const auto start = std::chrono::steady_clock::now();
  const Nvrtc& n = nvrtc();
  const UnderWay counted;
  std::vector<const char*> names, texts, flags;
  for (const DeviceHeader& h : device_headers()) {
    names.push_back(h.name);
    texts.push_back(h.text.data());
  }
  const std::string source(text), target = fmt::format("--gpu-architecture=sm_{}", arch);
  for (const char* f : {"--std=c++20", "--device-as-default-execution-space", "--no-source-include"})
    flags.push_back(f);
  constexpr std::string_view own = "--gpu-architecture=";  // of a text for one kind of GPU alone
  if (std::none_of(options.begin(), options.end(), [&](const std::string& o) { return o.starts_with(own); }))
    flags.push_back(target.c_str());
  for (const std::string& o : options) flags.push_back(o.c_str());
  nvrtcProgram p;
  check(n.nvrtcCreateProgram(&p, source.c_str(), (name + ".cu").c_str(), static_cast<int>(names.size()), texts.data(),
                             names.data()),
        "nvrtcCreateProgram");
  const nvrtcResult r = n.nvrtcCompileProgram(p, static_cast<int>(flags.size()), flags.data());
  std::string cubin;
  if (r == NVRTC_SUCCESS) {
    size_t bytes = 0;
    check(n.nvrtcGetCUBINSize(p, &bytes), "nvrtcGetCUBINSize");
    cubin.resize(bytes);
    check(n.nvrtcGetCUBIN(p, cubin.data()), "nvrtcGetCUBIN");
  }
  std::string log;
  if (r != NVRTC_SUCCESS) {
    size_t bytes = 0;
    n.nvrtcGetProgramLogSize(p, &bytes);
    log.resize(bytes);
    n.nvrtcGetProgramLog(p, log.data());
    log.erase(log.find_last_not_of(" \n\0", std::string::npos, 3) + 1);
  }
  n.nvrtcDestroyProgram(&p);
  compiled += 1;
  nanoseconds += static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count());
  if (r != NVRTC_SUCCESS)
    throw KernelError(
        fmt::format("{}: the kernel does not compile for sm_{} ({}):\n{}", name, arch, n.nvrtcGetErrorString(r), log));
  return cubin;
}

std::string compile_cached(const std::string& name, std::string_view text, const std::vector<std::string>& options,
                           int arch) {
  kernel_hash(name, text, options);
  const fs::path file = file_of(text, options, arch);
  if (std::optional<std::string> known = known_cubin(file)) return *std::move(known);
  std::string cubin = compile(name, text, options, arch);
  write_entry(file, cubin);
  return cubin;
}

std::shared_future<std::string> compile_later(std::string name, std::string text, std::vector<std::string> options,
                                              int arch, std::function<void()> done) {
  kernel_hash(name, text, options);
  const fs::path file = file_of(text, options, arch);
  auto result = std::make_shared<std::promise<std::string>>();
  if (std::optional<std::string> known = known_cubin(file)) {
    result->set_value(*std::move(known));
    done();
    return result->get_future().share();
  }
  std::shared_future<std::string> out = result->get_future().share();
  stop_at_exit();
  pool().add([=, name = std::move(name), text = std::move(text), options = std::move(options), done = std::move(done)] {
    try {
      std::string cubin = compile(name, text, options, arch);
      write_entry(file, cubin);
      result->set_value(std::move(cubin));
    } catch (...) { result->set_exception(std::current_exception()); }
    stop_before_handlers();
    done();
  });
  return out;
}

CompilerStats compiler_stats() { return {compiled, from_disk, static_cast<double>(nanoseconds) * 1e-9, most_at_once}; }
std::string nvrtc_version() { return fmt::format("{}.{}", nvrtc().major, nvrtc().minor); }

}  // namespace flame::cuda
