// Sorting on a device: short rows by sort_short.cu, the first of a row by top.cu, rows that a block can hold by sort_row.cu, long
// ones by sort.cu and radix.cu.
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

const char* dense(const Rows& w) {
  return w.x_step == 1 && w.y_step == 1 ? "-DFLAME_DENSE=true" : "-DFLAME_DENSE=false";
}

// The first of rows, in as many launches as it takes to bring them down to one part a row.
Ref<Plan> top_plan(Device& d, const char* name, DType t, const Rows& w) {
  constexpr int64_t part = 4096;  // as in top.cu
  const int64_t k = w.first + w.wanted, key = size_of(t) == 8 ? 8 : 4;
  const auto bytes = [=](int64_t n) {
    return n > part ? (w.rows * blocks_for(n, part) * k * (key + 4) + 15) / 16 * 16 : 0;
  };
  const int64_t first = bytes(w.n), second = bytes(blocks_for(w.n, part) * k);
  const auto kernel = [&](const char* entry) { return device_kernel(d, "ops/top.cu", entry, t, {dense(w)}); };
  Ref<Kernel> again;
  if (first > 0) again = kernel("top_of_parts");
  return make_ref<Plan>(
      name,
      [=, top = kernel("top")](const Run& r) {
        struct Parts {  // as in top.cu
          uint32_t parts, each, more;
        };
        struct Results {
          char *keys, *places;
          void *values, *indices;
        } out{nullptr, nullptr, r.buffers[1], r.buffers[2]}, in = out;
        char *at = static_cast<char*>(r.workspace), *beside = at + first;
        int64_t n = w.n, parts = 0;
        while (parts != 1) {
          parts = blocks_for(n, part);
          if (parts > 1) {
            out.keys = at;
            out.places = at + w.rows * parts * k * key;
          }
          const Parts p{static_cast<uint32_t>(parts), static_cast<uint32_t>(n / parts),
                        static_cast<uint32_t>(n % parts)};
          const Grid grid{.blocks = w.rows * parts};
          if (!in.keys) (*top)(grid, w, r.buffers[0], p, out);
          else (*again)(grid, w, r.buffers[0], p, out, in.keys, in.places, n);
          n = parts * k;
          in = out;
          std::swap(at, beside);
        }
      },
      static_cast<size_t>(first + second));
}

// A block a row.
Ref<Plan> row_plan(Device& d, const char* name, DType t, const Rows& w) {
  const int64_t items = size_of(t) == 8 ? 8 : 16;  // as in sort_row.cu
  const int threads = static_cast<int>(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(w.n))) / items);
  Ref<Kernel> k =
      device_kernel(d, "ops/sort_row.cu", "sort_row", t, {"-DFLAME_THREADS=" + std::to_string(threads), dense(w)});
  return make_ref<Plan>(name, [=](const Run& r) {
    (*k)({.blocks = w.rows, .threads = threads}, w, r.buffers[0], r.buffers[1], r.buffers[2]);
  });
}

// Several rows a block.
Ref<Plan> short_plan(Device& d, const char* name, DType t, Rows w) {
  constexpr int64_t tile = 2048;  // as in sort_short.cu
  w.padded = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(w.n)));
  return make_ref<Plan>(name, [=, k = device_kernel(d, "ops/sort_short.cu", "sort_short", t)](const Run& r) {
    (*k)({.blocks = blocks_for(w.rows, tile / w.padded), .threads = 1024}, w, r.buffers[0], r.buffers[1], r.buffers[2]);
  });
}

Ref<Plan> long_plan(Device& d, const char* name, DType t, const Rows& w) {
  const DeviceRadix order(d, w.rows, w.n, 8 * static_cast<int>(size_of(t)));
  const std::string key = "-DFLAME_KEY=" + order.key_type();
  return make_ref<Plan>(
      name,
      [w, order, fill = device_kernel(d, "ops/sort.cu", "fill", t, {key}),
       put = device_kernel(d, "ops/sort.cu", "put", t, {key})](const Run& r) {
        const DeviceRadix::Rows rows = order.rows(r.workspace);
        (*fill)({.blocks = blocks_for(w.rows * w.n, 256)}, w, r.buffers[0], rows.keys, rows.places);
        const DeviceRadix::Rows sorted = order(r.workspace);
        (*put)({.blocks = blocks_for(w.rows * w.wanted, 256)}, w, sorted.keys, sorted.places, r.buffers[0],
               r.buffers[1], r.buffers[2]);
      },
      order.workspace());
}

}  // namespace

Ref<Plan> plan_order(Device& d, const char* name, const Meta& x, const Meta& y, const DeviceOrder& o) {
  constexpr int64_t short_row = 256, most_of_top = 64;  // as in top.cu
  const Rows w = rows_of(x, y, o);
  if (w.rows * w.n * w.wanted == 0) return make_ref<Plan>(name, [](const Run&) {});
  const DType t = x.dtype;
  if (w.n <= short_row) return short_plan(d, name, t, w);
  if (!o.middle && o.first + w.wanted <= most_of_top) return top_plan(d, name, t, w);
  const int64_t longest = size_of(t) == 8 ? 2048 : 4096;
  if (w.n <= longest) return row_plan(d, name, t, w);
  return long_plan(d, name, t, w);
}

}  // namespace flame
