// gather, and the ops that are gathers by an expanded index: take_along_dim, index_select and embedding.
#include "flame/ops/gather.h"

#include "flame/autograd/op_scope.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/device_index_internal.h"
#include "flame/ops/gather_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

template <class T>
void gather_rows(const IndexWalk& w, const T* x, const int64_t* index, T* out) {
  const int64_t n = w.columns(), to = w.strides[0].back(), by = w.strides[1].back(), from = w.strides[2].back();
  parallel_for(w.rows(), std::max<int64_t>(1, elements_per_piece / std::max<int64_t>(n, 1)),
               [&](int64_t begin, int64_t end) {
                 RowWalk<3> walk(w.shape, w.strides, begin);
                 for (int64_t r = begin; r < end; ++r, walk.next()) {
                   T* o = out + walk.at[0];
                   const int64_t* k = index + walk.at[1];
                   const T* s = x + walk.at[2];
                   if (by == 0) {  // one index a row: index_select, embedding
                     s += w.target(*k) * w.step;
                     if (to == 1 && from == 1) std::memcpy(o, s, static_cast<size_t>(n) * sizeof(T));
                     else
                       for (int64_t i = 0; i < n; ++i) o[i * to] = s[i * from];
                   } else {
                     for (int64_t i = 0; i < n; ++i) o[i * to] = s[i * from + w.target(k[i * by]) * w.step];
                   }
                 }
               });
}

// (x, index) -> elements of x.
class Gather final : public Op {
 public:
  Gather(const char* name, int axis) : name_(name), axis_(axis) {}
  const char* name() const override { return name_; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), in[1].shape())};
  }
  void key(Key& k) const override { k << axis_; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const IndexWalk walk(name_, out[0], in[1], in[0], axis_);
    return visit_size(size_of(in[0].dtype), [&](auto t) {
      using T = decltype(t);
      return make_ref<Plan>(name_, [walk](const Run& r) {
        gather_rows(walk, static_cast<const T*>(r.buffers[0]), static_cast<const int64_t*>(r.buffers[1]),
                    static_cast<T*>(r.buffers[2]));
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const DeviceGet get(d, DeviceWalk::along(name_, axis_, out[0], in[1], in[0]), size_of(in[0].dtype),
                        DeviceRows::along(name_, axis_, out[0], in[1], in[0]));
    return make_ref<Plan>(name_, [get](const Run& r) { get(r.buffers[0], r.buffers + 1, r.buffers[2]); });
  }
  bool saves_input(int i) const override { return i == 1; }
  void vjp(Vjp& v) const override {
    v.give(0, scatter_zeros(name_, v.input_meta(0).shape, axis_, v.input(1), v.grad(0), v.call_site()));
  }

 private:
  const char* name_;
  int axis_;
};

}  // namespace

Tensor gather(const Tensor& x, int64_t axis, const Tensor& index, Loc loc) {
  const OpScope scope("gather");
  check_inputs("gather", {&x, &index}, loc);
  if (x.rank() == 0 || index.rank() == 0)
    return gather(with_axis(x, loc), axis, with_axis(index, loc), loc).reshape(index.shape(), loc);
  const int a = checked_axis("gather", x, axis, index, loc);
  return dispatch_checked(make_ref<Gather>("gather", a), {x, checked_index("gather", index, loc)}, loc);
}

Tensor take_along_dim(const Tensor& x, const Tensor& index, std::optional<int64_t> axis, Loc loc) {
  check_inputs("take_along_dim", {&x, &index}, loc);
  if (!axis) return take_along_dim(x.flatten(0, -1, loc), index.flatten(0, -1, loc), 0, loc);
  if (x.rank() != index.rank())
    fail<ShapeError>(loc, "take_along_dim: expected an index of x's rank {}, got {}", x.rank(), index.shape());
  const int a = normalize_axis("take_along_dim", *axis, x.rank(), loc);
  Shape wide = x.shape(), other = index.shape(), joined;
  wide[a] = other[a] = 1;
  if (!broadcast_shapes(wide, other, joined))
    fail<ShapeError>(loc, "take_along_dim: shapes {} and {} do not broadcast beside axis {}", x.shape(), index.shape(),
                     a);
  wide = other = joined;
  wide[a] = x.shape()[a];
  other[a] = index.shape()[a];
  const Tensor k = checked_index("take_along_dim", index, loc).expand(other, loc);
  return dispatch_checked(make_ref<Gather>("take_along_dim", a), {x.expand(wide, loc), k}, loc);
}

Tensor index_select(const Tensor& x, int64_t axis, const Tensor& index, Loc loc) {
  const OpScope scope("index_select");
  check_inputs("index_select", {&x, &index}, loc);
  if (x.rank() == 0) return index_select(x.reshape({1}, loc), axis, index, loc).reshape({}, loc);
  const int a = normalize_axis("index_select", axis, x.rank(), loc);
  if (index.rank() > 1) fail<ShapeError>(loc, "index_select: expected an index of rank 1, got {}", index.shape());
  Shape ones = Dims::filled(x.rank(), 1), out = x.shape();
  ones[a] = out[a] = index.numel();
  const Tensor wide = checked_index("index_select", index, loc).reshape(ones, loc).expand(out, loc);
  return dispatch_checked(make_ref<Gather>("index_select", a), {x, wide}, loc);
}

Tensor embedding(const Tensor& weight, const Tensor& index, const EmbeddingOptions& o, Loc loc) {
  const OpScope scope("embedding");
  check_inputs("embedding", {&weight, &index}, loc);
  check_room("embedding", index, loc);
  if (weight.rank() != 2) fail<ShapeError>(loc, "embedding: expected a weight of rank 2, got {}", weight.shape());
  const int64_t rows = weight.shape()[0], width = weight.shape()[1];
  std::optional<int64_t> padding = o.padding_idx;
  if (padding) {
    if (*padding < -rows || *padding >= rows)
      fail<IndexError>(loc, "embedding: padding_idx {} is out of range for {} rows", *padding, rows);
    if (*padding < 0) *padding += rows;
  }
  const Tensor wide =
      checked_index("embedding", index, loc).reshape({index.numel(), 1}, loc).expand({index.numel(), width}, loc);
  Shape out = index.shape();
  out.push_back(width);
  const Tensor rows_read =
      dispatch_checked(make_ref<Gather>("embedding", 0), {weight.detach(), wide.detach()}, loc).reshape(out, loc);
  // A row `padding` gets no gradient. On a GPU the launch that adds up rows adds what the table has got elsewhere.
  const auto rule = [padding, &d = weight.device(), table = weight.shape(), loc](const CustomContext& c) {
    const Tensor& index = c.saved[0];
    Tensor g = c.grads[0].reshape(index.shape(), loc);
    if (padding) g = where(eq(index, *padding, loc), 0.0, g, loc);
    if (d.kind() == Device::Kind::cuda && !c.create_graph) {
      materialize(g.value());  // first, as the table's other gradient may be part of its island
      if (const Tensor arrived = c.take_arrived(0, d, g.dtype(), table); arrived.defined())
        return std::vector{scatter_behind("embedding", arrived, 0, index, g, loc)};
    }
    return std::vector{scatter_zeros("embedding", table, 0, index, g, loc)};
  };
  return with_rule("embedding", {&weight, 1}, {rows_read}, {wide.detach()}, rule, loc)[0];
}

namespace {
using Inputs = std::vector<Tensor>;
using samples::classes, samples::strided, samples::transposed, samples::uniform;

const RegisterOp registered_gather({
    .name = "gather",
    .signature = "gather(x, axis, index)",
    .formula = "out[i][j][k] = x[i][index[i][j][k]][k] for axis 1",
    .samples =
        [](DType t) {
          const auto along = [](int64_t axis) {
            return [axis](const Inputs& in) { return Inputs{gather(in[0], axis, in[1])}; };
          };
          return std::vector<SampleCase>{
              {{uniform({4, 5}, t), classes({3, 5}, 4)}, along(0), "rows, repeated indices", 1},
              {{transposed({4, 5}, t), classes({4, 7}, 5)}, along(1), "columns of a transpose", 1},
              {{strided({3, 4, 5}, t), classes({3, 6, 5}, 4)}, along(-2), "middle axis of a strided view", 1},
              {{uniform({4, 5}, t), classes({0, 5}, 4)}, along(0), "empty index", 1},
              {{uniform({1, 64}, t), classes({1, 40}, 64)}, along(1), "rows of a block", 1},
              {{uniform({}, t), classes({}, 1)}, along(0), "0-d", 1},
          };
        },
});
const RegisterOp registered_take({
    .name = "take_along_dim",
    .signature = "take_along_dim(x, index, axis)",
    .formula = "gather, where x and index broadcast beside the axis",
    .samples =
        [](DType t) {
          const auto along = [](std::optional<int64_t> axis) {
            return [axis](const Inputs& in) { return Inputs{take_along_dim(in[0], in[1], axis)}; };
          };
          return std::vector<SampleCase>{
              {{uniform({4, 1}, t), classes({3, 5}, 4)}, along(0), "x broadcasts", 1},
              {{transposed({4, 5}, t), classes({1, 7}, 5)}, along(-1), "the index broadcasts", 1},
              {{strided({3, 4}, t), classes({2, 3}, 12)}, along({}), "flattened", 1},
              {{uniform({2, 0}, t), classes({2, 0}, 1)}, along(1), "empty", 1},
          };
        },
});
const RegisterOp registered_select({
    .name = "index_select",
    .signature = "index_select(x, axis, index)",
    .formula = "x[index[0]], x[index[1]], ... along axis",
    .samples =
        [](DType t) {
          const auto along = [](int64_t axis) {
            return [axis](const Inputs& in) { return Inputs{index_select(in[0], axis, in[1])}; };
          };
          return std::vector<SampleCase>{
              {{uniform({4, 5}, t), classes({6}, 4)}, along(0), "repeated rows", 1},
              {{transposed({4, 5}, t), classes({2}, 5)}, along(-1), "columns of a transpose", 1},
              {{strided({2, 3, 4}, t), classes({}, 3)}, along(1), "0-d index", 1},
              {{uniform({4, 5}, t), classes({0}, 4)}, along(0), "no index", 1},
          };
        },
});
const RegisterOp registered_embedding({
    .name = "embedding",
    .signature = "embedding(weight, index, {padding_idx})",
    .formula = "out[..., :] = weight[index[...], :]; the row padding_idx gets no gradient",
    .samples =
        [](DType t) {
          const auto fn = [](const Inputs& in) { return Inputs{embedding(in[0], in[1])}; };
          return std::vector<SampleCase>{
              {{uniform({7, 5}, t), classes({2, 3}, 7)}, fn, "matrix of indices", 1},
              {{transposed({4, 3}, t), classes({}, 4)}, fn, "0-d index", 1},
              {{strided({4, 3}, t), classes({0}, 4)}, fn, "no index", 1},
          };
        },
});
}  // namespace

}  // namespace flame
