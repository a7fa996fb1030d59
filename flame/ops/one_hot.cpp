// one_hot as one kernel, since a class that is none must be an error rather than a row of zeros.
#include "flame/ops/device_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/gather_internal.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

class OneHot final : public Op {
 public:
  OneHot(int64_t classes, DType t) : classes_(classes), dtype_(t) {}
  const char* name() const override { return "one_hot"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    Shape shape = in[0].shape();
    shape.push_back(classes_);
    return {contiguous_meta(dtype_, shape)};
  }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  bool saves_input(int) const override { return false; }
  bool differentiable() const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    const Target target{name(), in[0].shape.rank(), classes_};
    return visit_dtype(dtype_, [&](auto t) {
      using T = decltype(t);
      return make_ref<Plan>(name(), [target, n = numel(in[0].shape), classes = classes_](const Run& r) {
        const int64_t* index = static_cast<const int64_t*>(r.buffers[0]);
        T* out = static_cast<T*>(r.buffers[1]);
        const T one = [] {
          if constexpr (std::is_arithmetic_v<T>) return static_cast<T>(1);
          else return T(1.0f);
        }();
        parallel_for(n, std::max<int64_t>(1, elements_per_piece / std::max<int64_t>(classes, 1)),
                     [&](int64_t begin, int64_t end) {
                       std::memset(static_cast<void*>(out + begin * classes), 0,
                                   static_cast<size_t>((end - begin) * classes) * sizeof(T));
                       for (int64_t i = begin; i < end; ++i) out[i * classes + target(index[i])] = one;
                     });
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    const int64_t n = numel(in[0].shape);
    const size_t bytes = static_cast<size_t>(n * classes_) * size_of(dtype_);
    if (n == 0) return make_ref<Plan>(name(), [](const Run&) {});
    return make_ref<Plan>(
        name(), [&d, k = device_kernel(d, "ops/one_hot.cu", "one_hot", dtype_), n, bytes, name = name(),
                 axis = static_cast<int64_t>(in[0].shape.rank()), classes = classes_, t = dtype_](const Run& r) {
          d.fill_bytes(r.buffers[1], 0, bytes);
          visit_dtype(t, [&](auto v) {
            using T = decltype(v);
            if constexpr (std::is_arithmetic_v<T>) v = static_cast<T>(1);
            else v = T(1.0f);
            (*k)({.blocks = blocks_for(n, 256)}, name, r.buffers[0], r.buffers[1], n, classes, axis, v);
          });
        });
  }

 private:
  int64_t classes_;
  DType dtype_;
};

}  // namespace

Tensor one_hot(const Tensor& index, int64_t classes, DType dtype, Loc loc) {
  check_defined("one_hot", index, loc);
  check_room("one_hot", index, loc);
  if (!is_integer(index.dtype())) fail<DTypeError>(loc, "one_hot: expected integers, got {}", index.dtype());
  if (classes < -1) fail<ValueError>(loc, "one_hot: expected 0 or more classes, or -1, got {}", classes);
  int64_t count = classes;
  if (count == -1) {
    if (index.numel() == 0) fail<ShapeError>(loc, "one_hot: expected classes, since {} has no largest", index.shape());
    count = std::max<int64_t>(0, amax(index.to(DType::i64, loc), {}, false, loc).item<int64_t>(loc)) + 1;
  }
  Shape shape = index.shape();
  shape.push_back(count);
  check_sizes("one_hot", shape, loc);
  return dispatch_checked(make_ref<OneHot>(count, dtype), {index.to(DType::i64, loc)}, loc);
}

namespace {
const RegisterOp registered({
    .name = "one_hot",
    .signature = "one_hot(index, classes, dtype)",
    .formula = "1 where the class is the index, else 0",
    .differentiable = false,
    .samples =
        [](DType t) {
          const auto fn = [t](const std::vector<Tensor>& in) { return std::vector<Tensor>{one_hot(in[0], 4, t)}; };
          const auto counted = [t](const std::vector<Tensor>& in) {
            return std::vector<Tensor>{one_hot(in[0], -1, t)};
          };
          return std::vector<SampleCase>{
              {{samples::classes({2, 3}, 4)}, fn, "matrix"},
              {{samples::classes({}, 4)}, fn, "0-d"},
              {{samples::classes({0, 2}, 4)}, fn, "empty"},
              {{samples::classes({3}, 4).to(DType::i32)}, counted, "classes counted", -1, true}};
        },
});
}  // namespace

}  // namespace flame
