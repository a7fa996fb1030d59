// DataLoader: shuffled batches of a dataset, made ahead by worker threads, the same for any number of them; on a GPU, if
// asked for, copied there beside its launches.
#pragma once
#include <array>
#include <concepts>
#include <cstddef>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "flame/data/dataset.h"

namespace flame::data {

struct LoaderOptions {
  int64_t batch = 32;
  bool shuffle = false;
  uint64_t seed = 0;       // the order of epoch e depends on seed, e and the dataset's size only
  int workers = 1;         // threads; 0 makes each batch in the caller's thread
  int prefetch = 4;        // batches at most that are ready or in the making
  bool drop_last = false;  // a last batch that is not full
  // Where batches arrive; null: on the CPU, as the dataset made them. On a GPU the workers copy them through pinned
  // memory on a stream of its own, while launches go on; each lies there until its tensors are gone.
  Device* device = nullptr;
};

// Where a loader stands: `position` batches of `epoch` were handed out.
struct LoaderState {
  int64_t epoch = 0, position = 0;
  bool operator==(const LoaderState&) const = default;
};

// The order in which `size` samples are visited in an epoch.
std::vector<int64_t> permutation(uint64_t seed, uint64_t epoch, int64_t size);

// The engine behind DataLoader: batches as a list of tensors.
class BatchStream {
 public:
  BatchStream(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options, Loc loc);
  ~BatchStream();
  // The next batch of the epoch; false at its end, after which the next epoch begins. What a worker throws arrives
  // here, in the batch's turn, whatever other workers still do; the call after that tries the same batch again.
  bool next(std::vector<Tensor>& out);
  int64_t batches() const { return batches_; }
  LoaderState state() const { return state_; }
  void load_state(const LoaderState& s, Loc loc);

 private:
  class Epoch;
  std::shared_ptr<const Dataset> dataset_;
  LoaderOptions options_;
  int64_t size_, batches_;
  LoaderState state_;
  std::unique_ptr<Epoch> running_, stopping_;  // the one that threw ends in its own time
};

[[noreturn]] void fail_batch_width(size_t got, size_t expected, Loc loc);

template <size_t N = 2>
using Batch = std::array<Tensor, N>;

// Batches of N tensors. A range-for runs to the end of the epoch, from where the loader stands:
//   for (auto& [images, labels] : loader) …
// A loop that is left early is continued by the next one; load_state({epoch + 1, 0}) goes on to another epoch.
template <size_t N = 2>
class DataLoader {
 public:
  explicit DataLoader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options = {},
                      Loc loc = Loc::current())
      : stream_(std::make_unique<BatchStream>(std::move(dataset), options, loc)) {}
  template <std::derived_from<Dataset> D>  // keeps its own copy of the dataset
  explicit DataLoader(D dataset, const LoaderOptions& options = {}, Loc loc = Loc::current())
      : DataLoader(std::make_shared<const D>(std::move(dataset)), options, loc) {}

  int64_t size() const { return stream_->batches(); }     // batches an epoch
  LoaderState state() const { return stream_->state(); }  // counts the batch in hand as done
  void load_state(const LoaderState& s, Loc loc = Loc::current()) { stream_->load_state(s, loc); }

  // False at the end of the epoch.
  bool next(Batch<N>& out, Loc loc = Loc::current()) {
    std::vector<Tensor> tensors;
    if (!stream_->next(tensors)) return false;
    if (tensors.size() != N) fail_batch_width(tensors.size(), N, loc);
    std::move(tensors.begin(), tensors.end(), out.begin());
    return true;
  }

  class Iterator {
   public:
    using value_type = Batch<N>;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(DataLoader& loader) : loader_(&loader) { ++*this; }
    Batch<N>& operator*() const { return loader_->current_; }
    Iterator& operator++() {
      if (!loader_->next(loader_->current_)) loader_ = nullptr;
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return loader_ == nullptr; }

   private:
    DataLoader* loader_;
  };
  Iterator begin() { return Iterator(*this); }
  std::default_sentinel_t end() const { return {}; }

 private:
  std::unique_ptr<BatchStream> stream_;
  Batch<N> current_;
};

}  // namespace flame::data
