// How the golden loop calls scans, and reductions with more than one result or an order.
#include "tests/support/golden.h"

namespace flame::test {
namespace {

using In = const std::vector<Tensor>&;
using O = const Json&;
using Out = std::vector<Tensor>;

Out both(const ValuesAndIndices& r) { return {r.values, r.indices}; }
VarOptions var_options(O o) { return {.correction = o.value("correction", 1.0), .keepdim = o.value("keepdim", false)}; }

const AddGoldenCalls calls([](GoldenCalls& f) {
  f["cumsum"] = [](In in, O o) { return Out{cumsum(in[0], o["axis"])}; };
  f["cumprod"] = [](In in, O o) { return Out{cumprod(in[0], o["axis"])}; };
  f["logcumsumexp"] = [](In in, O o) { return Out{logcumsumexp(in[0], o["axis"])}; };
  f["cummax"] = [](In in, O o) { return both(cummax(in[0], o["axis"])); };
  f["cummin"] = [](In in, O o) { return both(cummin(in[0], o["axis"])); };
  f["norm"] = [](In in, O o) {
    const double p = std::stod(o.value("p", "2"));
    return Out{norm(in[0], axes_of(o), {.p = p, .keepdim = o.value("keepdim", false)})};
  };
  f["nansum"] = [](In in, O o) { return Out{nansum(in[0], axes_of(o), o.value("keepdim", false))}; };
  f["nanmean"] = [](In in, O o) { return Out{nanmean(in[0], axes_of(o), o.value("keepdim", false))}; };
  f["count_nonzero"] = [](In in, O o) {
    return Out{count_nonzero(o.value("round", false) ? round(in[0]) : in[0], axes_of(o))};
  };
  f["var_mean"] = [](In in, O o) {
    const VarMean r = var_mean(in[0], axes_of(o), var_options(o));
    return Out{r.var, r.mean};
  };
  f["std_mean"] = [](In in, O o) {
    const StdMean r = std_mean(in[0], axes_of(o), var_options(o));
    return Out{r.std, r.mean};
  };
});

}  // namespace
}  // namespace flame::test
