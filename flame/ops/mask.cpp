// nonzero is counted on the host and then written by blocks; masked_select reads at these places; masked_fill is where.
#include "flame/ops/mask.h"

#include <cmath>
#include <atomic>
#include <bit>

#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/device/recorder.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/gather_internal.h"
#include "flame/ops/index_internal.h"
#include "flame/ops/mask_internal.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

constexpr int64_t block = 16384;  // elements counted, and then written, by one thread

// Bytes of a mask are 0 or 1, so bits can be counted eight bytes at a time.
int64_t count_true(const bool* mask, int64_t n) {
  int64_t count = 0, i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t word;
    std::memcpy(&word, mask + i, 8);
    count += std::popcount(word);
  }
  for (; i < n; ++i) count += mask[i];
  return count;
}
// The numbers of the true elements, without a branch for each.
void write_numbers(const bool* mask, int64_t begin, int64_t end, int64_t* out) {
  int64_t found[256];
  for (int64_t i = begin; i < end;) {
    int64_t k = 0;
    for (const int64_t stop = std::min<int64_t>(end, i + 256); i < stop; ++i) {
      found[k] = i;
      k += mask[i];
    }
    out = std::copy(found, found + k, out);
  }
}

// Counts the true elements of each tile of a mask and adds them up: as in mask.cu.
class DeviceTiles {
 public:
  DeviceTiles(Device& d, int64_t n) : n_(n), count_(blocks_for(n, 4096)) {
    const auto kernel = [&](const char* entry) {
      return d.kernel({entry, std::string(device_text("ops/mask.cu")), entry});
    };
    count_tiles_ = kernel("count_tiles");
    sum_tiles_ = kernel("sum_tiles");
  }
  int64_t count() const { return count_; }
  size_t workspace() const { return static_cast<size_t>(count_) * sizeof(int64_t); }
  // starts: how many come before each tile; sum: of all, may be null
  void operator()(const void* mask, void* starts, void* sum) const {
    (*count_tiles_)({.blocks = count_}, mask, starts, n_);
    (*sum_tiles_)({.threads = 1024}, starts, sum, count_);
  }

 private:
  int64_t n_, count_;
  Ref<Kernel> count_tiles_, sum_tiles_;
};

class CountTrue final : public Op {
 public:
  const char* name() const override { return "count_true"; }
  std::vector<Meta> infer(std::span<const Tensor>, Loc) const override { return {contiguous_meta(DType::i64, {})}; }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  bool differentiable() const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return make_ref<Plan>(name(), [n = numel(in[0].shape)](const Run& r) {
      std::atomic<int64_t> sum = 0;
      parallel_for(n, block, [&](int64_t begin, int64_t end) {
        sum += count_true(static_cast<const bool*>(r.buffers[0]) + begin, end - begin);
      });
      *static_cast<int64_t*>(r.buffers[1]) = sum;
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    const DeviceTiles tiles(d, numel(in[0].shape));
    return make_ref<Plan>(
        name(), [tiles](const Run& r) { tiles(r.buffers[0], r.workspace, r.buffers[1]); }, tiles.workspace());
  }
};

// mask -> [count, rank]. Each block learns from those before it where its places go.
class Nonzero final : public Op {
 public:
  explicit Nonzero(int64_t count) : count_(count) {}
  const char* name() const override { return "nonzero"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(DType::i64, {count_, in[0].rank()})};
  }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  bool differentiable() const override { return false; }
  bool saves_input(int) const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    const Shape shape = in[0].shape;
    const int64_t n = numel(shape), blocks = (n + block - 1) / block;
    return make_ref<Plan>(
        name(),
        [shape, n, blocks](const Run& r) {
          const bool* mask = static_cast<const bool*>(r.buffers[0]);
          int64_t* first = static_cast<int64_t*>(r.workspace);
          parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; ++b)
              first[b] = count_true(mask + b * block, std::min(block, n - b * block));
          });
          for (int64_t b = 0, sum = 0; b < blocks; ++b) sum += std::exchange(first[b], sum);
          parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; ++b)
              write(shape, mask, b * block, std::min(n, (b + 1) * block),
                    static_cast<int64_t*>(r.buffers[1]) + first[b] * shape.rank());
          });
        },
        static_cast<size_t>(blocks) * sizeof(int64_t));
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    struct Sizes {  // as in mask.cu
      int64_t rank, n;
      int64_t shape[max_rank];
    } s{in[0].shape.rank(), numel(in[0].shape), {}};
    for (int i = 0; i < in[0].shape.rank(); ++i) s.shape[i] = in[0].shape[i];
    const DeviceTiles tiles(d, s.n);
    return make_ref<Plan>(
        name(),
        [k = d.kernel({name(), std::string(device_text("ops/mask.cu")), name()}), s, tiles](const Run& r) {
          tiles(r.buffers[0], r.workspace, nullptr);
          (*k)({.blocks = tiles.count()}, s, r.buffers[0], r.workspace, r.buffers[1]);
        },
        tiles.workspace());
  }

 private:
  int64_t count_;

  static void write(const Shape& shape, const bool* mask, int64_t begin, int64_t end, int64_t* out) {
    const int rank = shape.rank();
    if (rank == 1) return write_numbers(mask, begin, end, out);
    Dims at = Dims::filled(rank, 0);
    int64_t rest = begin;
    for (int d = rank - 1; d >= 0; --d) {
      at[d] = rest % shape[d];
      rest /= shape[d];
    }
    for (int64_t i = begin; i < end; ++i) {
      if (mask[i]) out = std::copy(at.begin(), at.end(), out);
      for (int d = rank - 1; d >= 0 && ++at[d] == shape[d]; --d) at[d] = 0;
    }
  }
};

void need_mask(const char* op, const Tensor& mask, Loc loc) {
  if (mask.dtype() != DType::boolean) fail<DTypeError>(loc, "{}: expected a bool mask, got {}", op, mask.dtype());
}

}  // namespace

Tensor places_of(const char* op, const Tensor& x, Loc loc) {
  if (Recorder::current())
    fail<RecordError>(loc, "{}: the shape of its result depends on values, so it cannot be part of a recorded step",
                      op);
  const Tensor mask = x.dtype() == DType::boolean ? x : ne(x.detach(), 0, loc);
  const auto count = dispatch(make_ref<CountTrue>(), {mask}, loc).item<int64_t>(loc);
  return dispatch(make_ref<Nonzero>(count), {mask}, loc);
}

Tensor select_true(const char* op, const Tensor& x, const Tensor& mask, Loc loc) {
  const Tensor places = places_of(op, mask.flatten(0, -1, loc), loc).flatten(0, -1, loc);
  return index_get({.op = op, .index = {places}, .axes = {0}, .distinct = true}, x.flatten(0, -1, loc), loc);
}

Scalar as_dtype(const Scalar& v, DType t) {
  const bool floating = v.kind == Scalar::Kind::floating;
  if (t == DType::boolean) return floating ? v.value != 0 : v.integral != 0;
  if (is_float(t)) return floating ? v.value : static_cast<double>(v.integral);
  return floating && std::abs(v.value) < 0x1p63 ? static_cast<int64_t>(v.value) : v.integral;
}

Tensor nonzero(const Tensor& x, Loc loc) {
  check_defined("nonzero", x, loc);
  return places_of("nonzero", x, loc);
}

Tensor masked_select(const Tensor& x, const Tensor& mask, Loc loc) {
  check_inputs("masked_select", {&x, &mask}, loc);
  need_mask("masked_select", mask, loc);
  Shape shape;
  if (!broadcast_shapes(x.shape(), mask.shape(), shape))
    fail<ShapeError>(loc, "masked_select: shapes {} and {} do not broadcast", x.shape(), mask.shape());
  return select_true("masked_select", x.expand(shape, loc), mask.expand(shape, loc), loc);
}

Tensor masked_fill(const Tensor& x, const Tensor& mask, const Arg& value, Loc loc) {
  const OpScope scope("masked_fill");
  check_inputs("masked_fill", {&x, &mask}, loc);
  if (value.tensor()) check_inputs("masked_fill", {&x, value.tensor()}, loc);
  need_mask("masked_fill", mask, loc);
  if (value.tensor() && value.tensor()->rank() != 0)
    fail<ShapeError>(loc, "masked_fill: expected a number or a tensor of rank 0, got {}", value.tensor()->shape());
  Shape shape;
  if (!broadcast_shapes(x.shape(), mask.shape(), shape))
    fail<ShapeError>(loc, "masked_fill: shapes {} and {} do not broadcast", x.shape(), mask.shape());
  if (value.tensor()) return where(mask, value.tensor()->to(x.dtype(), loc), x, loc);
  return where(mask, as_dtype(value.scalar(), x.dtype()), x, loc);
}

namespace {
using Inputs = std::vector<Tensor>;
using samples::strided, samples::transposed, samples::uniform;

Tensor truths(const Shape& s) { return eq(samples::classes(s, 3), 0); }

const RegisterOp registered[] = {
    RegisterOp({.name = "nonzero",
                .signature = "nonzero(x)",
                .formula = "the places of elements other than zero, row-major",
                .differentiable = false,
                .samples =
                    [](DType t) {
                      const auto fn = [](const Inputs& in) { return Inputs{nonzero(in[0])}; };
                      const auto some = [t](const Shape& s) { return relu(uniform(s, t)); };
                      return std::vector<SampleCase>{
                          {{some({7})}, fn, "vector", -1, true},
                          {{some({3, 4, 5}).t()}, fn, "transposed", -1, true},
                          {{some({})}, fn, "0-d", -1, true},
                          {{some({2, 0})}, fn, "empty", -1, true},
                      };
                    }}),
    RegisterOp({.name = "masked_select",
                .signature = "masked_select(x, mask)",
                .formula = "the elements where mask is true, row-major",
                .samples =
                    [](DType t) {
                      const auto fn = [](const Inputs& in) { return Inputs{masked_select(in[0], in[1])}; };
                      return std::vector<SampleCase>{
                          {{uniform({3, 4}, t), truths({3, 4})}, fn, "matrix", 1, true},
                          {{transposed({3, 4}, t), truths({4})}, fn, "the mask broadcasts", 1, true},
                          {{strided({1, 4}, t), truths({3, 1})}, fn, "both broadcast", 1, true},
                          {{uniform({}, t), ones({}, DType::boolean)}, fn, "0-d", 1, true},
                          {{uniform({3}, t), zeros({3}, DType::boolean)}, fn, "nothing", 1, true},
                      };
                    }}),
    RegisterOp({.name = "masked_fill",
                .signature = "masked_fill(x, mask, value)",
                .formula = "value where mask is true, else x",
                .samples =
                    [](DType t) {
                      const auto fn = [](const Inputs& in) { return Inputs{masked_fill(in[0], in[1], in[2])}; };
                      const auto number = [](const Inputs& in) { return Inputs{masked_fill(in[0], in[1], -HUGE_VAL)}; };
                      return std::vector<SampleCase>{
                          {{uniform({3, 4}, t), truths({3, 4}), uniform({}, t, 2)}, fn, "matrix"},
                          {{transposed({3, 4}, t), truths({2, 1, 4}), uniform({}, t, 2)}, fn, "x broadcasts"},
                          {{strided({3, 4}, t), truths({4})}, number, "a number", 1},
                          {{uniform({0, 4}, t), truths({4})}, number, "empty", 1},
                      };
                    }}),
};
}  // namespace

}  // namespace flame
