// Workers take batch numbers in order and put results into a ring of `prefetch` places; the caller takes them in order.
// One Epoch object is one run of threads: leaving early, an error or a new state simply destroys it.
#include "flame/data/loader.h"

#include <cxxabi.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <thread>

#include "flame/core/format.h"
#include "flame/core/philox.h"
#include "flame/tensor/internal.h"

namespace flame::data {
namespace {

constexpr uint64_t shuffle_key = 0x73687566'666c6521;  // keeps shuffling apart from other uses of the same seed

}  // namespace

// Fisher and Yates, from the back. The bias of the 64-bit product is below size / 2^64.
std::vector<int64_t> permutation(uint64_t seed, uint64_t epoch, int64_t size) {
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (size_t i = order.size(); i > 1; --i) {
    const PhiloxBlock r = philox(seed ^ shuffle_key, i, epoch);
    const uint64_t bits = static_cast<uint64_t>(r[1]) << 32 | r[0];
    const auto j = static_cast<size_t>(static_cast<unsigned __int128>(bits) * i >> 64);
    std::swap(order[i - 1], order[j]);
  }
  return order;
}

class BatchStream::Epoch {
 public:
  Epoch(const Dataset& dataset, const LoaderOptions& options, int64_t size, int64_t first, int64_t batches,
        uint64_t epoch)
      : dataset_(dataset),
        device_(options.device && options.device != &cpu() ? options.device : nullptr),
        batch_(options.batch),
        batches_(batches),
        epoch_(epoch),
        taken_(first),
        given_(first) {
    if (options.shuffle) {
      order_ = permutation(options.seed, epoch, size);
    } else {
      order_.resize(static_cast<size_t>(size));
      std::iota(order_.begin(), order_.end(), int64_t{0});
    }
    if (options.workers == 0) return;
    slots_.resize(static_cast<size_t>(options.prefetch));
    const int64_t threads = std::min<int64_t>({options.workers, options.prefetch, batches - first});
    try {
      for (int64_t i = 0; i < threads; ++i) workers_.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Epoch() { stop(); }
  Epoch(const Epoch&) = delete;
  Epoch& operator=(const Epoch&) = delete;

  // Workers end after the sample in hand; the destructor waits for that.
  void ask_to_stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    room_.notify_all();
  }

  std::vector<Tensor> next() {
    if (slots_.empty()) return arrived(make(given_++));
    std::optional<Result> result;
    {
      std::unique_lock lock(mutex_);
      auto& slot = slots_[static_cast<size_t>(given_) % slots_.size()];
      ready_.wait(lock, [&] { return slot.has_value(); });
      result.swap(slot);
      ++given_;
    }
    room_.notify_one();
    if (result->error) std::rethrow_exception(result->error);
    return arrived(std::move(*result));
  }

 private:
  struct Result {
    std::vector<Tensor> tensors;
    std::optional<Upload> upload;  // under way
    std::exception_ptr error;
  };

  static size_t bytes_of(const Tensor& t) { return static_cast<size_t>(t.numel()) * size_of(t.dtype()); }

  Result make(int64_t number) const {
    const auto from = static_cast<size_t>(number * batch_);
    const std::span<const int64_t> all(order_);
    Result r;
    r.tensors = dataset_.get_batch(all.subspan(from, std::min(static_cast<size_t>(batch_), all.size() - from)), epoch_);
    if (!device_) return r;
    // One copy brings the whole batch, whose tensors then are views of one block.
    const Loc loc = Loc::current();
    constexpr size_t alignment = 512;
    std::vector<Tensor> dense;
    std::vector<size_t> places;
    size_t bytes = 0;
    for (const Tensor& t : r.tensors) {
      if (!t.device().host_accessible())
        fail<DeviceError>(loc,
                          "DataLoader: expected batches of a dataset on the CPU, which LoaderOptions::device then "
                          "copies; got a tensor on {}",
                          t.device().name());
      dense.push_back(t.detach().contiguous());
      places.push_back((bytes + alignment - 1) / alignment * alignment);
      bytes = places.back() + bytes_of(dense.back());
    }
    if (dense.empty()) return r;
    std::unique_ptr<char[]> block;
    const void* from_host = dense[0].data();
    if (dense.size() > 1) {
      block = std::make_unique_for_overwrite<char[]>(bytes);
      for (size_t i = 0; i < dense.size(); ++i)
        if (const size_t n = bytes_of(dense[i])) std::memcpy(block.get() + places[i], dense[i].data(), n);
      from_host = block.get();
    }
    r.upload = device_->upload(from_host, bytes, loc);
    for (size_t i = 0; i < dense.size(); ++i) {
      const DType type = dense[i].dtype();
      Ref<Value> v = make_ref<Value>(*device_, type, dense[i].shape(), contiguous_strides(dense[i].shape()));
      v->storage = r.upload->storage;
      v->offset = static_cast<int64_t>(places[i] / size_of(type));
      r.tensors[i] = Tensor(std::move(v));
    }
    return r;
  }
  // From here on the launches of the caller's device come after the copies.
  static std::vector<Tensor> arrived(Result r) {
    if (r.upload) r.upload->arrive();
    return std::move(r.tensors);
  }

  // The exception of a forced unwinding has no object, which a catch by reference binds to all the same.
  __attribute__((no_sanitize("null"))) void work() {
    for (;;) {
      int64_t number;
      {
        std::unique_lock lock(mutex_);
        room_.wait(lock, [&] {
          return stopping_ || taken_ == batches_ || taken_ < given_ + static_cast<int64_t>(slots_.size());
        });
        if (stopping_ || taken_ == batches_) return;
        number = taken_++;
      }
      Result result;
      try {
        result = make(number);
      } catch (const abi::__forced_unwind&) {  // the thread is being ended, by pthread_exit or pthread_cancel
        result.error = std::make_exception_ptr(std::runtime_error("DataLoader: a worker's thread was ended"));
        hand_over(number, std::move(result));
        throw;
      } catch (...) { result.error = std::current_exception(); }
      hand_over(number, std::move(result));
    }
  }

  void hand_over(int64_t number, Result result) {
    {
      const std::lock_guard lock(mutex_);
      slots_[static_cast<size_t>(number) % slots_.size()] = std::move(result);
    }
    ready_.notify_one();
  }

  void stop() {
    ask_to_stop();
    for (auto& t : workers_) t.join();
    workers_.clear();
  }

  const Dataset& dataset_;
  Device* const device_;
  const int64_t batch_, batches_;
  const uint64_t epoch_;
  std::vector<int64_t> order_;
  std::mutex mutex_;
  std::condition_variable ready_, room_;
  std::vector<std::optional<Result>> slots_;  // batch n in place n % prefetch
  int64_t taken_, given_;                     // the next batch to make, and to hand out
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

BatchStream::BatchStream(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options, Loc loc)
    : dataset_(std::move(dataset)), options_(options) {
  if (!dataset_) fail<ValueError>(loc, "DataLoader: no dataset");
  if (options.batch < 1) fail<ValueError>(loc, "DataLoader: batch is {}, expected at least 1", options.batch);
  if (options.workers < 0) fail<ValueError>(loc, "DataLoader: workers is {}, expected at least 0", options.workers);
  if (options.prefetch < 1) fail<ValueError>(loc, "DataLoader: prefetch is {}, expected at least 1", options.prefetch);
  size_ = dataset_->size();
  if (size_ < 0) fail<ValueError>(loc, "DataLoader: the dataset's size is {}", size_);
  batches_ = size_ / options.batch + (!options.drop_last && size_ % options.batch != 0 ? 1 : 0);
}

BatchStream::~BatchStream() = default;

bool BatchStream::next(std::vector<Tensor>& out) {
  if (state_.position == batches_) {
    running_.reset();
    state_ = {state_.epoch + 1, 0};
    return false;
  }
  if (!running_)
    running_ = std::make_unique<Epoch>(*dataset_, options_, size_, state_.position, batches_,
                                       static_cast<uint64_t>(state_.epoch));
  try {
    out = running_->next();
  } catch (...) {
    running_->ask_to_stop();
    stopping_ = std::move(running_);  // waits for an earlier one, but the error does not wait for other workers
    throw;
  }
  ++state_.position;
  return true;
}

void BatchStream::load_state(const LoaderState& s, Loc loc) {
  if (s.epoch < 0 || s.position < 0 || s.position > batches_)
    fail<ValueError>(loc, "DataLoader: state is epoch {} position {}, expected a position of 0 to {}", s.epoch,
                     s.position, batches_);
  running_.reset();
  state_ = s;
}

void fail_batch_width(size_t got, size_t expected, Loc loc) {
  fail<ShapeError>(loc, "DataLoader: the dataset gives {} tensors a batch, expected {}", got, expected);
}

}  // namespace flame::data
