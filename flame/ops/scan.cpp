// Scans along one axis. Sums and products of long lines go by chunks of fixed size, so that one line uses all threads;
// the gradients of cumprod and logcumsumexp are linear recurrences, which are scans again.
#include "flame/ops/scan.h"

#include <bit>
#include <cmath>
#include <limits>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/cat.h"
#include "flame/ops/create.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/gather.h"
#include "flame/ops/scatter.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/scan_running_internal.h"

namespace flame {
namespace {
using namespace running;

// Attributes and shapes that all scans share.
class Scan : public Op {
 public:
  Scan(int axis, bool reverse) : axis_(axis), reverse_(reverse) {}
  void key(Key& k) const override { k << axis_ << reverse_; }

 protected:
  // The scan `name` of scan.cu over the lines of N tensors: one element after the other however long they are, or by a tree,
  // or by one that a block climbs for a whole line.
  enum class Way : uint8_t { in_order, tree, whole_lines };
  template <size_t N>
  static Ref<Plan> device_plan(Device& d, const char* name, DType t, const Lines<N>& lines, size_t inputs,
                               size_t value_bytes, Way way = Way::tree, int64_t lag = 0) {
    struct Data {  // as in scan.cu
      const void *a, *b;
      void *c, *d;
      int64_t lag;
    };
    constexpr int64_t block = 2048;  // elements that a block scans
    const DeviceLines l = lines.on_device();
    if (l.lines * l.n == 0) return make_ref<Plan>(name, [](const Run&) {});
    const auto kernel = [&](const char* entry, std::vector<std::string> options = {}) {
      options.push_back(std::string("-DFLAME_SCAN=") + name);
      if (way == Way::in_order) options.emplace_back("-DFLAME_IN_ORDER");
      return device_kernel(d, "ops/scan.cu", entry, t, std::move(options));
    };
    const auto data = [inputs, lag](const Run& r) {
      return Data{r.buffers[0], inputs > 1 ? r.buffers[1] : nullptr, r.buffers[inputs],
                  N > 2 && inputs == 1 ? r.buffers[2] : nullptr, lag};
    };
    const bool dense = std::abs(l.along[0]) == 1;
    if (way == Way::in_order || l.n < 32 || (!dense && l.lines >= 8192))
      return make_ref<Plan>(name, [k = kernel("scan_lines"), l, data](const Run& r) {
        (*k)({.blocks = blocks_for(l.lines, 256)}, l, data(r));
      });
    constexpr int64_t long_line = 16384, many = 128;
    if (way == Way::whole_lines && (l.n <= long_line || l.lines >= many)) {
      const int64_t threads =
          std::clamp<int64_t>(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(l.n))) / 16, 32, 256);
      const Ref<Kernel> k = kernel("scan_row", {"-DFLAME_THREADS=" + std::to_string(threads),
                                                l.along[0] < 0 ? "-DFLAME_BACK=true" : "-DFLAME_BACK=false"});
      return make_ref<Plan>(
          name, [=](const Run& r) { (*k)({.blocks = l.lines, .threads = static_cast<int>(threads)}, l, data(r)); });
    }
    const int64_t chunks = (l.n + block - 1) / block;
    Ref<Kernel> totals, carry;
    if (chunks > 1) {
      totals = kernel("scan_totals");
      carry = kernel("scan_carry");
    }
    return make_ref<Plan>(
        name,
        [=, whole = kernel("scan_chunks")](const Run& r) {
          const Grid grid{.blocks = l.lines * chunks};
          if (chunks > 1) {
            (*totals)(grid, l, data(r), r.workspace, chunks);
            (*carry)({.blocks = l.lines}, r.workspace, chunks);
          }
          (*whole)(grid, l, data(r), r.workspace, chunks);
        },
        chunks > 1 ? static_cast<size_t>(l.lines * chunks) * value_bytes : 0);
  }
  // 16-bit gradients are computed in float32 and rounded once.
  static DType wide(DType t) { return t == DType::f64 ? t : DType::f32; }
  int axis_;
  bool reverse_;
};

// y_i = b_i + a_i y_(i-1), or with `lag` b_i + a_(i-1) y_(i-1); backwards if reversed. The first one is b.
class LinearScan final : public Scan {
 public:
  LinearScan(int axis, bool reverse, bool lag) : Scan(axis, reverse), lag_(lag) {}
  const char* name() const override { return "linear_scan"; }
  void key(Key& k) const override {
    Scan::key(k);
    k << lag_;
  }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[1].dtype(), in[1].shape())};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const Lines<3> lines(in, out, axis_, reverse_);
    const auto plan = [&](auto t) { return plan_for<decltype(t)>(lines); };
    return in[0].dtype == DType::f64 ? plan(double()) : plan(float());
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    // Products of float64 numbers may leave the range where the sums do not.
    return device_plan(d, name(), in[0].dtype, Lines<3>(in, out, axis_, reverse_), 2, 16,
                       in[0].dtype == DType::f64 ? Way::in_order : Way::tree, lag_);
  }
  bool saves_input(int i) const override { return i == 0; }
  bool saves_output(int) const override { return true; }
  void vjp(Vjp& v) const override;

 private:
  template <class T>
  Ref<Plan> plan_for(const Lines<3>& lines) const {
    struct State {
      double y = 0, a = 0;
      bool started = false;
    };
    return make_ref<Plan>(name(), [lines, lag = lag_](const Run& r) {
      const T *a = static_cast<const T*>(r.buffers[0]), *b = static_cast<const T*>(r.buffers[1]);
      T* out = static_cast<T*>(r.buffers[2]);
      lines.each([&](const std::array<int64_t, 3>& at, int64_t width) {
        walk_lines(lines, at, width, State(), [&](State& s, const std::array<int64_t, 3>& i, int64_t) {
          const double now = a[i[0]], by = lag ? s.a : now;
          s.y = s.started ? b[i[1]] + by * s.y : b[i[1]];
          s.a = now;
          s.started = true;
          out[i[2]] = static_cast<T>(s.y);
        });
      });
    });
  }
  bool lag_;
};

Tensor linear_scan(const Tensor& a, const Tensor& b, int axis, bool reverse, bool lag, Loc loc) {
  return dispatch(make_ref<LinearScan>(axis, reverse, lag), {a, b}, loc);
}

// What stands one step earlier on the way along `axis` (later if reversed); `first` where the way begins.
Tensor before(const Tensor& x, int axis, bool reverse, double first, Loc loc) {
  const int64_t n = x.shape()[axis];
  const Tensor edge = full_like(x.narrow(axis, 0, 1, loc), first, loc);
  return reverse ? cat({x.narrow(axis, 1, n - 1, loc), edge}, axis, loc)
                 : cat({edge, x.narrow(axis, 0, n - 1, loc)}, axis, loc);
}

// Towards b: u_i = g_i + a_(i+1) u_(i+1), the scan the other way with the lag that this one lacks. Towards a: each u
// times the y that its coefficient was multiplied with.
void LinearScan::vjp(Vjp& v) const {
  const Loc loc = v.call_site();
  if (v.grad(0).numel() == 0) return;
  const Tensor u = linear_scan(v.input(0), v.grad(0), axis_, !reverse_, !lag_, loc);
  v.give(1, u);
  if (!v.needs(0)) return;
  const Tensor y = v.output(0);
  v.give(0, lag_ ? mul(before(u, axis_, !reverse_, 0, loc), y, loc) : mul(u, before(y, axis_, reverse_, 0, loc), loc));
}

template <class J>
class RunningOp : public Scan {
 public:
  using Scan::Scan;
  const char* name() const override { return J::name; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(result_of(in[0].dtype()), in[0].shape())};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    return visit_dtype(in[0].dtype, [&](auto t) {
      using T = decltype(t);
      return make_ref<Plan>(J::name, [lines = Lines<2>(in, out, axis_, reverse_)](const Run& r) {
        scan_all<J>(lines, static_cast<const T*>(r.buffers[0]), static_cast<Result<T>*>(r.buffers[1]));
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return device_plan(d, J::name, in[0].dtype, Lines<2>(in, out, axis_, reverse_), 1, sizeof(double),
                       Way::whole_lines);
  }
};

class CumSum final : public RunningOp<Sum> {
 public:
  using RunningOp::RunningOp;
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override {
    v.give(0, dispatch(make_ref<CumSum>(axis_, !reverse_), {v.grad(0)}, v.call_site()));
  }
};

// dx_i = (product of those before x_i) S_i, where S_i = g_i + x_(i+1) S_(i+1) collects the products of those after it.
class CumProd final : public RunningOp<Product> {
 public:
  using RunningOp::RunningOp;
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    const DType t = v.input_meta(0).dtype;
    const Tensor x = v.input(0).to(wide(t), loc), g = v.grad(0).to(wide(t), loc);
    if (g.numel() == 0) return v.give(0, mul(v.input(0), v.grad(0), loc));
    const Tensor after = linear_scan(x, g, axis_, !reverse_, true, loc);
    const Tensor y = dispatch(make_ref<CumProd>(axis_, reverse_), {x}, loc);
    v.give(0, mul(before(y, axis_, reverse_, 1, loc), after, loc).to(t, loc));
  }
};

// Running largest m and sum s of e^(x - m), in float64.
struct LogSum {
  double m = -std::numeric_limits<double>::infinity(), s = 0;
  double add(double x) {
    if (x == m) s += 1;
    else if (x < m) s += std::exp(x - m);
    else {
      s = s * std::exp(m - x) + 1;
      m = x;
    }
    return m + std::log(s);
  }
};

class LogCumSumExp final : public Scan {
 public:
  using Scan::Scan;
  const char* name() const override { return "logcumsumexp"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), in[0].shape())};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    return visit_dtype(in[0].dtype, [&](auto t) {
      using T = decltype(t);
      return make_ref<Plan>(name(), [lines = Lines<2>(in, out, axis_, reverse_)](const Run& r) {
        const T* x = static_cast<const T*>(r.buffers[0]);
        T* out = static_cast<T*>(r.buffers[1]);
        lines.each([&](const std::array<int64_t, 2>& at, int64_t width) {
          walk_lines(lines, at, width, LogSum(), [&](LogSum& s, const std::array<int64_t, 2>& i, int64_t) {
            out[i[1]] = static_cast<T>(static_cast<Running<T>>(s.add(static_cast<double>(widened(x[i[0]])))));
          });
        });
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return device_plan(d, name(), in[0].dtype, Lines<2>(in, out, axis_, reverse_), 1, 16);
  }
  // dx_i = e^(x_i - y_i) R_i with R_i = g_i + e^(y_i - y_(i+1)) R_(i+1): y never falls, so no power overflows.
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    const DType t = v.input_meta(0).dtype;
    const Tensor x = v.input(0).to(wide(t), loc), g = v.grad(0).to(wide(t), loc);
    if (g.numel() == 0) return v.give(0, mul(v.input(0), v.grad(0), loc));
    const Tensor y = dispatch(make_ref<LogCumSumExp>(axis_, reverse_), {x}, loc);
    const Tensor finite = where(eq(y, -std::numeric_limits<double>::infinity(), loc), 0, y, loc);
    const Tensor decay = exp(sub(y, before(finite, axis_, !reverse_, HUGE_VAL, loc), loc), loc);
    const Tensor sums = linear_scan(decay, g, axis_, !reverse_, false, loc);
    v.give(0, mul(exp(sub(x, finite, loc), loc), sums, loc).to(t, loc));
  }
};

// (x) -> running extreme, its place.
class CumExtreme final : public Scan {
 public:
  CumExtreme(const char* name, bool greatest, int axis) : Scan(axis, false), name_(name), greatest_(greatest) {}
  const char* name() const override { return name_; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), in[0].shape()), contiguous_meta(DType::i64, in[0].shape())};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const Lines<3> lines(in, out, axis_, false, 1);
    return visit_dtype(in[0].dtype, [&](auto t) {
      return greatest_ ? plan_for<decltype(t), true>(lines) : plan_for<decltype(t), false>(lines);
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return device_plan(d, greatest_ ? "cummax" : "cummin", in[0].dtype, Lines<3>(in, out, axis_, false, 1), 1, 16);
  }
  bool saves_input(int) const override { return false; }
  bool saves_output(int i) const override { return i == 1; }
  void vjp(Vjp& v) const override {
    const Tensor g = v.grad(0);
    v.give(0, scatter_add(zeros_like(g, v.call_site()), axis_, v.output(1).detach(), g, v.call_site()));
  }

 private:
  template <class T, bool greatest>
  Ref<Plan> plan_for(const Lines<3>& lines) const {
    using W = decltype(comparable(T{}));
    struct State {
      W best{};
      int64_t at = -1;
    };
    return make_ref<Plan>(name_, [lines](const Run& r) {
      const T* x = static_cast<const T*>(r.buffers[0]);
      T* values = static_cast<T*>(r.buffers[1]);
      int64_t* places = static_cast<int64_t*>(r.buffers[2]);
      lines.each([&](const std::array<int64_t, 3>& at, int64_t width) {
        walk_lines(lines, at, width, State(), [&](State& s, const std::array<int64_t, 3>& i, int64_t t) {
          const W v = comparable(x[i[0]]);
          // Also true for the first element, for a NaN, and never for a number after a NaN.
          if (s.at < 0 || v != v || (greatest ? v >= s.best : v <= s.best)) {
            s.best = v;
            s.at = t;
          }
          values[i[1]] = static_cast<T>(s.best);
          places[i[2]] = s.at;
        });
      });
    });
  }
  template <class T>
  static auto comparable(T v) {
    if constexpr (std::is_arithmetic_v<T>) return v;
    else return static_cast<float>(v);
  }
  const char* name_;
  bool greatest_;
};

// Runs `fn` on x and its axis; a 0-d tensor is given one for the time being.
template <class F>
auto along_axis(const char* name, const Tensor& x, int64_t axis, Loc loc, F&& fn) {
  const OpScope scope(name);
  check_defined(name, x, loc);
  const int a = normalize_axis(name, axis, std::max(1, x.rank()), loc);
  std::vector<Tensor> out = fn(x.rank() ? x : x.reshape({1}, loc), a);
  if (x.rank() == 0)
    for (Tensor& t : out) t = t.reshape({}, loc);
  return out;
}
ValuesAndIndices cumulative_extreme(const char* name, bool greatest, const Tensor& x, int64_t axis, Loc loc) {
  const auto out = along_axis(name, x, axis, loc, [&](const Tensor& t, int a) {
    return dispatch_multi(make_ref<CumExtreme>(name, greatest, a), {&t, 1}, loc);
  });
  return {out[0], out[1]};
}

}  // namespace

Tensor cumsum(const Tensor& x, int64_t axis, Loc loc) {
  if (const AutocastCall cast{"cumsum", {&x}}) return cumsum(cast(x, loc), axis, loc);
  return along_axis("cumsum", x, axis, loc, [&](const Tensor& t, int a) {
    return std::vector<Tensor>{dispatch(make_ref<CumSum>(a, false), {t}, loc)};
  })[0];
}
Tensor cumprod(const Tensor& x, int64_t axis, Loc loc) {
  if (const AutocastCall cast{"cumprod", {&x}}) return cumprod(cast(x, loc), axis, loc);
  return along_axis("cumprod", x, axis, loc, [&](const Tensor& t, int a) {
    return std::vector<Tensor>{dispatch(make_ref<CumProd>(a, false), {t}, loc)};
  })[0];
}
Tensor logcumsumexp(const Tensor& x, int64_t axis, Loc loc) {
  if (x.defined() && !is_float(x.dtype()))
    fail<DTypeError>(loc, "logcumsumexp: expected a floating dtype, got {}", x.dtype());
  return along_axis("logcumsumexp", x, axis, loc, [&](const Tensor& t, int a) {
    return std::vector<Tensor>{dispatch(make_ref<LogCumSumExp>(a, false), {t}, loc)};
  })[0];
}
ValuesAndIndices cummax(const Tensor& x, int64_t axis, Loc loc) {
  return cumulative_extreme("cummax", true, x, axis, loc);
}
ValuesAndIndices cummin(const Tensor& x, int64_t axis, Loc loc) {
  return cumulative_extreme("cummin", false, x, axis, loc);
}

}  // namespace flame
