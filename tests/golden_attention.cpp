// How the golden loop calls attention, rope and the norms beside layer and batch norm.
#include "tests/support/golden.h"

namespace flame::test {
namespace {

using In = const std::vector<Tensor>&;
using O = const Json&;
using Out = std::vector<Tensor>;

const AddGoldenCalls calls([](GoldenCalls& f) {
  f["scaled_dot_product_attention"] = [](In in, O o) {
    AttentionOptions a{
        .mask = at(in, 3), .causal = o.value("causal", false), .grouped_query = o.value("grouped_query", false)};
    if (o.contains("scale")) a.scale = o["scale"].get<double>();
    return Out{scaled_dot_product_attention(in[0], in[1], in[2], a)};
  };
  f["rope"] = [](In in, O o) {
    return Out{rope(in[0], {.base = o.value("base", 10000.0),
                            .offset = o.value("offset", int64_t{0}),
                            .positions = at(in, 1),
                            .interleaved = o.value("interleaved", false),
                            .dims = o.value("dims", int64_t{0})})};
  };
  f["rms_norm"] = [](In in, O o) {
    const std::optional<double> eps = o.contains("eps") ? std::optional(o["eps"].get<double>()) : std::nullopt;
    return Out{rms_norm(in[0], dims_of(o["normalized"]), at(in, 1), eps)};
  };
  f["group_norm"] = [](In in, O o) { return Out{group_norm(in[0], o["groups"], at(in, 1), at(in, 2))}; };
  f["instance_norm"] = [](In in, O o) {
    const State mean(in[1]), var(in[2]);
    const Tensor y = instance_norm(
        in[0], mean, var, at(in, 3), at(in, 4),
        {.use_input_stats = o.value("use", true), .momentum = o.value("momentum", 0.1), .eps = o.value("eps", 1e-5)});
    return Out{y, mean.tensor(), var.tensor()};
  };
  f["normalize"] = [](In in, O o) {
    return Out{normalize(in[0], {.p = o.contains("p") ? number_of(o["p"]) : 2, .axis = o.value("axis", int64_t{1})})};
  };
  f["local_response_norm"] = [](In in, O o) {
    return Out{local_response_norm(
        in[0],
        {.size = o["size"], .alpha = o.value("alpha", 1e-4), .beta = o.value("beta", 0.75), .k = o.value("k", 1.0)})};
  };
});

}  // namespace
}  // namespace flame::test
