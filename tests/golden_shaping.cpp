// How the golden loop calls creations like others, and the ops that rearrange: parts, repetitions, padding, diagonals.
#include "tests/support/golden.h"

namespace flame::test {
namespace {

using In = const std::vector<Tensor>&;
using O = const Json&;
using Out = std::vector<Tensor>;

std::vector<int64_t> list_of(O o) { return o.get<std::vector<int64_t>>(); }
DiagonalOptions diagonal_of(O o) {
  const std::vector<int64_t> d = list_of(o["diagonal"]);
  return {.offset = d[0], .axis1 = d[1], .axis2 = d[2]};
}
PadMode mode_of(O o) {
  const std::map<std::string, PadMode> modes{{"constant", PadMode::constant},
                                             {"reflect", PadMode::reflect},
                                             {"replicate", PadMode::replicate},
                                             {"circular", PadMode::circular}};
  return modes.at(o["mode"]);
}

const AddGoldenCalls calls([](GoldenCalls& f) {
  f["split"] = [](In in, O o) {
    const auto axis = o["axis"].get<int64_t>();
    return o.contains("size") ? split(in[0], o["size"].get<int64_t>(), axis) : split(in[0], dims_of(o["sizes"]), axis);
  };
  f["chunk"] = [](In in, O o) { return chunk(in[0], o["count"], o["axis"]); };
  f["movedim"] = [](In in, O o) { return Out{movedim(in[0], dims_of(o["from"]), dims_of(o["to"]))}; };
  f["unflatten"] = [](In in, O o) { return Out{unflatten(in[0], o["axis"], dims_of(o["sizes"]))}; };
  f["squeeze"] = [](In in, O o) {
    if (o.contains("all")) return Out{in[0].squeeze()};
    return Out{o.contains("axes") ? in[0].squeeze(dims_of(o["axes"])) : in[0].squeeze(o["axis"].get<int64_t>())};
  };
  f["repeat"] = [](In in, O o) { return Out{repeat(in[0], dims_of(o["counts"]))}; };
  f["tile"] = [](In in, O o) { return Out{tile(in[0], dims_of(o["counts"]))}; };
  f["roll"] = [](In in, O o) { return Out{roll(in[0], dims_of(o["shifts"]), dims_of(o["axes"]))}; };
  f["pad"] = [](In in, O o) {
    return Out{pad(in[0], list_of(o["sizes"]), {.mode = mode_of(o), .value = number_of(o.value("value", Json(0.0)))})};
  };
  f["diagonal"] = [](In in, O o) { return Out{diagonal(in[0], diagonal_of(o))}; };
  f["diagonal_scatter"] = [](In in, O o) { return Out{diagonal_scatter(in[0], dims_of(o["shape"]), diagonal_of(o))}; };
  f["tril"] = [](In in, O o) { return Out{tril(in[0], o["diagonal"])}; };
  f["triu"] = [](In in, O o) { return Out{triu(in[0], o["diagonal"])}; };

  f["zeros_like"] = [](In in, O) { return Out{zeros_like(in[0])}; };
  f["ones_like"] = [](In in, O) { return Out{ones_like(in[0])}; };
  f["full_like"] = [](In in, O o) { return Out{full_like(in[0], number_of(o["value"]))}; };
  const auto drawn = [&f](const char* name, auto draw) {
    f[name] = [draw](In in, O o) {
      Generator g(o["seed"].get<uint64_t>());
      return Out{draw(in, o, &g)};
    };
  };
  drawn("rand_like", [](In in, O, Generator* g) { return rand_like(in[0], {.generator = g}); });
  drawn("randn_like", [](In in, O, Generator* g) { return randn_like(in[0], {.generator = g}); });
  drawn("randint_like",
        [](In in, O o, Generator* g) { return randint_like(in[0], o["low"], o["high"], {.generator = g}); });
  drawn("truncated_normal", [](In, O o, Generator* g) {
    const Json& n = o["normal"];
    return truncated_normal(dims_of(o["shape"]), {number_of(n[0]), number_of(n[1]), number_of(n[2]), number_of(n[3])},
                            {.dtype = dtype_named(o["float"]), .generator = g});
  });
});

}  // namespace
}  // namespace flame::test
