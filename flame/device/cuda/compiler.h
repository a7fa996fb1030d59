// Internal: text to machine code by NVRTC, kept on disk so that a second process compiles nothing.
#pragma once
#include <functional>
#include <future>
#include <string>
#include <string_view>
#include <vector>

namespace flame::cuda {

// The cubin of `text` for compute capability `arch` (90 for 9.0), unless an option names an architecture. ValueError with the
// compiler's log if it does not compile.
std::string compile(const std::string& name, std::string_view text, const std::vector<std::string>& options, int arch);

// As above, from the cache's folder if it is there: $FLAME_CACHE, else ~/.cache/flame. A damaged entry is made anew.
std::string compile_cached(const std::string& name, std::string_view text, const std::vector<std::string>& options,
                           int arch);

// As above, but what is not in the folder is compiled by one of a few threads, which call `done` after it, whether it
// compiled or not; get() then gives it or throws. DeviceError at once if there is no compiler.
std::shared_future<std::string> compile_later(std::string name, std::string text, std::vector<std::string> options,
                                              int arch, std::function<void()> done);

// What names a kernel in tests/cuda_kernels.txt: a hash of text and options. Goes to $FLAME_KERNEL_LOG, if that is set.
uint64_t kernel_hash(const std::string& name, std::string_view text, const std::vector<std::string>& options);

struct CompilerStats {
  uint64_t compiled = 0, from_disk = 0;
  double seconds = 0;  // spent in NVRTC
  int most_at_once = 0;
};
CompilerStats compiler_stats();
std::string nvrtc_version();

}  // namespace flame::cuda
