// searchsorted and bucketize: one bisection a value, parallel over values.
#include "flame/ops/search.h"

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/cpu/strided_copy.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

template <class T>
auto comparable(T v) {
  if constexpr (std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>) return static_cast<float>(v);
  else return v;
}

// (sorted [rows or 1, n], values [rows, m]), contiguous, of one dtype.
class Search final : public Op {
 public:
  Search(const char* name, bool right) : name_(name), right_(right) {}
  const char* name() const override { return name_; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(DType::i64, in[1].shape())};
  }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  void key(Key& k) const override { k << right_; }
  bool differentiable() const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    const int64_t n = in[0].shape[1], m = in[1].shape[1], count = numel(in[1].shape);
    const int64_t row = in[0].shape[0] == 1 ? 0 : n;
    return visit_dtype(in[0].dtype, [&](auto t) {
      using T = decltype(t);
      return make_ref<Plan>(name_, [=, right = right_](const Run& r) {
        const T *sorted = static_cast<const T*>(r.buffers[0]), *values = static_cast<const T*>(r.buffers[1]);
        int64_t* out = static_cast<int64_t*>(r.buffers[2]);
        parallel_for(count, 512, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) out[i] = place(sorted + i / m * row, n, comparable(values[i]), right);
        });
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    const int64_t n = in[0].shape[1], m = in[1].shape[1], count = numel(in[1].shape);
    const int64_t row = in[0].shape[0] == 1 ? 0 : n;
    if (count == 0) return make_ref<Plan>(name_, [](const Run&) {});
    return make_ref<Plan>(name_, [k = device_kernel(d, "ops/search.cu", "search", in[0].dtype), n, m, row, count,
                                  right = int64_t{right_}](const Run& r) {
      (*k)({.blocks = blocks_for(count, 256)}, r.buffers[0], r.buffers[1], r.buffers[2], n, m, row, count, right);
    });
  }

 private:
  // Written so that a NaN goes behind all.
  template <class T, class V>
  static int64_t place(const T* sorted, int64_t n, V v, bool right) {
    int64_t from = 0, to = n;
    while (from < to) {
      const int64_t middle = from + (to - from) / 2;
      const V s = comparable(sorted[middle]);
      if (right ? s > v : s >= v) to = middle;
      else from = middle + 1;
    }
    return from;
  }
  const char* name_;
  bool right_;
};

Tensor search(const char* name, const Tensor& sorted, const Tensor& values, bool right, Loc loc) {
  if (!sorted.defined() || !values.defined()) fail<ValueError>(loc, "{}: an input is undefined", name);
  const Shape &s = sorted.shape(), &v = values.shape();
  bool fits = s.rank() >= 1 && (s.rank() == 1 || s.rank() == v.rank());
  for (int i = 0; fits && s.rank() > 1 && i + 1 < s.rank(); ++i) fits = s[i] == v[i];
  if (!fits) fail<ShapeError>(loc, "{}: values of shape {} do not fit sorted rows of shape {}", name, v, s);
  const DType t = promote(sorted.dtype(), values.dtype());
  const int64_t n = s.back(), m = s.rank() == 1 ? values.numel() : v.back();
  const int64_t rows = s.rank() == 1 ? 1 : numel(v) / std::max<int64_t>(1, m);
  if (values.numel() == 0) return Tensor::empty(v, DType::i64, values.device(), loc);
  return dispatch(
             make_ref<Search>(name, right),
             {sorted.detach().to(t, loc).reshape({rows, n}, loc), values.detach().to(t, loc).reshape({rows, m}, loc)},
             loc)
      .reshape(v, loc);
}

}  // namespace

Tensor searchsorted(const Tensor& sorted, const Tensor& values, const SearchOptions& options, Loc loc) {
  return search("searchsorted", sorted, values, options.right, loc);
}
Tensor bucketize(const Tensor& x, const Tensor& boundaries, const SearchOptions& options, Loc loc) {
  if (boundaries.defined() && boundaries.rank() != 1)
    fail<ShapeError>(loc, "bucketize: expected boundaries of rank 1, got {}", boundaries.shape());
  return search("bucketize", boundaries, x, options.right, loc);
}

namespace {
using Inputs = std::vector<Tensor>;

Tensor rising(const Shape& s, DType t) {
  std::vector<double> v(static_cast<size_t>(numel(s)));
  for (size_t i = 0; i < v.size(); ++i) v[i] = -2 + 0.25 * static_cast<double>(i % static_cast<size_t>(s.back()));
  return Tensor::from(v, s).to(t);
}
const RegisterOp registered[] = {
    RegisterOp({.name = "searchsorted",
                .signature = "searchsorted(sorted, values, {.right})",
                .formula = "how many of sorted come before each value",
                .differentiable = false,
                .samples =
                    [](DType t) {
                      const auto fn = [](const Inputs& in) {
                        return Inputs{searchsorted(in[0], in[1]), searchsorted(in[0], in[1], {.right = true})};
                      };
                      using namespace samples;
                      return std::vector<SampleCase>{
                          {{rising({17}, t), uniform({3, 5}, t)}, fn, "one row for all"},
                          {{rising({3, 9}, t), strided({3, 5}, t)}, fn, "a row each"},
                          {{rising({2, 2, 9}, t), uniform({2, 2, 4}, t)}, fn, "rows of rank 3"},
                          {{rising({5}, t), rising({5}, t)}, fn, "equal values"},
                          {{rising({5}, t), uniform({}, t)}, fn, "0-d value"},
                          {{uniform({0}, t), uniform({3}, t)}, fn, "nothing to search"},
                          {{rising({5}, t), uniform({0}, t)}, fn, "no values"},
                      };
                    }}),
    RegisterOp({.name = "bucketize",
                .signature = "bucketize(x, boundaries, {.right})",
                .formula = "how many boundaries come before each x",
                .differentiable = false,
                .samples =
                    [](DType t) {
                      const auto fn = [](const Inputs& in) {
                        return Inputs{bucketize(in[0], in[1]), bucketize(in[0], in[1], {.right = true})};
                      };
                      using namespace samples;
                      return std::vector<SampleCase>{
                          {{uniform({3, 5}, t), rising({17}, t)}, fn, "matrix"},
                          {{transposed({4, 3}, t), rising({9}, t)}, fn, "transposed"},
                          {{uniform({2, 0}, t), rising({9}, t)}, fn, "empty"},
                      };
                    }}),
};
}  // namespace

}  // namespace flame
