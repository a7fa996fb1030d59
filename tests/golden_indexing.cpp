// How the golden loop calls x.index, x.set, masks, and reading and writing along an axis.
#include "tests/support/golden.h"

namespace flame::test {
namespace {

using In = const std::vector<Tensor>&;
using O = const Json&;
using Out = std::vector<Tensor>;

std::optional<int64_t> maybe(O o) {
  if (o.is_null()) return {};
  return o.get<int64_t>();
}
std::vector<Index> entries(In in, O o) {
  std::vector<Index> at;
  for (const Json& e : o["at"]) {
    if (e.is_null()) at.emplace_back(new_axis);
    else if (e.is_string()) at.emplace_back(ellipsis);
    else if (e.is_boolean()) at.emplace_back(e.get<bool>());
    else if (e.is_number()) at.emplace_back(e.get<int64_t>());
    else if (e.contains("tensor")) at.emplace_back(in[e["tensor"].get<size_t>()]);
    else at.emplace_back(Slice{maybe(e["slice"][0]), maybe(e["slice"][1]), e["slice"][2].get<int64_t>()});
  }
  return at;
}
// The number of the options, or else input i.
template <class F>
Out with_number(In in, O o, size_t i, F&& fn) {
  return o.contains("number") ? Out{fn(Arg(number_of(o["number"])))} : Out{fn(Arg(in[i]))};
}
ScatterReduce reduce_of(O o) {
  const std::map<std::string, ScatterReduce> all{{"sum", ScatterReduce::sum},
                                                 {"prod", ScatterReduce::prod},
                                                 {"mean", ScatterReduce::mean},
                                                 {"amax", ScatterReduce::amax},
                                                 {"amin", ScatterReduce::amin}};
  return all.at(o["reduce"]);
}

const AddGoldenCalls calls([](GoldenCalls& f) {
  f["index"] = [](In in, O o) { return Out{in[0].index(entries(in, o))}; };
  f["set"] = [](In in, O o) {
    return Out{in[0].set(entries(in, o), in[o["value"].get<size_t>()], {.accumulate = o.value("accumulate", false)})};
  };
  f["nonzero"] = [](In in, O) { return Out{nonzero(in[0])}; };
  f["masked_select"] = [](In in, O) { return Out{masked_select(in[0], in[1])}; };
  f["masked_fill"] = [](In in, O o) {
    return with_number(in, o, 2, [&](const Arg& v) { return masked_fill(in[0], in[1], v); });
  };
  f["take_along_dim"] = [](In in, O o) {
    return Out{o.contains("axis") ? take_along_dim(in[0], in[1], o["axis"].get<int64_t>())
                                  : take_along_dim(in[0], in[1])};
  };
  f["embedding"] = [](In in, O o) {
    if (!o.contains("padding")) return Out{embedding(in[0], in[1])};
    return Out{embedding(in[0], in[1], {.padding_idx = o["padding"].get<int64_t>()})};
  };
  f["scatter"] = [](In in, O o) {
    return with_number(in, o, 2, [&](const Arg& v) { return scatter(in[0], o["axis"], in[1], v); });
  };
  f["scatter_reduce"] = [](In in, O o) {
    return Out{
        scatter_reduce(in[0], o["axis"], in[1], in[2], reduce_of(o), {.include_self = o["include_self"].get<bool>()})};
  };
  f["index_add"] = [](In in, O o) {
    return Out{index_add(in[0], o["axis"], in[1], in[2], {.alpha = o["alpha"].get<double>()})};
  };
  f["index_copy"] = [](In in, O o) { return Out{index_copy(in[0], o["axis"], in[1], in[2])}; };
  f["index_fill"] = [](In in, O o) {
    return with_number(in, o, 2, [&](const Arg& v) { return index_fill(in[0], o["axis"], in[1], v); });
  };
});

}  // namespace
}  // namespace flame::test
