// Sorting on a device: the first of a row by top.cu, rows that a block can hold by sort_row.cu, others by sort.cu.
#include "flame/ops/sort_device_internal.h"

#include <bit>
#include <utility>

namespace flame {
namespace {

struct Rows {  // as in sort.cuh
  int64_t rows, n, padded, rank, x_step, y_step, wanted, first, middle, descending;
  int64_t shape[max_rank], x[max_rank], y[max_rank];
};
Rows rows_of(const Meta& x, const Meta& y, const DeviceOrder& o) {
  Rows w{};
  w.rows = 1;
  w.n = x.shape[o.axis];
  w.x_step = x.strides[o.axis];
  w.y_step = y.strides[o.axis];
  w.wanted = y.shape[o.axis];
  w.first = o.first;
  w.middle = o.middle;
  w.descending = o.descending;
  for (int i = 0; i < x.shape.rank(); ++i) {
    if (i == o.axis || x.shape[i] == 1) continue;
    w.rows *= w.shape[w.rank] = x.shape[i];
    w.x[w.rank] = x.strides[i];
    w.y[w.rank++] = y.strides[i];
  }
  return w;
}

// The first of rows, in as many launches as it takes to bring them down to one part a row.
Ref<Plan> top_plan(Device& d, const char* name, DType t, const Rows& w) {
  constexpr int64_t part = 4096;  // as in top.cu
  const int64_t k = w.first + w.wanted, key = t == DType::f64 || t == DType::i64 ? 8 : 4;
  const auto bytes = [=](int64_t n) {
    return n > part ? (w.rows * blocks_for(n, part) * k * (key + 4) + 15) / 16 * 16 : 0;
  };
  const int64_t first = bytes(w.n), second = bytes(blocks_for(w.n, part) * k);
  return make_ref<Plan>(
      name,
      [=, top = device_kernel(d, "ops/top.cu", "top", t)](const Run& r) {
        char *at = static_cast<char*>(r.workspace), *beside = at + first;
        char *keys = nullptr, *places = nullptr, *keys_out = nullptr, *places_out = nullptr;
        int64_t n = w.n, parts = 0;
        while (parts != 1) {
          parts = blocks_for(n, part);
          if (parts > 1) {
            keys_out = at;
            places_out = at + w.rows * parts * k * key;
          }
          (*top)({.blocks = w.rows * parts}, w, r.buffers[0], keys, places, n, parts, keys_out, places_out,
                 r.buffers[1], r.buffers[2]);
          n = parts * k;
          keys = keys_out;
          places = places_out;
          std::swap(at, beside);
        }
      },
      static_cast<size_t>(first + second));
}

// A block a row.
Ref<Plan> row_plan(Device& d, const char* name, DType t, const Rows& w, int threads) {
  Ref<Kernel> k = device_kernel(d, "ops/sort_row.cu", "sort_row", t, {"-DFLAME_THREADS=" + std::to_string(threads)});
  return make_ref<Plan>(name, [=](const Run& r) {
    (*k)({.blocks = w.rows, .threads = threads}, w, r.buffers[0], r.buffers[1], r.buffers[2]);
  });
}

}  // namespace

Ref<Plan> plan_order(Device& d, const char* name, const Meta& x, const Meta& y, const DeviceOrder& o) {
  constexpr int64_t short_row = 256, most_of_top = 64;  // as in top.cu
  Rows w = rows_of(x, y, o);
  if (w.rows * w.n * w.wanted == 0) return make_ref<Plan>(name, [](const Run&) {});
  const DType t = x.dtype;
  if (w.n > short_row && !o.middle && o.first + w.wanted <= most_of_top) return top_plan(d, name, t, w);
  const int64_t longest = size_of(t) == 8 ? 2048 : 4096;
  if (w.n > short_row && w.n <= longest)
    return row_plan(d, name, t, w, static_cast<int>(std::bit_ceil(static_cast<uint64_t>(w.n)) / 8));
  const DeviceSort order(d, t, w.rows, w.n, 8 * static_cast<int>(size_of(t)));
  w.padded = order.padded();
  return make_ref<Plan>(
      name,
      [w, order, fill = device_kernel(d, "ops/sort.cu", "fill", t, order.options()),
       put = device_kernel(d, "ops/sort.cu", "put", t, order.options())](const Run& r) {
        const DeviceRadix::Rows rows = order.rows(r.workspace);
        (*fill)({.blocks = blocks_for(w.rows * w.padded, 256)}, w, r.buffers[0], rows.keys, rows.places);
        const DeviceRadix::Rows sorted = order(r.workspace);
        (*put)({.blocks = blocks_for(w.rows * w.wanted, 256)}, w, sorted.keys, sorted.places, r.buffers[0],
               r.buffers[1], r.buffers[2]);
      },
      order.workspace());
}

}  // namespace flame
