// How the golden loop calls einsum, the named products and diagonals.
#include "tests/support/golden.h"

namespace flame::test {
namespace {

using In = const std::vector<Tensor>&;
using O = const Json&;
using Out = std::vector<Tensor>;

const AddGoldenCalls calls([](GoldenCalls& f) {
  f["einsum"] = [](In in, O o) { return Out{einsum(o["equation"].get<std::string>(), in)}; };
  const std::pair<const char*, Tensor (*)(const Tensor&, const Tensor&, Loc)> pairs[] = {
      {"dot", dot}, {"vdot", vdot}, {"inner", inner}, {"outer", outer},
      {"mv", mv},   {"mm", mm},     {"bmm", bmm},     {"kron", kron}};
  for (const auto& [name, fn] : pairs) f[name] = [fn](In in, O) { return Out{fn(in[0], in[1], Loc::current())}; };
  f["cross"] = [](In in, O o) { return Out{cross(in[0], in[1], o["axis"])}; };
  using Added = Tensor (*)(const Tensor&, const Tensor&, const Tensor&, const AddProductOptions&, Loc);
  const std::pair<const char*, Added> sums[] = {
      {"addmm", addmm}, {"addmv", addmv}, {"addr", addr}, {"baddbmm", baddbmm}, {"addbmm", addbmm}};
  for (const auto& [name, fn] : sums)
    f[name] = [fn](In in, O o) {
      const auto number = [&](const char* key) {
        if (!o.contains(key)) return Scalar(1);
        return o[key].is_number_integer() ? Scalar(o[key].get<int64_t>()) : Scalar(o[key].get<double>());
      };
      const AddProductOptions options{.beta = number("beta"), .alpha = number("alpha")};
      if (!o.contains("nan")) return Out{fn(in[0], in[1], in[2], options, Loc::current())};
      return Out{fn(full(dims_of(o["nan"]), std::nan(""), in[0].dtype()), in[0], in[1], options, Loc::current())};
    };
  f["tensordot"] = [](In in, O o) {
    if (o.contains("count")) return Out{tensordot(in[0], in[1], o["count"].get<int64_t>())};
    return Out{tensordot(in[0], in[1], dims_of(o["a"]), dims_of(o["b"]))};
  };
  f["diag_embed"] = [](In in, O o) {
    return Out{diag_embed(in[0], {.offset = o["offset"], .axis1 = o["axes"][0], .axis2 = o["axes"][1]})};
  };
  f["diag"] = [](In in, O o) { return Out{diag(in[0], o["offset"].get<int64_t>())}; };
  f["trace"] = [](In in, O) { return Out{trace(in[0])}; };
});

}  // namespace
}  // namespace flame::test
