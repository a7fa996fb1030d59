// sort, topk, kthvalue and median: one op that brings rows of (key, place) entries into order, parallel over rows.
#include "flame/ops/sort.h"

#include <limits>

#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/device/cpu/strided_copy.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/extreme_internal.h"
#include "flame/ops/gather.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/samples_internal.h"
#include "flame/ops/scatter.h"
#include "flame/ops/sort_device_internal.h"
#include "flame/ops/sort_internal.h"

namespace flame {
namespace {

enum class Want : uint8_t { all, smallest, smallest_sorted, kth, middle };
struct Ordering {
  Want want = Want::all;
  int axis = 0;
  int64_t k = 0;  // how many, or which one from 1
  bool descending = false;
};

// What stands in a row of `n` elements along the axis; scratch for two rows of entries.
template <class T>
class RowOrder {
 public:
  RowOrder(const Ordering& o, int64_t n) : o_(o), n_(n) {}
  static size_t entries(const Ordering& o, int64_t n) {
    const int64_t most =
        o.want == Want::smallest || o.want == Want::smallest_sorted ? std::max(n, selection_room(o.k)) : n;
    return static_cast<size_t>(2 * most);
  }

  // Strides count elements. Writes as many values and places as the op gives a row.
  void operator()(const T* x, int64_t step, T* values, int64_t* places, int64_t out_step, void* scratch) const {
    E* a = static_cast<E*>(scratch);
    E* spare = a + entries(o_, n_) / 2;
    const auto next = [&](int64_t i) { return Order<T>::entry(x[i * step], i, o_.descending); };
    const auto leap = [&](int64_t i, const E& e) {
      if constexpr (std::is_arithmetic_v<T>) {
        if (step == 1) {
          const T bound = x[place_of(e)];
          return o_.descending ? first_beyond<true>(x, i, n_, bound) : first_beyond<false>(x, i, n_, bound);
        }
      }
      return i;
    };
    const auto put = [&](int64_t to, int64_t place) {
      values[to * out_step] = x[place * step];
      places[to * out_step] = place;
    };
    switch (o_.want) {
      case Want::all:
        for (int64_t i = 0; i < n_; ++i) a[i] = next(i);
        put_all(sort_entries(a, spare, n_, Order<T>::bits), n_, put);
        break;
      case Want::smallest:
      case Want::smallest_sorted:
        if (o_.k == 0) break;
        if (o_.k < n_) select_smallest(a, o_.k, n_, next, leap);
        else
          for (int64_t i = 0; i < n_; ++i) a[i] = next(i);
        if (o_.want == Want::smallest_sorted) std::sort(a, a + o_.k);
        put_all(a, o_.k, put);
        break;
      case Want::kth: put(0, nth(a, o_.k - 1, next)); break;
      case Want::middle: {
        int64_t nan = 0;
        while (nan < n_ && !Order<T>::is_nan(x[nan * step])) ++nan;
        put(0, nan < n_ ? nan : nth(a, (n_ - 1) / 2, next));
      }
    }
  }

 private:
  using E = Entry<T>;
  template <class Put>
  static void put_all(const E* e, int64_t n, const Put& put) {
    for (int64_t i = 0; i < n; ++i) put(i, place_of(e[i]));
  }
  template <class Next>
  int64_t nth(E* a, int64_t k, const Next& next) const {
    for (int64_t i = 0; i < n_; ++i) a[i] = next(i);
    std::nth_element(a, a + k, a + n_);
    return place_of(a[k]);
  }
  Ordering o_;
  int64_t n_;
};

// (x) -> values, places. The axis keeps as many elements as are wanted.
class OrderOp final : public Op {
 public:
  OrderOp(const char* name, const Ordering& o) : name_(name), o_(o) {}
  const char* name() const override { return name_; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    Shape s = in[0].shape();
    if (o_.want == Want::kth || o_.want == Want::middle) s[o_.axis] = 1;
    else if (o_.want != Want::all) s[o_.axis] = o_.k;
    return {contiguous_meta(in[0].dtype(), s), contiguous_meta(DType::i64, s)};
  }
  void key(Key& k) const override { k << o_.want << o_.axis << o_.k << o_.descending; }
  bool saves_input(int) const override { return false; }
  bool saves_output(int i) const override { return i == 1; }
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    const Meta& x = v.input_meta(0);
    const Tensor g = v.grad(0);
    v.give(0, scatter_add(zeros(x.shape, x.dtype, g.device(), loc), o_.axis, v.output(1).detach(), g, loc));
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    return visit_dtype(in[0].dtype, [&](auto t) { return plan_for<decltype(t)>(in[0], out[0]); });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const bool middle = o_.want == Want::middle;
    const int64_t first = o_.want == Want::kth ? o_.k - 1 : middle ? (in[0].shape[o_.axis] - 1) / 2 : 0;
    return plan_order(
        d, name_, in[0], out[0],
        {.axis = o_.axis, .first = first, .middle = middle && is_float(in[0].dtype), .descending = o_.descending});
  }

 private:
  template <class T>
  Ref<Plan> plan_for(const Meta& x, const Meta& y) const {
    Shape lines = x.shape;  // with the axis last, as one element
    std::array<Strides, 2> strides{x.strides, y.strides};
    const int64_t n = x.shape[o_.axis], step = x.strides[o_.axis], out_step = y.strides[o_.axis];
    lines.erase(o_.axis);
    lines.push_back(1);
    for (Strides& s : strides) {
      s.erase(o_.axis);
      s.push_back(0);
    }
    const int64_t count = numel(lines), lanes = std::min<int64_t>(count, num_threads());
    const size_t scratch = RowOrder<T>::entries(o_, n) * sizeof(Entry<T>);
    const RowOrder<T> order(o_, n);
    const auto body = [=](const Run& r) {
      if (n == 0 || count == 0) return;
      const int64_t each = (count + lanes - 1) / lanes;
      parallel_for(lanes, std::max<int64_t>(1, lanes * 4096 / (n * count)), [&](int64_t begin, int64_t end) {
        RowWalk<2> walk(lines, strides, std::min(count, begin * each));
        char* own = static_cast<char*>(r.workspace) + static_cast<size_t>(begin) * scratch;
        for (int64_t row = begin * each; row < std::min(count, end * each); ++row, walk.next())
          order(static_cast<const T*>(r.buffers[0]) + walk.at[0], step, static_cast<T*>(r.buffers[1]) + walk.at[1],
                static_cast<int64_t*>(r.buffers[2]) + walk.at[1], out_step, own);
      });
    };
    return make_ref<Plan>(name_, body, count ? static_cast<size_t>(lanes) * scratch : 0);
  }
  const char* name_;
  Ordering o_;
};

// A 0-d tensor is given an axis for the time being.
int checked_axis(const char* name, const Tensor& x, int64_t axis, Loc loc) {
  check_defined(name, x, loc);
  return normalize_axis(name, axis, std::max(1, x.rank()), loc);
}
int64_t size_along(const Tensor& x, int axis) { return x.rank() ? x.shape()[axis] : 1; }

ValuesAndIndices ordered(const char* name, const Tensor& x, const Ordering& o, bool keepdim, Loc loc) {
  const OpScope scope(name);
  if (size_along(x, o.axis) > std::numeric_limits<uint32_t>::max())
    fail<NotImplemented>(loc, "{}: no kernel for more than 2^32 elements along an axis, got shape {}", name, x.shape());
  const Tensor rows = x.rank() ? x : x.reshape({1}, loc);
  std::vector<Tensor> out = dispatch_multi(make_ref<OrderOp>(name, o), {&rows, 1}, loc);
  for (Tensor& t : out)
    if (x.rank() == 0 && t.numel() == 1) t = t.reshape({}, loc);
    else if (!keepdim && x.rank()) t = t.squeeze(o.axis, loc);
  return {out[0], out[1]};
}

}  // namespace

ValuesAndIndices sort(const Tensor& x, const SortOptions& options, Loc loc) {
  const int a = checked_axis("sort", x, options.axis, loc);
  return ordered("sort", x, {.axis = a, .descending = options.descending}, true, loc);
}

Tensor argsort(const Tensor& x, const SortOptions& options, Loc loc) {
  const int a = checked_axis("argsort", x, options.axis, loc);
  return ordered("argsort", x.detach(), {.axis = a, .descending = options.descending}, true, loc).indices;
}

ValuesAndIndices topk(const Tensor& x, int64_t k, const TopkOptions& options, Loc loc) {
  const int a = checked_axis("topk", x, options.axis, loc);
  if (k < 0 || k > size_along(x, a))
    fail<IndexError>(loc, "topk: expected k from 0 to {} for axis {} of shape {}, got {}", size_along(x, a), a,
                     x.shape(), k);
  const Want want = options.sorted ? Want::smallest_sorted : Want::smallest;
  return ordered("topk", x, {.want = want, .axis = a, .k = k, .descending = options.largest}, true, loc);
}

ValuesAndIndices kthvalue(const Tensor& x, int64_t k, int64_t axis, bool keepdim, Loc loc) {
  const int a = checked_axis("kthvalue", x, axis, loc);
  if (k < 1 || k > size_along(x, a))
    fail<IndexError>(loc, "kthvalue: expected k from 1 to {} for axis {} of shape {}, got {}", size_along(x, a), a,
                     x.shape(), k);
  return ordered("kthvalue", x, {.want = Want::kth, .axis = a, .k = k}, keepdim, loc);
}

ValuesAndIndices median(const Tensor& x, int64_t axis, bool keepdim, Loc loc) {
  const int a = checked_axis("median", x, axis, loc);
  if (size_along(x, a) == 0)
    fail<ShapeError>(loc, "median: expected at least one element along axis {}, got shape {}", a, x.shape());
  return ordered("median", x, {.want = Want::middle, .axis = a}, keepdim, loc);
}

Tensor median(const Tensor& x, Loc loc) {
  const OpScope scope("median");
  check_defined("median", x, loc);
  if (x.numel() == 0) {
    if (!is_float(x.dtype()))
      fail<ShapeError>(loc, "median: expected at least one element of {}, got shape {}", x.dtype(), x.shape());
    return full({}, std::numeric_limits<double>::quiet_NaN(), x.dtype(), x.device(), loc);
  }
  const Tensor y = median(x.detach().reshape({-1}, loc), 0, false, loc).values;
  const auto rule = [](const CustomContext& c) -> std::vector<Tensor> {
    const Tensor &x = c.saved[0], &y = c.saved[1], &g = c.grads[0];
    const Tensor hits = logical_or(eq(x, y), logical_and(isnan(x), isnan(y)));
    return {where(hits, div(g, sum(hits)), 0).to(x.dtype())};
  };
  return with_rule("median", {&x, 1}, {y}, {x.detach(), y.detach()}, rule, loc)[0];
}

namespace {
using Inputs = std::vector<Tensor>;

Inputs both(const ValuesAndIndices& r) { return {r.values, r.indices}; }

// The op over the last axis, and over others.
std::vector<SampleCase> cases(DType t, const std::function<Inputs(const Tensor&, int64_t)>& fn) {
  const auto along = [&](int64_t axis) { return [fn, axis](const Inputs& in) { return fn(in[0], axis); }; };
  using namespace samples;
  return {
      {{uniform({3, 7}, t)}, along(-1), "rows"},
      {{uniform({6, 5}, t)}, along(0), "columns"},
      {{transposed({5, 4}, t)}, along(1), "rows of a transpose"},
      {{strided({2, 3, 4}, t)}, along(1), "middle axis, strided"},
      {{uniform({2, 301}, t)}, along(1), "long rows"},
      {{uniform({3, 2}, t, 4)}, along(1), "two elements a row"},
      {{uniform({}, t)}, along(0), "0-d"},
      {{uniform({0, 3}, t)}, along(1), "no rows"},
  };
}
const RegisterOp registered[] = {
    RegisterOp({.name = "sort",
                .signature = "sort(x, {.axis, .descending, .stable})",
                .formula = "x in rising or falling order, and where from",
                .samples =
                    [](DType t) {
                      auto out = cases(t, [](const Tensor& x, int64_t a) { return both(sort(x, {.axis = a})); });
                      out.push_back({{samples::uniform({4, 9}, t)},
                                     [](const Inputs& in) { return both(sort(in[0], {.descending = true})); },
                                     "descending"});
                      return out;
                    }}),
    RegisterOp({.name = "argsort",
                .signature = "argsort(x, {.axis, .descending, .stable})",
                .formula = "the places of x in rising or falling order",
                .differentiable = false,
                .samples =
                    [](DType t) {
                      return cases(t, [](const Tensor& x, int64_t a) {
                        return Inputs{argsort(x, {.axis = a}), argsort(x, {.axis = a, .descending = true})};
                      });
                    }}),
    RegisterOp({.name = "topk",
                .signature = "topk(x, k, {.axis, .largest, .sorted})",
                .formula = "the k largest or smallest of x, and where from",
                .samples =
                    [](DType t) {
                      auto out = cases(
                          t, [](const Tensor& x, int64_t a) { return both(topk(x, x.rank() ? 2 : 1, {.axis = a})); });
                      out.push_back({{samples::uniform({4, 9}, t)},
                                     [](const Inputs& in) { return both(topk(in[0], 4, {.largest = false})); },
                                     "smallest"});
                      out.push_back({{samples::uniform({4, 9}, t)},
                                     [](const Inputs& in) { return both(topk(in[0], 9)); },
                                     "all"});
                      return out;
                    }}),
    RegisterOp({.name = "kthvalue",
                .signature = "kthvalue(x, k, axis, keepdim)",
                .formula = "the k-th smallest of x, and its place",
                .samples =
                    [](DType t) {
                      return cases(
                          t, [](const Tensor& x, int64_t a) { return both(kthvalue(x, x.rank() ? 2 : 1, a, a == 0)); });
                    }}),
    RegisterOp({.name = "median",
                .signature = "median(x, axis, keepdim), median(x)",
                .formula = "the middle of x, and its place",
                .samples =
                    [](DType t) {
                      auto out = cases(t, [](const Tensor& x, int64_t a) { return both(median(x, a, a == 0)); });
                      out.push_back({{samples::uniform({4, 9}, t)},
                                     [](const Inputs& in) { return Inputs{median(in[0])}; },
                                     "of all"});
                      return out;
                    }}),
};
}  // namespace

}  // namespace flame
