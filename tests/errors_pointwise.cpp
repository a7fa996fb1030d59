// Mistakes of pointwise ops: every row of fuse/pointwise.def is called with each that its arity and dtypes allow.
#include "tests/support/error_table.h"
#include "tests/trace_device.h"

namespace flame::test {
namespace {

enum class In : uint8_t { any, number, floating, integral, select };
struct Row {
  const char* name;
  int arity;
  In in;
  Tensor (*call)(const Tensor& a, const Tensor& b, const Tensor& c, Loc loc);
  Tensor (*of_numbers)(Loc loc);  // null for ops of one input, which take no number
};
#define FLAME_CALL_1(name) \
  [](const Tensor& a, const Tensor&, const Tensor&, Loc loc) { return flame::name(a, loc); }, nullptr
#define FLAME_CALL_2(name)                                                                         \
  [](const Tensor& a, const Tensor& b, const Tensor&, Loc loc) { return flame::name(a, b, loc); }, \
      [](Loc loc) { return flame::name(1, 2, loc); }
#define FLAME_CALL_3(name)                                                                              \
  [](const Tensor& a, const Tensor& b, const Tensor& c, Loc loc) { return flame::name(a, b, c, loc); }, \
      [](Loc loc) { return flame::name(1, 2, 3, loc); }
const Row rows[] = {
#define FLAME_POINTWISE(name, arity, in, ...) {#name, arity, In::in, FLAME_CALL_##arity(name)},
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
};
#undef FLAME_CALL_1
#undef FLAME_CALL_2
#undef FLAME_CALL_3

// An input that the row takes.
Tensor good(const Row& row, int i, const Shape& shape, Device& d = cpu()) {
  const DType t = row.in == In::integral ? DType::i32 : row.in == In::select && i == 0 ? DType::boolean : DType::f32;
  return full(shape, 1, t, d);
}
Tensor call(const Row& row, int wrong, const Tensor& x) {
  Tensor in[3];
  for (int i = 0; i < row.arity; ++i) in[i] = i == wrong ? x : good(row, i, {2, 3});
  return row.call(in[0], in[1], in[2], Loc::current());  // the table has no lines of its own
}

const AddErrors rows_of_the_table([] {
  for (const Row& row : rows) {
    const std::string name = row.name;
    for (int i = 0; i < row.arity; ++i) {
      expect_error<ValueError>(name, Mistake::option, name + ": input " + std::to_string(i) + " is undefined",
                               [&row, i] { call(row, i, Tensor()); });
      if (row.arity == 1) continue;
      expect_error<ShapeError>(name, Mistake::shape, "do not broadcast",
                               [&row, i] { call(row, i, good(row, i, {4})); });
      expect_error<ShapeError>(name, Mistake::rank, "[5, 2, 2]", [&row, i] { call(row, i, good(row, i, {5, 2, 2})); });
      expect_error<ShapeError>(name, Mistake::empty, "[0]", [&row, i] { call(row, i, good(row, i, {0})); });
      expect_error<DeviceError>(name, Mistake::device, "trace", [&row, i] {
        call(row, i, good(row, i, {2, 3}, trace_device()));
      });
    }
    if (row.in == In::number)
      expect_error<DTypeError>(name, Mistake::dtype, name + ": expected a number dtype, got bool", [&row] {
        const Tensor b = full({2, 3}, true, DType::boolean);
        row.call(b, b, b, Loc::current());
      });
    if (row.in == In::integral)
      for (int i = 0; i < row.arity; ++i)
        expect_error<DTypeError>(name, Mistake::dtype, name + ": expected bool or an integer dtype, got float32",
                                 [&row, i] {
                                   call(row, i, full({2, 3}, 1.5));
                                 });
    if (row.in == In::select)
      expect_error<DTypeError>(name, Mistake::dtype, name + ": expected a bool condition, got float32", [&row] {
        call(row, 0, full({2, 3}, 1));
      });
    if (row.of_numbers)
      expect_error<ValueError>(name, Mistake::option, name + ": expected at least one tensor",
                               [&row] { row.of_numbers(Loc::current()); });
  }
});

}  // namespace
}  // namespace flame::test
