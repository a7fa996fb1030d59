// How the golden loop calls max_unpool.
#include "tests/support/golden.h"

namespace flame::test {
namespace {

template <int axes>
PerAxis<axes> each(const Dims& d) {
  if constexpr (axes == 1) return d[0];
  else if constexpr (axes == 2) return {d[0], d[1]};
  else return {d[0], d[1], d[2]};
}
template <int axes>
void add(GoldenCalls& f, const char* name,
         Tensor (*fn)(const Tensor&, const Tensor&, const MaxUnpoolOptions<axes>&, Loc)) {
  f[name] = [fn](const std::vector<Tensor>& in, const Json& o) {
    MaxUnpoolOptions<axes> options{.kernel = o["kernel"].get<int64_t>(),
                                   .stride = o.value("stride", int64_t{0}),
                                   .padding = o.value("padding", int64_t{0})};
    if (o.contains("output_size")) options.output_size = each<axes>(dims_of(o["output_size"]));
    return std::vector<Tensor>{fn(in[0], in[1], options, Loc::current())};
  };
}

const AddGoldenCalls calls([](GoldenCalls& f) {
  add<1>(f, "max_unpool1d", max_unpool1d);
  add<2>(f, "max_unpool2d", max_unpool2d);
  add<3>(f, "max_unpool3d", max_unpool3d);
});

}  // namespace
}  // namespace flame::test
