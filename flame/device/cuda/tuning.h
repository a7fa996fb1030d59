// Internal: choices among a library's candidates, timed once and kept on disk beside the kernels. A choice belongs to one
// version of the library, one GPU and one key; any other is timed anew.
#pragma once
#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace flame::cuda {

class CudaDevice;

struct TuningKey {
  std::string library, gpu, text;  // "cuBLASLt 130100", "NVIDIA H100 80GB HBM3 sm_90", "gemm float32 ..."
};
struct Candidate {
  std::string config;  // what rebuilds it
  double microseconds = 0;
};
struct Tuned {
  std::vector<Candidate> candidates;
  size_t chosen = 0;
};

// Of this process or from the disk.
std::optional<Tuned> find_tuned(const TuningKey& key);
// Which of the texts was chosen for the key; nothing if the choice is not among them.
std::optional<size_t> find_choice(const TuningKey& key, const std::vector<std::string>& configs);
// As find_choice; without a choice, times the candidates (`time` gives microseconds, a negative number where the library
// cannot do one at all, and throws where it cannot now) and keeps it here and on disk. The first candidate stays unless
// another is at least 3 % faster. Nothing is kept if all fail.
size_t choose(const TuningKey& key, const std::vector<std::string>& configs, const std::function<double(size_t)>& time);
// Forgets this process's choices, not those on disk.
void forget_tuned();

// The shortest of some runs of fn on the device's stream, in microseconds, after one that is not counted. One run is enough
// where it takes more than twice `best`, the time of another candidate (negative: there is none yet), which it may lower.
double time_on(CudaDevice& d, const std::function<void()>& fn, double& best);

// A file of the cache as text for people, or empty if it is none of these.
struct TunedFile {
  TuningKey key;
  Tuned tuned;
};
std::vector<TunedFile> tuned_files();

struct TuningStats {
  std::atomic<uint64_t> keys_timed{0}, candidates_timed{0}, from_disk{0};
  std::atomic<uint64_t> fused_convolutions{0};  // runs of convolutions whose bias or activation cuDNN did
  std::atomic<uint64_t> pointer_batches{0};     // plans of products whose batches no one stride describes
  std::atomic<uint64_t> fused_products{0};      // plans of products whose epilogue cuBLASLt does
  std::atomic<uint64_t> epilogues{0};           // runs of such plans in which cuBLASLt did it
  std::atomic<uint64_t> epilogue_kernels{0};    // launches of kernels for what it did not do
  std::atomic<uint64_t> unordered{0};           // candidates left out, as their sums have no fixed order
  std::atomic<uint64_t> aligned_copies{0};      // buffers of convolutions that were copied to a multiple of 16 bytes
};
TuningStats& tuning_stats();

}  // namespace flame::cuda
