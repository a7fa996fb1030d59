// How the golden loop calls extremes with their places, and whatever sorts.
#include "tests/support/golden.h"

namespace flame::test {
namespace {

using In = const std::vector<Tensor>&;
using O = const Json&;
using Out = std::vector<Tensor>;

Out both(const ValuesAndIndices& r) { return {r.values, r.indices}; }

const AddGoldenCalls calls([](GoldenCalls& f) {
  f["max"] = [](In in, O o) {
    return o.contains("axis") ? both(max(in[0], o["axis"].get<int64_t>(), o.value("keepdim", false))) : Out{max(in[0])};
  };
  f["min"] = [](In in, O o) {
    return o.contains("axis") ? both(min(in[0], o["axis"].get<int64_t>(), o.value("keepdim", false))) : Out{min(in[0])};
  };
  f["aminmax"] = [](In in, O o) {
    const MinMax r = aminmax(in[0], axes_of(o), o.value("keepdim", false));
    return Out{r.min, r.max};
  };
  f["sort"] = [](In in, O o) { return both(sort(in[0], {.axis = o["axis"], .descending = o["descending"]})); };
  f["argsort"] = [](In in, O o) { return Out{argsort(in[0], {.axis = o["axis"], .descending = o["descending"]})}; };
  f["topk"] = [](In in, O o) { return both(topk(in[0], o["k"], {.axis = o["axis"], .largest = o["largest"]})); };
  f["kthvalue"] = [](In in, O o) { return both(kthvalue(in[0], o["k"], o["axis"], o.value("keepdim", false))); };
  f["median"] = [](In in, O o) {
    if (!o.contains("axis")) return Out{median(in[0])};
    return both(median(in[0], o["axis"].get<int64_t>(), o.value("keepdim", false)));
  };
  f["searchsorted"] = [](In in, O o) { return Out{searchsorted(in[0], in[1], {.right = o["right"]})}; };
  f["bucketize"] = [](In in, O o) { return Out{bucketize(in[0], in[1], {.right = o["right"]})}; };
});

}  // namespace
}  // namespace flame::test
