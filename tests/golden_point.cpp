// How the golden cases of composed elementwise functions, activations, losses and distances call FLAME.
#include "tests/support/golden.h"

namespace flame::test {
namespace {

using In = const std::vector<Tensor>&;
using O = const Json&;
using Out = std::vector<Tensor>;

double number_at(O o, const char* key, double otherwise) { return o.contains(key) ? number_of(o[key]) : otherwise; }

const AddGoldenCalls elementwise([](GoldenCalls& f) {
  f["addcmul"] = [](In in, O o) { return Out{addcmul(in[0], in[1], in[2], {.value = o.value("value", 1.0)})}; };
  f["addcdiv"] = [](In in, O o) { return Out{addcdiv(in[0], in[1], in[2], {.value = o.value("value", 1.0)})}; };
  f["nan_to_num"] = [](In in, O o) {
    NanToNumOptions options{.nan = o.value("nan", 0.0)};
    if (o.contains("posinf")) options.posinf = o["posinf"].get<double>();
    if (o.contains("neginf")) options.neginf = o["neginf"].get<double>();
    return Out{nan_to_num(in[0], options)};
  };
  f["logit"] = [](In in, O o) { return Out{o.contains("eps") ? logit(in[0], o["eps"].get<double>()) : logit(in[0])}; };
  f["isclose"] = [](In in, O o) {
    return Out{isclose(
        in[0], in[1],
        {.rtol = o.value("rtol", 1e-5), .atol = o.value("atol", 1e-8), .equal_nan = o.value("equal_nan", false)})};
  };

  f["prelu"] = [](In in, O) { return Out{prelu(in[0], in[1])}; };
  f["softplus with options"] = [](In in, O o) {
    const SoftplusOptions options{.beta = o["beta"].get<double>(), .threshold = o["threshold"].get<double>()};
    return Out{softplus(in[0], options)};
  };
  f["glu"] = [](In in, O o) { return Out{glu(in[0], o["axis"].get<int64_t>())}; };
  f["swiglu"] = [](In in, O o) { return Out{swiglu(in[0], o["axis"].get<int64_t>())}; };
  f["geglu"] = [](In in, O o) {
    return Out{
        geglu(in[0], o["axis"].get<int64_t>(), o.contains("approximate") ? Approximate::tanh : Approximate::none)};
  };
});

const AddGoldenCalls losses([](GoldenCalls& f) {
  f["smooth_l1_loss"] = [](In in, O o) {
    return Out{smooth_l1_loss(in[0], in[1], {.beta = o.value("beta", 1.0), .reduction = reduction_of(o)})};
  };
  f["huber_loss"] = [](In in, O o) {
    return Out{huber_loss(in[0], in[1], {.delta = o.value("delta", 1.0), .reduction = reduction_of(o)})};
  };
  f["bce"] = [](In in, O o) { return Out{bce(in[0], in[1], {.weight = at(in, 2), .reduction = reduction_of(o)})}; };
  f["kl_div"] = [](In in, O o) {
    const Reduction r = o.value("reduction", "mean") == "batchmean" ? Reduction::batch_mean : reduction_of(o);
    return Out{kl_div(in[0], in[1], {.log_target = o.value("log_target", false), .reduction = r})};
  };
  f["poisson_nll_loss"] = [](In in, O o) {
    return Out{poisson_nll_loss(
        in[0], in[1],
        {.log_input = o.value("log_input", true), .full = o.value("full", false), .reduction = reduction_of(o)})};
  };
  f["gaussian_nll_loss"] = [](In in, O o) {
    return Out{
        gaussian_nll_loss(in[0], in[1], in[2],
                          {.full = o.value("full", false), .eps = o.value("eps", 1e-6), .reduction = reduction_of(o)})};
  };
  f["cosine_similarity"] = [](In in, O o) { return Out{cosine_similarity(in[0], in[1], o["axis"].get<int64_t>())}; };
  f["pairwise_distance"] = [](In in, O o) {
    return Out{pairwise_distance(in[0], in[1], {.p = number_at(o, "p", 2.0), .keepdim = o.value("keepdim", false)})};
  };
  f["cosine_embedding_loss"] = [](In in, O o) {
    return Out{
        cosine_embedding_loss(in[0], in[1], in[2], {.margin = o.value("margin", 0.0), .reduction = reduction_of(o)})};
  };
  f["linear_cross_entropy"] = [](In in, O o) {
    return Out{linear_cross_entropy(in[0], in[1], in[2],
                                    {.label_smoothing = o.value("label_smoothing", 0.0),
                                     .reduction = reduction_of(o),
                                     .rows = o.value("rows", int64_t{0})})};
  };
  f["triplet_margin_loss"] = [](In in, O o) {
    return Out{triplet_margin_loss(in[0], in[1], in[2],
                                   {.margin = o.value("margin", 1.0),
                                    .p = number_at(o, "p", 2.0),
                                    .swap = o.value("swap", false),
                                    .reduction = reduction_of(o)})};
  };
});

}  // namespace
}  // namespace flame::test
