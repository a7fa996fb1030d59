// Runs an island's group on a device that compiles text: kernels by structure, launches by size.
#include <algorithm>
#include <bit>
#include <functional>
#include <memory>
#include <mutex>

#include "flame/core/format.h"
#include "flame/core/philox.h"
#include "flame/device/kernel.h"
#include "flame/fuse/cuda_text.h"

namespace flame {
namespace {

// A Dropped, as fuse/draw.cuh has it.
void put(std::vector<uint64_t>& words, const Word* of_draw) {
  const DrawNumbers n = draw_numbers(of_draw);
  uint32_t keys[20];
  philox_keys(n.seed, keys);
  words.push_back(n.call);
  words.push_back(of_draw[draw_words - 1].u);
  for (int i = 0; i < 20; i += 2) words.push_back(keys[i] | uint64_t{keys[i + 1]} << 32);
}

struct Prepared {
  std::vector<CudaField> fields;
  std::vector<int> copied;
  int shared = 0;
  Ref<Kernel> island, join, finish;

  Prepared(Device& d, const Program& p, const std::string& name, int width, bool finishes, bool joins = false) {
    CudaKernelText t = cuda_island_text(p, width);
    fields = std::move(t.fields);
    copied = std::move(t.copied);
    shared = t.shared;
    island = d.kernel({name, t.text, "island", {"--fmad=false"}});
    if (joins) join = d.kernel({name, t.text, "join", {"--fmad=false"}});
    if (finishes) finish = d.kernel({name, std::move(t.text), "finish", {"--fmad=false"}});
  }
  std::vector<uint64_t> arguments(const Run& r, size_t leaves) const {
    std::vector<uint64_t> words;
    words.reserve(fields.size());
    for (const CudaField& f : fields) {
      const auto k = static_cast<size_t>(f.index);
      switch (f.kind) {
        case CudaField::Kind::leaf: words.push_back(reinterpret_cast<uint64_t>(r.buffers[k])); break;
        case CudaField::Kind::output: words.push_back(reinterpret_cast<uint64_t>(r.buffers[leaves + k])); break;
        case CudaField::Kind::workspace: words.push_back(reinterpret_cast<uint64_t>(r.workspace)); break;
        case CudaField::Kind::number: words.push_back(static_cast<uint64_t>(f.value)); break;
        case CudaField::Kind::scalar: words.push_back(r.scalars[k].u); break;
        case CudaField::Kind::draw: put(words, r.scalars + k); break;
      }
    }
    return words;
  }
};
void run(const Ref<Kernel>& k, const Grid& g, const std::vector<uint64_t>& words) {
  k->launch(g, std::as_bytes(std::span(words)));
}

// Whether every tensor begins at a multiple of `width` of its elements, as 16-byte access wants.
bool aligned(const Program& p, const Run& r, int width) {
  const auto fits = [&](const void* at, DType t) {
    const size_t bytes = std::min<size_t>(std::bit_floor(size_of(t) * static_cast<size_t>(width)), 16);
    return reinterpret_cast<uintptr_t>(at) % bytes == 0;
  };
  for (size_t i = 0; i < p.leaves.size(); ++i)
    if (!fits(r.buffers[i], p.leaves[i].dtype)) return false;
  for (size_t i = 0; i < p.outputs.size(); ++i)
    if (!fits(r.buffers[p.leaves.size() + i], p.outputs[i].dtype)) return false;
  return true;
}

struct Kernels {
  explicit Kernels(Prepared p) : whole(std::move(p)) {}
  Prepared whole;
  std::once_flag made;
  std::unique_ptr<Prepared> one;  // for tensors that begin at odd places
};

std::function<void(const Run&)> pointwise_body(Program p, Device& d, const std::string& name, int64_t n) {
  const int width = cuda_vector_width(p);
  auto all = std::make_shared<Kernels>(Prepared(d, p, name, width, false));
  if (const int axis = cuda_tile_axis(p); axis >= 0)
    return [all, leaves = p.leaves.size(), blocks = cuda_tiles(p, axis)](const Run& r) {
      run(all->whole.island, {.blocks = blocks}, all->whole.arguments(r, leaves));
    };
  return [p = std::move(p), &d, name, n, width, all](const Run& r) {
    const bool fits = width == 1 || aligned(p, r, width);
    if (!fits) std::call_once(all->made, [&] { all->one = std::make_unique<Prepared>(d, p, name, 1, false); });
    const Prepared& k = fits ? all->whole : *all->one;
    run(k.island, {.blocks = blocks_for(n, int64_t{cuda_threads} * (fits ? width : 1))},
        k.arguments(r, p.leaves.size()));
  };
}

// Rows whose columns are summed: copied to shared memory where it has room for them and all of them begin where copies can.
std::function<void(const Run&)> summed_rows_body(Program p, Device& d, const std::string& name, bool finishes,
                                                 const Grid& first, const Grid& last) {
  auto all = std::make_shared<Kernels>(Prepared(d, p, name, cuda_copied, finishes));
  if (all->whole.shared > all->whole.island->most_shared()) all->whole = Prepared(d, p, name, 1, finishes);
  return [p = std::move(p), &d, name, finishes, first, last, all](const Run& r) {
    const bool fits = std::ranges::all_of(
        all->whole.copied, [&](int k) { return reinterpret_cast<uintptr_t>(r.buffers[k]) % cuda_copied == 0; });
    if (!fits) std::call_once(all->made, [&] { all->one = std::make_unique<Prepared>(d, p, name, 1, finishes); });
    const Prepared& k = fits ? all->whole : *all->one;
    const std::vector<uint64_t> words = k.arguments(r, p.leaves.size());
    Grid grid = first;
    grid.shared = k.shared;
    run(k.island, grid, words);
    if (k.finish) run(k.finish, last, words);
  };
}

// `deep` threads of a block share each of `items`; blocks are small where few would be large.
Grid column_grid(int64_t items, int64_t deep) {
  constexpr int64_t enough = 264;  // blocks that keep a GPU busy
  const int64_t most = cuda_threads / deep, width = blocks_for(items, most) < enough ? 32 : most;
  return {.blocks = blocks_for(items, width), .threads = static_cast<int>(width * deep)};
}

}  // namespace

Ref<Plan> prepare_cuda_program(Program p, Device& d) {
  const std::string name = fmt::format("island({} ops)", p.ops);
  const CudaSpace s = cuda_space(p);
  const size_t leaves = p.leaves.size();
  if (!p.has_reduce) {
    const int64_t n = s.rows * s.cols;
    if (n == 0) return make_ref<Plan>(name, [](const Run&) {});
    return make_ref<Plan>(name, pointwise_body(std::move(p), d, name, n));
  }
  const int64_t items = p.mode == Mode::column || p.summed > 0 ? s.outer * s.inner : s.rows;
  if (items == 0) return make_ref<Plan>(name, [](const Run&) {});
  const bool block_rows = cuda_block_rows(p, s);
  const bool columns = p.mode == Mode::column || p.summed > 0;
  const bool finishes = (p.mode == Mode::wide && !block_rows) || (columns && s.most_partials > 1);
  int64_t count = 0;
  for (const NodeDesc& n : p.nodes) count += n.kind == NodeDesc::Kind::reduce && (p.summed == 0 || n.summed > 0);
  const bool joins = p.mode == Mode::wide && s.partials > cuda_wide_chunk;
  if (p.summed > 0) {
    const Grid first{.blocks = s.outer * s.partials};
    Grid last = column_grid(items, s.finish_deep);
    last.y = count;
    return make_ref<Plan>(name, summed_rows_body(std::move(p), d, name, finishes, first, last),
                          finishes ? static_cast<size_t>(count * items * s.partials) * 8 : 0);
  }
  const auto k = std::make_shared<Prepared>(d, p, name, 1, finishes, joins);
  if (p.mode == Mode::row || block_rows) {
    const Grid grid{.blocks = block_rows ? s.rows : blocks_for(s.rows, cuda_threads / 32 / cuda_row_warps(s))};
    return make_ref<Plan>(name, [k, grid, leaves](const Run& r) { run(k->island, grid, k->arguments(r, leaves)); });
  }
  const bool wide = p.mode == Mode::wide;
  constexpr int64_t warps = cuda_threads / 32;
  const int64_t partials = items * s.partials, room = wide ? items * cuda_wide_partials(s) : partials;
  const Grid first = wide ? Grid{.blocks = blocks_for(partials, warps)} : column_grid(partials, s.deep);
  const Grid second{.blocks = blocks_for(room - partials, warps), .y = count};
  Grid last = wide ? Grid{.blocks = joins ? items : blocks_for(items, warps)} : column_grid(items, s.finish_deep);
  last.y = count;
  return make_ref<Plan>(
      name,
      [k, first, second, last, leaves](const Run& r) {
        const std::vector<uint64_t> words = k->arguments(r, leaves);
        run(k->island, first, words);
        if (k->join) run(k->join, second, words);
        if (k->finish) run(k->finish, last, words);
      },
      finishes ? static_cast<size_t>(count * room) * 8 : 0);
}

}  // namespace flame
