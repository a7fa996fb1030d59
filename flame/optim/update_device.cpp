// Optimizers and clipping on a device: the tensors of a step go to the kernels as tables in their arguments, as many
// a launch as these hold, so that a step of a common network is one launch.
#include <map>
#include <tuple>

#include "flame/core/format.h"
#include "flame/device/kernel.h"
#include "flame/optim/clip_internal.h"

namespace flame::optim {
namespace {

// What one wave of a GPU's blocks (seven of 132 multiprocessors' each) takes with little to do for each, and at most 2048.
int64_t elements_a_block(int64_t count) {
  constexpr int64_t blocks = int64_t{7} * 132;
  for (const int64_t n : {512, 1024})
    if (count <= n * blocks) return n;
  return 2048;
}
constexpr size_t item_numbers = std::tuple_size_v<UpdateArguments>;
constexpr size_t few = 32, most = 200;  // items a table; kernels take 32,764 bytes of arguments

// As in update.cu.
struct Item {
  void* p;
  const void* g;
  void* m[3];
  void* s;
  int64_t count, first;
  const double *skip, *from;
  double k[10];
};
template <class T, size_t n>
struct Table {
  int64_t count = 0;
  T item[n] = {};
};

// The rule of update.cu that a kernel of the CPU stands for.
const char* rule_of(UpdateFn fn) {
  const Kernels& k = Kernels::best();
  for (int i = 0; i < 2; ++i) {
    const std::pair<UpdateFn, const char*> all[] = {{k.adam[i], "adam"},
                                                    {k.amsgrad[i], "amsgrad"},
                                                    {k.nadam[i], "nadam"},
                                                    {k.radam[i], "radam"},
                                                    {k.adamax[i], "adamax"},
                                                    {k.sgd[i], "sgd"},
                                                    {k.rmsprop[i][0], "rmsprop0"},
                                                    {k.rmsprop[i][1], "rmsprop1"},
                                                    {k.rmsprop[i][2], "rmsprop2"},
                                                    {k.rmsprop[i][3], "rmsprop3"},
                                                    {k.sgd_momentum[i], "sgd_momentum"},
                                                    {k.adagrad[i], "adagrad"},
                                                    {k.lion[i], "lion"},
                                                    {k.average[i], "average"}};
    for (const auto& [known, name] : all)
      if (fn == known) return name;
  }
  return nullptr;
}

struct Placed {
  size_t gradient, parameter, block;
  int moments;
  bool shadow;
  int64_t count;
};
// Tensors that one kernel updates.
struct Family {
  std::optional<DType> shadow;
  Ref<Kernel> small, large;
  std::vector<Placed> tensors;
};

template <size_t n>
void launch(const Kernel& k, const std::vector<Placed>& all, size_t first, size_t last, const Run& run,
            const double* factor, const double* skip, const double* arguments) {
  const auto* blocks = static_cast<const UpdateArguments*>(run.scalars[0].p);
  Table<Item, n> table;
  int64_t at = 0, count = 0;
  for (size_t i = first; i < last; ++i) count += all[i].count;
  const int64_t elements = elements_a_block(count);
  for (size_t i = first; i < last; ++i) {
    const Placed& t = all[i];
    Item& item = table.item[table.count++];
    item = {run.buffers[t.parameter], run.buffers[t.gradient], {}, nullptr, t.count, at, nullptr, nullptr, {}};
    if (t.shadow) item.s = run.buffers[t.parameter + 1 + static_cast<size_t>(t.moments)];
    for (int m = 0; m < t.moments; ++m) item.m[m] = run.buffers[t.parameter + 1 + static_cast<size_t>(m)];
    if (arguments) {
      item.skip = skip;
      item.from = arguments + t.gradient * item_numbers;
    } else {
      std::copy(blocks[t.block].begin(), blocks[t.block].end(), item.k);
    }
    at += blocks_for(t.count, elements);
  }
  k({.blocks = at}, table, factor, static_cast<int32_t>(elements));
}

}  // namespace

DeviceNumbers::DeviceNumbers(const char* name, const std::vector<UpdateTensor>& tensors, Device& d,
                             const UpdateWays& ways, size_t counts)
    : counts_(counts) {
  if (!ways.counts) return;
  kernel_ = d.kernel({name,
                      std::string(device_text("optim/numbers.cu")),
                      "step_numbers",
                      {fmt::format("-DFLAME_NUMBERS={}", ways.counts->name), "--fmad=false"}});
  for (const UpdateTensor& t : tensors) slots_.push_back(t.block);
}
void DeviceNumbers::launch(const Run& run, const double* skip, double* arguments) const {
  struct One {  // as in numbers.cu
    int64_t steps, slot;
    Hyper h;
  };
  constexpr size_t items = 400;
  const auto* steps = static_cast<const StepOf*>(run.scalars[1].p);
  for (size_t first = 0; first < slots_.size(); first += items) {
    Table<One, items> table;
    for (size_t i = first; i < std::min(first + items, slots_.size()); ++i)
      table.item[table.count++] = {steps[slots_[i]].steps, static_cast<int64_t>(slots_[i]), steps[slots_[i]].h};
    (*kernel_)({.blocks = blocks_for(table.count, 256)}, table, skip, run.buffers[counts_],
               arguments + first * item_numbers);
  }
}

Ref<Plan> device_update_plan(const char* name, const std::vector<UpdateTensor>& tensors, Device& d,
                             const UpdateWays& ways) {
  const std::string text(device_text("optim/update.cu"));
  // By rule and dtypes, then by shadows; tensors without one join those that have, so that they share a launch.
  std::map<std::string, std::vector<Family>> families;
  const auto family = [&](const UpdateTensor& t) -> Family& {
    const char* rule = rule_of(t.kernel);
    if (!rule) fail<NotImplemented>(Loc::current(), "{}: no kernel for {} on {}", name, t.parameter, d.name());
    auto& list = families[fmt::format("{} {} {}", rule, static_cast<int>(t.parameter), static_cast<int>(t.gradient))];
    for (Family& f : list)
      if (!t.shadow || f.shadow == t.shadow) return f;
    Family& f = list.emplace_back();
    f.shadow = t.shadow;
    const auto kernel = [&](size_t items) {
      std::vector<std::string> options{fmt::format("-DFLAME_P={}", device_type(t.parameter)),
                                       fmt::format("-DFLAME_G={}", device_type(t.gradient)),
                                       fmt::format("-DFLAME_C={}", device_type(compute_dtype(t.parameter))),
                                       fmt::format("-DFLAME_RULE={}", rule),
                                       fmt::format("-DFLAME_ITEMS={}", items),
                                       "--fmad=false"};
      if (t.shadow) options.push_back(fmt::format("-DFLAME_S={}", device_type(*t.shadow)));
      return d.kernel({name, text, "update", std::move(options)});
    };
    f.small = kernel(few);
    if (tensors.size() > few) f.large = kernel(most);
    return f;
  };
  for (const UpdateTensor& t : tensors)
    if (t.shadow) family(t);
  size_t buffer = tensors.size() + (ways.has_factor() ? 1 : 0);
  for (const UpdateTensor& t : tensors) {
    if (const int64_t n = numel(t.shape); n > 0)
      family(t).tensors.push_back(
          {static_cast<size_t>(&t - tensors.data()), buffer, t.block, t.moments, t.shadow.has_value(), n});
    buffer += t.buffers();
  }
  std::vector<Family> all;
  for (auto& [key, list] : families)
    for (Family& f : list) all.push_back(std::move(f));
  DeviceNumbers numbers(name, tensors, d, ways, buffer);
  const size_t workspace = numbers.workspace();
  return make_ref<Plan>(
      name,
      [all = std::move(all), numbers = std::move(numbers), ways, count = tensors.size()](const Run& run) {
        const auto* factor = ways.has_factor() ? static_cast<const double*>(run.buffers[count]) : nullptr;
        const double* skip = ways.skips ? factor : nullptr;
        double* arguments = nullptr;
        if (numbers) numbers.launch(run, skip, arguments = static_cast<double*>(run.workspace));
        for (const Family& f : all) {
          const size_t n = f.tensors.size();
          if (n <= few && n > 0)
            launch<few>(*f.small, f.tensors, 0, n, run, ways.clipped ? factor : nullptr, skip, arguments);
          else
            for (size_t i = 0; i < n; i += most)
              launch<most>(*f.large, f.tensors, i, std::min(n, i + most), run, ways.clipped ? factor : nullptr, skip,
                           arguments);
        }
      },
      workspace);
}

namespace {

// As in clip.cu.
struct ClipItem {
  const void* x;
  void* out;
  int64_t count, first, dtype;
};
constexpr size_t clip_items = 256;

}  // namespace

namespace {

// The tensors to clip, in as many tables as they need: launch(grid, table, chunks before).
class ClipTables {
 public:
  explicit ClipTables(std::span<const Meta> gradients) {
    for (const Meta& m : gradients) {
      tensors_.push_back({numel(m.shape), static_cast<int64_t>(m.dtype)});
      chunks_ += (tensors_.back().count + clip_chunk - 1) / clip_chunk;
    }
  }
  int64_t chunks() const { return chunks_; }
  size_t size() const { return tensors_.size(); }
  // out: the first buffer that is written, or null.
  template <class F>
  void each(void* const* in, void* const* out, const F& launch) const {
    int64_t before = 0;
    for (size_t first = 0; first < tensors_.size(); first += clip_items) {
      Table<ClipItem, clip_items> table;
      int64_t at = 0;
      for (size_t i = first; i < std::min(first + clip_items, tensors_.size()); ++i) {
        if (tensors_[i].count == 0) continue;
        table.item[table.count++] = {in[i], out ? out[i] : nullptr, tensors_[i].count, at, tensors_[i].dtype};
        at += blocks_for(tensors_[i].count, clip_chunk);
      }
      if (at > 0) launch(Grid{.blocks = at}, table, before);
      before += at;
    }
  }

 private:
  struct One {
    int64_t count, dtype;
  };
  std::vector<One> tensors_;
  int64_t chunks_ = 0;
};
Ref<Kernel> clip_kernel(const char* name, const char* entry, Device& d) {
  return d.kernel({name, std::string(device_text("optim/clip.cu")), entry, {"--fmad=false"}});
}

}  // namespace

Ref<Plan> device_norm_plan(const char* name, std::span<const Meta> gradients, DType norm, bool scaled, Device& d) {
  ClipTables tables(gradients);
  const size_t workspace = static_cast<size_t>(std::max<int64_t>(tables.chunks(), 1)) * sizeof(double);
  return make_ref<Plan>(
      name,
      [parts = clip_kernel(name, "norm_parts", d), join = clip_kernel(name, "norm_join", d), tables = std::move(tables),
       wide = int64_t{norm == DType::f64}, scaled](const Run& run) {
        double* sums = static_cast<double*>(run.workspace);
        const double p = run.scalars[1].f;
        tables.each(run.buffers, nullptr,
                    [&](const Grid& g, const auto& table, int64_t before) { (*parts)(g, table, sums + before, p); });
        const void* scale = scaled ? run.buffers[tables.size()] : nullptr;
        void* const* out = run.buffers + tables.size() + (scaled ? 1 : 0);
        (*join)({}, sums, tables.chunks(), p, run.scalars[0].f, scale, out[0], wide, out[1]);
      },
      workspace);
}

Ref<Plan> device_scale_plan(const char* name, std::span<const Meta> gradients, bool by_factor, Device& d) {
  return make_ref<Plan>(name, [kernel = clip_kernel(name, by_factor ? "scale" : "clamp", d),
                               tables = ClipTables(gradients), by_factor](const Run& run) {
    const size_t n = tables.size();
    tables.each(run.buffers, run.buffers + n + (by_factor ? 1 : 0), [&](const Grid& g, const auto& table, int64_t) {
      if (by_factor) (*kernel)(g, table, run.buffers[n]);
      else (*kernel)(g, table, run.scalars[0].f);
    });
  });
}

Ref<Plan> device_clip_adaptive_plan(const char* name, std::span<const Meta> in, Device& d) {
  // As in clip.cu.
  struct Pair {
    const void *g, *p;
    void* out;
    int64_t size, chunks, count, first, g_dtype, p_dtype;
  };
  const size_t tensors = in.size() / 2;
  std::vector<Pair> pairs;
  int64_t most_chunks = 1;
  for (size_t i = 0; i < tensors; ++i) {
    const Shape& s = in[i].shape;
    const int64_t n = numel(s), size = s.rank() < 2 || n == 0 ? n : n / s[0], chunks = blocks_for(size, clip_chunk);
    pairs.push_back({nullptr, nullptr, nullptr, size, chunks, n == 0 ? 0 : n / size, 0,
                     static_cast<int64_t>(in[i].dtype), static_cast<int64_t>(in[tensors + i].dtype)});
  }
  for (size_t first = 0; first < tensors; first += clip_items) {
    int64_t chunks = 0;
    for (size_t i = first; i < std::min(first + clip_items, tensors); ++i)
      pairs[i].first = std::exchange(chunks, chunks + pairs[i].count * pairs[i].chunks);
    most_chunks = std::max(most_chunks, chunks);
  }
  return make_ref<Plan>(
      name,
      [squares = clip_kernel(name, "unit_squares", d), scale = clip_kernel(name, "unit_scale", d),
       pairs = std::move(pairs)](const Run& run) {
        const size_t tensors = pairs.size();
        for (size_t first = 0; first < tensors; first += clip_items) {
          Table<Pair, clip_items> table;
          int64_t chunks = 0;
          for (size_t i = first; i < std::min(first + clip_items, tensors); ++i) {
            if (pairs[i].count == 0) continue;
            Pair& p = table.item[table.count++] = pairs[i];
            p.g = run.buffers[i];
            p.p = run.buffers[tensors + i];
            p.out = run.buffers[2 * tensors + i];
            chunks += p.count * p.chunks;
          }
          if (chunks == 0) continue;
          (*squares)({.blocks = chunks}, table, run.workspace);
          (*scale)({.blocks = chunks}, table, run.workspace, run.scalars[0].f, run.scalars[1].f);
        }
      },
      static_cast<size_t>(2 * most_chunks) * sizeof(double));
}

}  // namespace flame::optim
