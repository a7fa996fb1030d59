// cat: one strided copy an input, straight into its place, and none where they lie there already. split, chunk and stack are views
// and cat; a split's gradient is a cat.
#include "flame/ops/cat.h"

#include <algorithm>

#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/device/cpu/strided_copy.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/samples_internal.h"
#include "flame/ops/view_internal.h"

namespace flame {
namespace {

class Cat final : public Op {
 public:
  Cat(int axis, int inputs) : axis_(axis), inputs_(inputs) {}
  const char* name() const override { return "cat"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc loc) const override {
    Shape out = in[0].shape();
    bool last = true;
    out[axis_] = 0;
    for (const Tensor& t : in) {
      Shape rest = t.shape();
      if (rest.rank() == out.rank()) rest[axis_] = out[axis_];
      if (rest != out)
        fail<ShapeError>(loc, "cat: shapes {} and {} differ beside axis {}", in[0].shape(), t.shape(), axis_);
      out[axis_] += t.shape()[axis_];
      last &= is_channels_last(t.shape(), t.strides()) && !is_contiguous(t.shape(), t.strides());
    }
    return {{in[0].dtype(), out, last ? channels_last_strides(out) : contiguous_strides(out)}};
  }
  void key(Key& k) const override { k << axis_; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    std::vector<StridedCopy> copies;
    for (const Meta& m : in) copies.emplace_back(m.shape, out[0].strides, m.strides, size_of(m.dtype));
    return make_ref<Plan>(name(), [copies, offsets = offsets(in, out[0])](const Run& r) {
      char* to = static_cast<char*>(r.buffers[copies.size()]);
      for (size_t i = 0; i < copies.size(); ++i) copies[i](to + offsets[i], r.buffers[i]);
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    std::vector<DeviceCopy> copies;
    for (const Meta& m : in) copies.emplace_back(d, m.shape, out[0].strides, m.strides, size_of(m.dtype));
    return make_ref<Plan>(name(), [n = in.size(), all = DeviceCopies(std::move(copies), offsets(in, out[0]))](
                                      const Run& r) { all(r.buffers[n], r.buffers); });
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override {
    const Tensor g = v.grad(0);
    int64_t at = 0;
    for (int i = 0; i < inputs_; ++i) {
      const int64_t n = v.input_meta(i).shape[axis_];
      if (v.needs(i)) v.give(i, g.narrow(axis_, at, n, v.call_site()));
      at += n;
    }
  }

 private:
  // Where each input goes, in bytes.
  std::vector<int64_t> offsets(std::span<const Meta> in, const Meta& out) const {
    std::vector<int64_t> all;
    int64_t at = 0;
    for (const Meta& m : in) {
      all.push_back(at * out.strides[axis_] * static_cast<int64_t>(size_of(out.dtype)));
      at += m.shape[axis_];
    }
    return all;
  }
  int axis_, inputs_;
};

int64_t count_of(const char* op, const Tensor& x, int64_t size, int axis, Loc loc) {
  if (size == 0 && x.shape()[axis] == 0) return 1;
  if (size <= 0) fail<ValueError>(loc, "{}: expected a size of 1 or more, got {}", op, size);
  return std::max<int64_t>(1, (x.shape()[axis] + size - 1) / size);
}

// What the parts are if they are all of a dense storage already and no gradient is asked for; else null.
Ref<Value> whole_of(const std::vector<Tensor>& parts, int axis) {
  if (any_requires_grad(parts)) return {};
  Ref<Value> v = adjoining(parts, axis);
  if (!v || static_cast<size_t>(numel(v->shape)) * size_of(v->dtype) != v->storage->bytes()) return {};
  return is_dense(v->shape, v->strides) ? v : Ref<Value>();
}

// Views of these sizes, one after the other. Their gradients are joined at once.
std::vector<Tensor> parted(const Tensor& x, const std::vector<int64_t>& sizes, int axis, Loc loc) {
  std::vector<Tensor> out;
  int64_t at = 0;
  for (const int64_t n : sizes) {
    out.push_back(x.detach().narrow(axis, at, n, loc));
    at += n;
  }
  if (!any_requires_grad({&x, 1})) return out;
  return with_rule(
      "split", {&x, 1}, std::move(out), {},
      [axis, loc](const CustomContext& c) {
        if (Ref<Value> whole = whole_of(c.grads, axis)) return std::vector<Tensor>{Tensor(std::move(whole))};
        return std::vector<Tensor>{cat(c.grads, axis, loc)};
      },
      loc);
}

// Without a copy where a contiguous tensor has them all.
Tensor joined(const std::vector<Tensor>& in, int axis, Loc loc) {
  if (Ref<Value> v = whole_of(in, axis); v && is_contiguous(v->shape, v->strides)) return Tensor(std::move(v));
  return dispatch(make_ref<Cat>(axis, static_cast<int>(in.size())), in, loc);
}

}  // namespace

Ref<Value> adjoining(std::span<const Tensor> parts, int axis) {
  const Value& first = parts[0].value();
  if (first.pending() || first.cell) return {};
  Shape shape = first.shape;
  Strides strides = first.strides;
  if (shape[axis] == 1 && parts.size() > 1) strides[axis] = parts[1].value().offset - first.offset;
  int64_t end = first.offset;
  shape[axis] = 0;
  for (const Tensor& t : parts) {
    const Value& v = t.value();
    if (v.pending() || v.storage != first.storage || v.dtype != first.dtype || v.offset != end) return {};
    if (v.shape.rank() != shape.rank()) return {};
    for (int i = 0; i < shape.rank(); ++i)
      if ((i != axis && v.shape[i] != shape[i]) || (v.shape[i] != 1 && v.strides[i] != strides[i])) return {};
    end += v.shape[axis] * strides[axis];
    shape[axis] += v.shape[axis];
  }
  return numel(shape) ? Value::view(first, shape, strides, first.offset) : Ref<Value>();
}

Tensor cat(const std::vector<Tensor>& tensors, int64_t axis, Loc loc) {
  if (tensors.empty()) fail<ValueError>(loc, "cat: expected at least one tensor, got none");
  for (const Tensor& x : tensors) check_inputs("cat", {&tensors[0], &x}, loc);
  DType t = tensors[0].dtype();
  bool vectors = true;
  for (const Tensor& x : tensors) {
    check_inputs("cat", {&tensors[0], &x}, loc);
    t = promote(t, x.dtype());
    if (x.rank() == 0) fail<ShapeError>(loc, "cat: expected tensors of rank 1 or more, got rank 0; use stack");
    vectors &= x.rank() == 1;
  }
  std::vector<Tensor> in, skipped;
  in.reserve(tensors.size());
  for (const Tensor& x : tensors) (vectors || x.shape() != Shape{0} ? in : skipped).push_back(x.to(t, loc));
  Tensor y = joined(in, normalize_axis("cat", axis, in[0].rank(), loc), loc);
  if (skipped.empty()) return y;
  skipped.insert(skipped.begin(), y);
  return with_rule(
      "cat", skipped, {y}, {},
      [](const CustomContext& c) {
        const Tensor& g = c.grads[0];
        std::vector<Tensor> given(c.needs.size(), filled(contiguous_meta(g.dtype(), {0}), g.device(), 0));
        given[0] = g;
        return given;
      },
      loc)[0];
}

Tensor stack(const std::vector<Tensor>& tensors, int64_t axis, Loc loc) {
  const OpScope scope("stack");
  if (tensors.empty()) fail<ValueError>(loc, "stack: expected at least one tensor, got none");
  for (const Tensor& x : tensors) check_inputs("stack", {&tensors[0], &x}, loc);
  check_room("stack", tensors[0], loc);
  const int a = normalize_axis("stack", axis, tensors[0].rank() + 1, loc);
  std::vector<Tensor> in;
  for (const Tensor& x : tensors) {
    if (x.shape() != tensors[0].shape())
      fail<ShapeError>(loc, "stack: expected equal shapes, got {} and {}", tensors[0].shape(), x.shape());
    in.push_back(x.unsqueeze(a, loc));
  }
  return cat(in, a, loc);
}

std::vector<Tensor> split(const Tensor& x, int64_t size, int64_t axis, Loc loc) {
  const OpScope scope("split");
  check_defined("split", x, loc);
  const int a = normalize_axis("split", axis, x.rank(), loc);
  const int64_t count = count_of("split", x, size, a, loc);
  std::vector<int64_t> sizes(static_cast<size_t>(count), size);
  sizes.back() = x.shape()[a] - (count - 1) * size;
  return parted(x, sizes, a, loc);
}

std::vector<Tensor> split(const Tensor& x, const Dims& sizes, int64_t axis, Loc loc) {
  const OpScope scope("split");
  check_defined("split", x, loc);
  const int a = normalize_axis("split", axis, x.rank(), loc);
  int64_t total = 0;
  for (int64_t n : sizes) {
    if (n < 0) fail<ShapeError>(loc, "split: expected sizes of 0 or more, got {}", sizes);
    total += n;
  }
  if (total != x.shape()[a])
    fail<ShapeError>(loc, "split: sizes {} add up to {}, axis {} of {} has {}", sizes, total, a, x.shape(),
                     x.shape()[a]);
  return parted(x, {sizes.begin(), sizes.end()}, a, loc);
}

std::vector<Tensor> chunk(const Tensor& x, int64_t count, int64_t axis, Loc loc) {
  const OpScope scope("chunk");
  check_defined("chunk", x, loc);
  if (count <= 0) fail<ValueError>(loc, "chunk: expected a count of 1 or more, got {}", count);
  const int a = normalize_axis("chunk", axis, x.rank(), loc);
  if (x.shape()[a] == 0) return std::vector<Tensor>(static_cast<size_t>(count), x);
  return split(x, (x.shape()[a] + count - 1) / count, a, loc);
}

namespace {
const RegisterOp registered({
    .name = "cat",
    .signature = "cat(tensors, axis)",
    .formula = "the tensors one after another along axis",
    .samples =
        [](DType t) {
          const auto along = [](int64_t axis) {
            return [axis](const std::vector<Tensor>& in) { return std::vector<Tensor>{cat(in, axis)}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({3, 4}, t, 1), uniform({2, 4}, t, 2), uniform({0, 4}, t, 3)}, along(0), "rows, one empty"},
              {{uniform({3, 4, 5}, t, 1), transposed({3, 1, 5}, t, 2), strided({3, 7, 5}, t, 3)},
               along(-2),
               "mixed layouts"},
              {{uniform({1}, t, 1), strided({3}, t, 2)}, along(0), "vectors"},
              {{channels_last({2, 3, 4, 5}, t, 1), channels_last({2, 2, 4, 5}, t, 2)}, along(1), "channels last"},
              {{uniform({0, 3}, t, 1), uniform({0, 2}, t, 2)}, along(1), "empty"},
          };
        },
});

// Several tensors of one: the samples are a dense, a strided and an empty one.
RegisterOp parting(const char* name, const char* signature, const char* formula,
                   std::vector<Tensor> (*fn)(const Tensor&)) {
  return RegisterOp({.name = name, .signature = signature, .formula = formula, .samples = [fn](DType t) {
                       const auto run = [fn](const std::vector<Tensor>& in) { return fn(in[0]); };
                       return std::vector<SampleCase>{{{samples::uniform({2, 7}, t)}, run, "matrix"},
                                                      {{samples::strided({3, 2, 7}, t)}, run, "strided"},
                                                      {{samples::transposed({3, 7}, t)}, run, "transposed"},
                                                      {{samples::uniform({0, 7}, t)}, run, "empty"}};
                     }});
}
const RegisterOp others[] = {
    parting("split", "split(x, size or sizes, axis)", "pieces of a size, or of given sizes, along axis",
            [](const Tensor& x) {
              std::vector<Tensor> out = split(x, 3, -1);
              for (const Tensor& y : split(x, {2, 0, 5}, -1)) out.push_back(y);
              return out;
            }),
    parting("chunk", "chunk(x, count, axis)", "count pieces along axis, all of one size but the last",
            [](const Tensor& x) { return chunk(x, 3, -1); }),
    RegisterOp({.name = "stack",
                .signature = "stack(tensors, axis)",
                .formula = "the tensors along a new axis",
                .samples =
                    [](DType t) {
                      const auto along = [](int64_t axis) {
                        return [axis](const std::vector<Tensor>& in) { return std::vector<Tensor>{stack(in, axis)}; };
                      };
                      using namespace samples;
                      return std::vector<SampleCase>{
                          {{uniform({3, 4}, t, 1), transposed({3, 4}, t, 2)}, along(-1), "matrices"},
                          {{strided({3}, t, 1), uniform({3}, t, 2)}, along(0), "vectors"},
                          {{uniform({}, t, 1), uniform({}, t, 2)}, along(0), "0-d"},
                          {{uniform({0}, t, 1)}, along(1), "empty"},
                      };
                    }}),
};
}  // namespace

}  // namespace flame
