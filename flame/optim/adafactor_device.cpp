// Adafactor on a device that compiles text: a table of tensors a launch, six launches a step of a common network.
#include <map>
#include <optional>
#include <string_view>
#include <tuple>

#include "flame/core/format.h"
#include "flame/device/kernel.h"
#include "flame/optim/adafactor_internal.h"

namespace flame::optim {
namespace {

constexpr int64_t part = 4096, band = 128;  // as in adafactor.cu
constexpr size_t most = 80;                 // items a table

// As in adafactor.cu.
struct Item {
  void* p;
  const void* g;
  void* m[2];
  void* s;
  int64_t vector, rows, columns, matrices, first_line, lines, first_tile, bands, sums, roots, factor;
  int64_t dense, rank, shape[max_rank], strides[max_rank];
  const double *skip, *from;
  double k[10];
};
struct Table {
  int64_t count = 0;
  Item item[most] = {};
};
struct Placed {
  size_t gradient, parameter, block;
  bool shadow;
  Item item;  // without pointers and numbers
};
struct Family {
  Ref<Kernel> lines, columns, roots, sizes, rates, apply;
  std::vector<Placed> tensors;
};
// What a table's tensors need together.
struct Totals {
  int64_t lines = 0, tiles = 0, work = 0;  // work: doubles
};

Item item_of(const UpdateTensor& t) {
  Item x{};
  const int rank = t.shape.rank();
  const int64_t n = numel(t.shape);
  x.vector = rank < 2;
  x.rows = x.vector ? 1 : t.shape[rank - 2];
  x.columns = x.vector ? n : t.shape[rank - 1];
  x.matrices = n / (x.rows * x.columns);
  x.lines = x.vector ? blocks_for(n, part) : x.matrices * x.rows;
  x.bands = blocks_for(x.rows, band);
  x.dense = is_contiguous(t.shape, t.strides);
  x.rank = rank;
  std::copy(t.shape.begin(), t.shape.end(), x.shape);
  std::copy(t.strides.begin(), t.strides.end(), x.strides);
  return x;
}
// Gives tensors [first, last) their places in one table's launches.
Totals place(std::vector<Placed>& all, size_t first, size_t last) {
  Totals t;
  for (size_t i = first; i < last; ++i) {
    Item& x = all[i].item;
    x.first_line = std::exchange(t.lines, t.lines + x.lines);
    x.first_tile = t.tiles;
    if (!x.vector) t.tiles += x.matrices * x.bands * blocks_for(x.columns, 256);
  }
  t.work = 2 * t.lines;
  for (size_t i = first; i < last; ++i) {
    Item& x = all[i].item;
    x.factor = t.work++;
    if (x.vector) continue;
    x.sums = std::exchange(t.work, t.work + x.matrices * x.bands * x.columns);
    x.roots = std::exchange(t.work, t.work + x.matrices * x.columns);
  }
  return t;
}

void launch(const Family& f, size_t first, size_t last, const Totals& t, const Run& run, const double* skip,
            const double* arguments) {
  const auto* blocks = static_cast<const UpdateArguments*>(run.scalars[0].p);
  Table table;
  for (size_t i = first; i < last; ++i) {
    const Placed& from = f.tensors[i];
    Item& x = table.item[table.count++] = from.item;
    x.p = run.buffers[from.parameter];
    x.g = run.buffers[from.gradient];
    const size_t moments = x.vector ? 1 : 2;
    for (size_t m = 0; m < moments; ++m) x.m[m] = run.buffers[from.parameter + 1 + m];
    if (from.shadow) x.s = run.buffers[from.parameter + 1 + moments];
    x.skip = skip;
    if (arguments) x.from = arguments + from.gradient * std::tuple_size_v<UpdateArguments>;
    else std::copy(blocks[from.block].begin(), blocks[from.block].end(), x.k);
  }
  (*f.lines)({.blocks = t.lines}, table, run.workspace);
  if (t.tiles > 0) {
    (*f.columns)({.blocks = t.tiles}, table, run.workspace);
    (*f.roots)({.blocks = t.tiles}, table, run.workspace);
    (*f.sizes)({.blocks = t.lines}, table, run.workspace);
  }
  (*f.rates)({.blocks = table.count}, table, run.workspace);
  (*f.apply)({.blocks = t.lines}, table, run.workspace);
}

// The shadow of a tensor of the same dtypes: what has none shares its launches.
std::optional<DType> shadow_beside(const UpdateTensor& t, const std::vector<UpdateTensor>& tensors) {
  for (const UpdateTensor& o : tensors)
    if (o.shadow && o.parameter == t.parameter && o.gradient == t.gradient) return o.shadow;
  return {};
}

}  // namespace

Ref<Plan> device_adafactor_plan(const char* name, const std::vector<UpdateTensor>& tensors, Device& d,
                                const UpdateWays& ways) {
  const std::string text(device_text("optim/adafactor.cu"));
  std::map<std::tuple<DType, DType, std::optional<DType>>, Family> families;
  size_t buffer = tensors.size() + (ways.has_factor() ? 1 : 0);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const UpdateTensor& t = tensors[i];
    if (numel(t.shape) > 0) {
      const std::optional<DType> shadow = t.shadow ? t.shadow : shadow_beside(t, tensors);
      Family& f = families[{t.parameter, t.gradient, shadow}];
      if (!f.lines) {
        const auto kernel = [&](const char* entry) {
          std::vector<std::string> options{fmt::format("-DFLAME_P={}", device_type(t.parameter)),
                                           fmt::format("-DFLAME_G={}", device_type(t.gradient)),
                                           fmt::format("-DFLAME_C={}", device_type(compute_dtype(t.parameter))),
                                           fmt::format("-DFLAME_ITEMS={}", most), "--fmad=false"};
          if (shadow && entry == std::string_view("apply"))
            options.push_back(fmt::format("-DFLAME_S={}", device_type(*shadow)));
          return d.kernel({name, text, entry, std::move(options)});
        };
        f = {
            kernel("lines"), kernel("columns"), kernel("roots"), kernel("sizes"), kernel("rates"), kernel("apply"), {}};
      }
      f.tensors.push_back({i, buffer, t.block, t.shadow.has_value(), item_of(t)});
    }
    buffer += t.buffers();
  }
  struct Step {
    size_t family, first, last;
    Totals totals;
  };
  std::vector<Family> all;
  std::vector<Step> steps;
  int64_t work = 0;
  for (auto& [key, f] : families) {
    for (size_t i = 0; i < f.tensors.size(); i += most) {
      const size_t last = std::min(f.tensors.size(), i + most);
      steps.push_back({all.size(), i, last, place(f.tensors, i, last)});
      work = std::max(work, steps.back().totals.work);
    }
    all.push_back(std::move(f));
  }
  DeviceNumbers numbers(name, tensors, d, ways, tensors.size(), buffer);
  const size_t own = numbers.workspace();
  return make_ref<Plan>(
      name,
      [all = std::move(all), steps = std::move(steps), numbers = std::move(numbers), own,
       factor = tensors.size()](const Run& run) {
        Run rest = run;  // whose workspace lies behind the arguments
        rest.workspace = static_cast<char*>(run.workspace) + own;
        const double *skip = nullptr, *arguments = nullptr;
        if (numbers) {
          numbers.launch(run, static_cast<double*>(run.workspace));
          skip = static_cast<const double*>(run.buffers[factor]);
          arguments = static_cast<const double*>(run.workspace);
        }
        for (const Step& s : steps) launch(all[s.family], s.first, s.last, s.totals, rest, skip, arguments);
      },
      own + static_cast<size_t>(work) * sizeof(double));
}

}  // namespace flame::optim
