// The draw of a batch: one op with as many outputs as there are tensors.
#include "flame/train/batches.h"

#include <algorithm>
#include <cstring>

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/cpu/parallel.h"
#include "flame/device/kernel.h"
#include "flame/tensor/op.h"
#include "flame/train/epoch_order.cuh"

namespace flame {

namespace {

constexpr size_t most_tensors = 8;

struct Order {
  uint64_t seed, batch_number;
  int64_t rows, batch, shuffle;
  int64_t row(int64_t i) const {
    const uint64_t n = static_cast<uint64_t>(rows);
    const uint64_t at = batch_number * static_cast<uint64_t>(batch) + static_cast<uint64_t>(i);
    return static_cast<int64_t>(shuffle ? epoch_row(seed, at / n, at % n, n) : at % n);
  }
};
// As in batches.cu.
struct Rows {
  const void* from;
  void* to;
  int64_t pieces, piece, threads, segments, first;
};
struct Table {
  int64_t count;
  Order order;
  Rows tensor[most_tensors];
};

class DrawRows final : public Op {
 public:
  DrawRows(const DeviceBatchesOptions& o, Generator::Call call) : options_(o), call_(call) {}
  const char* name() const override { return "draw_rows"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    std::vector<Meta> out;
    for (const Tensor& t : in) {
      Shape s = t.shape();
      s[0] = options_.batch;
      out.push_back(contiguous_meta(t.dtype(), s));
    }
    return out;
  }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  void key(Key& k) const override { k << options_.batch << options_.shuffle; }
  std::vector<Word> scalars() const override {
    return {word(static_cast<const void*>(call_.block)), word(call_.delta)};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    return make_ref<Plan>(name(), [order = order(in), bytes = row_bytes(out)](const Run& r) {
      const Order o = of(order, r);
      parallel_for(o.batch, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          for (size_t k = 0; k < bytes.size(); ++k)
            std::memcpy(static_cast<char*>(r.buffers[bytes.size() + k]) + i * bytes[k],
                        static_cast<const char*>(r.buffers[k]) + o.row(i) * bytes[k], static_cast<size_t>(bytes[k]));
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const Ref<Kernel> kernel = d.kernel({name(), std::string(device_text("train/batches.cu")), "draw_rows"});
    return make_ref<Plan>(name(), [kernel, order = order(in), bytes = row_bytes(out)](const Run& r) {
      Table t{0, of(order, r), {}};
      int64_t blocks = 0;
      for (size_t k = 0; k < bytes.size(); ++k) {
        if (bytes[k] == 0) continue;
        Rows& x = t.tensor[t.count++];
        x.from = r.buffers[k];
        x.to = r.buffers[bytes.size() + k];
        const auto places =
            reinterpret_cast<uintptr_t>(x.from) | reinterpret_cast<uintptr_t>(x.to) | static_cast<uintptr_t>(bytes[k]);
        x.piece = places % 16 == 0 ? 16 : places % 8 == 0 ? 8 : places % 4 == 0 ? 4 : 1;
        x.pieces = bytes[k] / x.piece;
        x.threads = 1;
        while (x.threads < std::min<int64_t>(x.pieces, 256)) x.threads *= 2;
        x.segments = blocks_for(x.pieces, 8 * x.threads);
        x.first = blocks;
        blocks += blocks_for(t.order.batch, 256 / x.threads) * x.segments;
      }
      if (blocks > 0) (*kernel)({.blocks = blocks}, t);
    });
  }
  bool differentiable() const override { return false; }

 private:
  Order order(std::span<const Meta> in) const { return {0, 0, in[0].shape[0], options_.batch, options_.shuffle}; }
  static Order of(Order o, const Run& r) {
    const auto* block = static_cast<const Generator::Block*>(r.scalars[0].p);
    o.seed = block->seed;
    o.batch_number = block->base + r.scalars[1].u;
    return o;
  }
  static std::vector<int64_t> row_bytes(std::span<const Meta> out) {
    std::vector<int64_t> bytes;
    for (const Meta& m : out) bytes.push_back(numel(m.shape) / m.shape[0] * static_cast<int64_t>(size_of(m.dtype)));
    return bytes;
  }

  DeviceBatchesOptions options_;
  Generator::Call call_;
};

}  // namespace

DeviceBatches::DeviceBatches(const std::vector<Tensor>& tensors, const DeviceBatchesOptions& o, Loc loc)
    : options_(o), rows_(0), generator_(o.seed) {
  if (tensors.empty() || tensors.size() > most_tensors)
    fail<ValueError>(loc, "DeviceBatches: expected 1 to {} tensors, got {}", most_tensors, tensors.size());
  if (o.batch < 1) fail<ValueError>(loc, "DeviceBatches: expected a batch of 1 or more, got {}", o.batch);
  for (const Tensor& t : tensors) {
    if (!t.defined()) fail<ValueError>(loc, "DeviceBatches: expected defined tensors, got an undefined one");
    if (t.rank() < 1 || t.shape()[0] < 1 || t.shape()[0] != tensors[0].shape()[0])
      fail<ShapeError>(loc, "DeviceBatches: expected as many rows in all tensors, at least 1, got {} and {}",
                       tensors[0].shape(), t.shape());
    if (&t.device() != &tensors[0].device())
      fail<DeviceError>(loc, "DeviceBatches: expected tensors on one device, got {} and {}", tensors[0].device().name(),
                        t.device().name());
    tensors_.push_back(t.detach().contiguous(loc));
    materialize(tensors_.back().value());
  }
  rows_ = tensors[0].shape()[0];
}

std::vector<Tensor> DeviceBatches::next(Loc loc) {
  return dispatch_multi(make_ref<DrawRows>(options_, generator_.next_call()), tensors_, loc);
}

void DeviceBatches::seek(int64_t batch, Loc loc) {
  if (batch < 0) fail<ValueError>(loc, "DeviceBatches: expected a batch number of 0 or more, got {}", batch);
  generator_.set_state({options_.seed, static_cast<uint64_t>(batch)}, loc);
}

}  // namespace flame
