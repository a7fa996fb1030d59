// Adafactor over many tensors in one launch: batches that fit the caches, each in four passes (sums of rows and columns,
// second moments, the update's size, the update). Bands of rows follow from shapes alone: no result depends on threads.
#include <cmath>
#include <cstring>
#include <limits>

#include "flame/core/format.h"
#include "flame/fuse/kernels.h"
#include "flame/optim/adafactor_internal.h"

namespace flame::optim {
namespace {

constexpr int64_t piece = 1024;          // elements summed or converted at a time, in L1
constexpr int64_t band_elements = 8192;  // at least, where a tensor has as many
constexpr int64_t band_rows = 64;        // at least, so that sums of columns stay small beside the matrix
constexpr int64_t batch_elements = 1 << 19;

struct Factored : UpdateTensor {
  size_t gradient_buffer, parameter_buffer;
  bool contiguous, vector;
  int64_t matrices, rows, columns;  // a vector: 1, 1, its elements
  int64_t roots = 0;                // offset of its matrices' column factors in the batch's scratch, elements
  int64_t numel() const { return matrices * rows * columns; }
};
// Whole matrices, some rows of one, or a part of a vector.
struct Band {
  size_t tensor;
  int64_t matrix, matrices, row, rows;
  int64_t column, columns;  // a part only in vectors
  int64_t place;            // of its first element in the batch
  int64_t sums;             // offset of its column sums in the batch's scratch, elements
};
// The bands that share matrices: several bands of one, or one band of several.
struct Group {
  size_t band, bands;
  int64_t place;
};
struct Batch {
  std::vector<size_t> tensors;
  std::vector<Band> bands;
  std::vector<Group> groups;
  int64_t total = 0, scratch = 0;  // elements
};

Factored factored(const UpdateTensor& t, size_t gradient, size_t parameter) {
  const int rank = t.shape.rank();
  const bool vector = rank < 2;
  const int64_t n = numel(t.shape), rows = vector ? 1 : t.shape[rank - 2], columns = vector ? n : t.shape[rank - 1];
  return {t, gradient, parameter, is_contiguous(t.shape, t.strides), vector, n / (rows * columns), rows, columns};
}

void add_bands(Batch& b, size_t tensor, Factored& t) {
  const auto add = [&](Band x, bool new_group) {
    x.tensor = tensor;
    x.place = b.total;
    x.sums = b.scratch;
    if (new_group) b.groups.push_back({b.bands.size(), 0, x.place});
    if (!t.vector) {
      b.scratch += x.matrices * t.columns;
      b.groups.back().bands += 1;
    }
    b.total += x.matrices * x.rows * x.columns;
    b.bands.push_back(x);
  };
  if (t.vector) {
    for (int64_t i = 0; i < t.columns; i += band_elements)
      add({.matrices = 1, .rows = 1, .column = i, .columns = std::min(band_elements, t.columns - i)}, false);
  } else if (const int64_t size = t.rows * t.columns; size < band_elements) {
    const int64_t many = band_elements / size;
    for (int64_t m = 0; m < t.matrices; m += many)
      add({.matrix = m, .matrices = std::min(many, t.matrices - m), .rows = t.rows, .columns = t.columns}, true);
  } else {
    const int64_t rows = std::max(band_rows, (band_elements + t.columns - 1) / t.columns);
    for (int64_t m = 0; m < t.matrices; ++m)
      for (int64_t r = 0; r < t.rows; r += rows)
        add({.matrix = m, .matrices = 1, .row = r, .rows = std::min(rows, t.rows - r), .columns = t.columns}, r == 0);
  }
  t.roots = b.scratch;
  if (!t.vector) b.scratch += t.matrices * t.columns;
}

// Reads and writes runs of n <= piece elements along the last axis, in the compute dtype; `at` counts row-major.
class Access {
 public:
  Access(const Factored& t, void* base, DType type, DType compute)
      : t_(t), base_(base), type_(type), compute_(compute) {}
  void* read(int64_t at, int64_t n) {
    void* from = t_.contiguous ? element(base_, type_, at) : raw_;
    if (!t_.contiguous) move(at, n, false);
    if (type_ == compute_) return from;
    cast_kernel(type_, compute_)(from, nullptr, nullptr, stage_, n);
    return stage_;
  }
  void write(int64_t at, int64_t n, void* values) {  // as read() gave them
    void* to = t_.contiguous ? element(base_, type_, at) : raw_;
    if (type_ != compute_) cast_kernel(compute_, type_)(values, nullptr, nullptr, to, n);
    if (!t_.contiguous) move(at, n, true);
  }

 private:
  const Factored& t_;
  void* base_;
  DType type_, compute_;
  alignas(64) double stage_[piece];
  alignas(64) double raw_[piece];

  void move(int64_t at, int64_t n, bool out) {
    const int64_t size = static_cast<int64_t>(size_of(type_)), step = t_.strides.back() * size;
    int64_t offset = 0;
    for (int axis = t_.shape.rank() - 1; axis >= 0; --axis) {
      offset += at % t_.shape[axis] * t_.strides[axis];
      at /= t_.shape[axis];
    }
    char *there = static_cast<char*>(element(base_, type_, offset)), *here = reinterpret_cast<char*>(raw_);
    for (int64_t i = 0; i < n; ++i, there += step, here += size)
      std::memcpy(out ? there : here, out ? here : there, static_cast<size_t>(size));
  }
};

// One launch over one batch.
class Pass {
 public:
  // own: the arguments by gradient, if they are not where run says.
  Pass(const std::vector<Factored>& tensors, const Batch& batch, const Run& run,
       const std::vector<UpdateArguments>& own)
      : tensors_(tensors),
        b_(batch),
        run_(run),
        own_(own),
        parameter_squares_(static_cast<double*>(run.workspace)),
        update_squares_(parameter_squares_ + batch.bands.size()),
        rates_(update_squares_ + batch.bands.size()),
        scratch_(rates_ + batch.tensors.size()) {}
  static size_t workspace(const Batch& b) {
    return (2 * b.bands.size() + b.tensors.size() + static_cast<size_t>(b.scratch)) * sizeof(double);
  }

  void run() {
    each_item(b_.bands, b_.total, [&](const Band& x) { sums(x); });
    each_item(b_.groups, b_.total, [&](const Group& g) { columns(g); });
    each_item(b_.bands, b_.total, [&](const Band& x) {
      if (!tensors_[x.tensor].vector) size(x);
    });
    rates();
    each_item(b_.bands, b_.total, [&](const Band& x) { update(x); });
  }

 private:
  const std::vector<Factored>& tensors_;
  const Batch& b_;
  const Run& run_;
  const std::vector<UpdateArguments>& own_;
  double *parameter_squares_, *update_squares_, *rates_;  // a band, a band, a tensor
  double* scratch_;                                       // b_.scratch elements of either dtype
  const FactorKernels& kernels_ = FactorKernels::best();

  const UpdateArguments& arguments(const Factored& t) const {
    if (!own_.empty()) return own_[t.gradient_buffer];
    return static_cast<const UpdateArguments*>(run_.scalars[0].p)[t.block];
  }
  static double eps1(const UpdateArguments& a, DType compute) {
    if (!std::isnan(a[5])) return a[5];
    return compute == DType::f64 ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
  }
  size_t index(const Band& x) const { return static_cast<size_t>(&x - b_.bands.data()); }
  void* moment(const Factored& t, size_t k) const { return run_.buffers[t.parameter_buffer + 1 + k]; }
  Access gradient(const Factored& t) const {
    return {t, run_.buffers[t.gradient_buffer], t.gradient, compute_dtype(t.parameter)};
  }
  Access parameter(const Factored& t) const {
    return {t, run_.buffers[t.parameter_buffer], t.parameter, compute_dtype(t.parameter)};
  }
  Access shadow(const Factored& t) const {
    return {t, run_.buffers[t.parameter_buffer + t.buffers() - 1], *t.shadow, compute_dtype(t.parameter)};
  }
  void* scratch(DType compute, int64_t i) const { return element(scratch_, compute, i); }

  static double get(const void* p, DType t, int64_t i) {
    return t == DType::f64 ? static_cast<const double*>(p)[i] : static_cast<double>(static_cast<const float*>(p)[i]);
  }
  static void set(void* p, DType t, int64_t i, double v) {
    if (t == DType::f64) static_cast<double*>(p)[i] = v;
    else static_cast<float*>(p)[i] = static_cast<float>(v);
  }

  // fn(row among all matrices', matrix within the band, first column, count, row-major place of the first element)
  template <class F>
  static void pieces(const Factored& t, const Band& x, const F& fn) {
    for (int64_t m = 0; m < x.matrices; ++m)
      for (int64_t r = 0; r < x.rows; ++r) {
        const int64_t row = (x.matrix + m) * t.rows + x.row + r;
        for (int64_t c = 0; c < x.columns; c += piece)
          fn(row, m, x.column + c, std::min(piece, x.columns - c), row * t.columns + x.column + c);
      }
  }

  // Squares of parameters, rows and columns; a vector's second moment is done here.
  void sums(const Band& x) {
    const Factored& t = tensors_[x.tensor];
    const UpdateArguments& a = arguments(t);
    const DType compute = compute_dtype(t.parameter);
    const int k = kernel_index(compute);
    const bool scaled = a[8] != 0;
    Access g = gradient(t), p = parameter(t);
    double parameters = 0, updates = 0, row_sum = 0;
    if (!t.vector)
      std::memset(scratch(compute, x.sums), 0, static_cast<size_t>(x.matrices * t.columns) * size_of(compute));
    pieces(t, x, [&](int64_t row, int64_t m, int64_t c, int64_t n, int64_t at) {
      if (scaled) parameters += kernels_.squares[k](p.read(at, n), n);
      const void* gradients = g.read(at, n);
      if (t.vector) {
        void* v = element(moment(t, 0), compute, at);
        updates += kernels_.vector_squares[k](gradients, v, a[3], 1 / eps1(a, compute), n);
        return;
      }
      row_sum += kernels_.row_squares[k](gradients, scratch(compute, x.sums + m * t.columns + c), n);
      if (c + n < t.columns) return;
      const double before = get(moment(t, 0), compute, row), mean = row_sum / static_cast<double>(t.columns);
      set(moment(t, 0), compute, row, before + a[3] * (mean - before));
      row_sum = 0;
    });
    parameter_squares_[index(x)] = parameters;
    update_squares_[index(x)] = updates;
  }

  // Second moments of columns, and 1 / the roots of the columns' factors.
  void columns(const Group& group) {
    const Band& first = b_.bands[group.band];
    const Factored& t = tensors_[first.tensor];
    const UpdateArguments& a = arguments(t);
    const DType compute = compute_dtype(t.parameter);
    for (int64_t m = 0; m < first.matrices; ++m) {
      const int64_t matrix = first.matrix + m;
      double rows = 0;
      for (int64_t r = 0; r < t.rows; ++r) rows += get(moment(t, 0), compute, matrix * t.rows + r);
      const double scale = std::max(rows / static_cast<double>(t.rows), eps1(a, compute));
      for (int64_t c = 0; c < t.columns; ++c) {
        double sum = 0;
        for (size_t i = 0; i < group.bands; ++i)
          sum += get(scratch(compute, b_.bands[group.band + i].sums), compute, m * t.columns + c);
        const int64_t at = matrix * t.columns + c;
        const double before = get(moment(t, 1), compute, at);
        const double now = before + a[3] * (sum / static_cast<double>(t.rows) - before);
        set(moment(t, 1), compute, at, now);
        set(scratch(compute, t.roots), compute, at, 1 / std::sqrt(now / scale));
      }
    }
  }

  double row_factor(const Factored& t, int64_t row) const {
    return 1 / std::sqrt(get(moment(t, 0), compute_dtype(t.parameter), row));
  }
  const void* column_factors(const Factored& t, int64_t row, int64_t c) const {
    return scratch(compute_dtype(t.parameter), t.roots + row / t.rows * t.columns + c);
  }

  void size(const Band& x) {
    const Factored& t = tensors_[x.tensor];
    const DType compute = compute_dtype(t.parameter);
    const int k = kernel_index(compute);
    const double cap = 1 / eps1(arguments(t), compute);
    Access g = gradient(t);
    double updates = 0;
    pieces(t, x, [&](int64_t row, int64_t, int64_t c, int64_t n, int64_t at) {
      updates += kernels_.factored_squares[k](g.read(at, n), column_factors(t, row, c), row_factor(t, row), cap, n);
    });
    update_squares_[index(x)] = updates;
  }

  void rates() {
    std::vector<double> squares(2 * b_.tensors.size(), 0.0);
    size_t i = 0;
    for (const Band& x : b_.bands) {
      while (b_.tensors[i] != x.tensor) ++i;
      squares[2 * i] += parameter_squares_[index(x)];
      squares[2 * i + 1] += update_squares_[index(x)];
    }
    for (i = 0; i < b_.tensors.size(); ++i) {
      const Factored& t = tensors_[b_.tensors[i]];
      const UpdateArguments& a = arguments(t);
      const double n = static_cast<double>(t.numel());
      const double scale = a[8] != 0 ? std::max(a[6], std::sqrt(squares[2 * i] / n)) : 1;
      rates_[i] = a[0] * scale * a[4] / std::max(1.0, std::sqrt(squares[2 * i + 1] / n) / a[7]);
    }
  }

  void update(const Band& x) {
    const Factored& t = tensors_[x.tensor];
    const UpdateArguments& a = arguments(t);
    const DType compute = compute_dtype(t.parameter);
    const int k = kernel_index(compute);
    const double cap = 1 / eps1(a, compute), rate = rates_[x.tensor - b_.tensors.front()];
    Access g = gradient(t), p = parameter(t);
    pieces(t, x, [&](int64_t row, int64_t, int64_t c, int64_t n, int64_t at) {
      void* values = p.read(at, n);
      const void* gradients = g.read(at, n);
      if (t.vector)
        kernels_.vector_update[k](values, gradients, element(moment(t, 0), compute, at), cap, a[1], rate, n);
      else
        kernels_.factored_update[k](values, gradients, column_factors(t, row, c), row_factor(t, row), cap, a[1], rate,
                                    n);
      p.write(at, n, values);
      if (t.shadow) shadow(t).write(at, n, values);
    });
  }
};

}  // namespace

Ref<Plan> adafactor_plan(const char* name, const std::vector<UpdateTensor>& tensors, Device& d,
                         const UpdateWays& ways) {
  if (d.kind() == Device::Kind::cuda) return device_adafactor_plan(name, tensors, d, ways);
  std::vector<Factored> list;
  std::vector<Batch> batches;
  size_t buffer = tensors.size() + (ways.has_factor() ? 1 : 0), workspace = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (const UpdateTensor& t = tensors[i]; numel(t.shape) > 0) {
      if (batches.empty() || batches.back().total >= batch_elements) batches.emplace_back();
      list.push_back(factored(t, i, buffer));
      batches.back().tensors.push_back(list.size() - 1);
      add_bands(batches.back(), list.size() - 1, list.back());
    }
    buffer += tensors[i].buffers();
  }
  for (const Batch& b : batches) workspace = std::max(workspace, Pass::workspace(b));
  return make_ref<Plan>(
      name,
      [list = std::move(list), batches = std::move(batches), tensors, ways, counts = buffer](const Run& run) {
        std::vector<UpdateArguments> own;
        if (ways.skips && skips(run, tensors, ways, tensors.size(), counts, own)) return;
        for (const Batch& b : batches) Pass(list, b, run, own).run();
      },
      workspace);
}

}  // namespace flame::optim
