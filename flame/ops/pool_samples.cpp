// Sample inputs of the pools for the registry suite: every option, layout and rank, no pictures.
#include "flame/ops/pool.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

using namespace samples;
using Inputs = std::vector<Tensor>;

// Distinct values, so that no maximum has a rival within a difference quotient's step.
Tensor distinct(const Shape& s, DType t) {
  std::vector<double> v(static_cast<size_t>(numel(s)));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>((i * 37 + 11) % 101) / 32 - 1.5;
  return Tensor::from(v, s).to(t);
}
Tensor distinct_channels_last(const Shape& s, DType t) {
  return distinct({s[0], s[2], s[3], s[1]}, t).permute({0, 3, 1, 2});
}

// Samples of a pool `fn(x, options)`; a case says which options and for which x.
template <class O>
struct Case {
  O options;
  Tensor x;
  const char* label;
};
template <class O>
std::vector<SampleCase> samples_of(Tensor (*fn)(const Tensor&, const O&, Loc), const std::vector<Case<O>>& cases) {
  std::vector<SampleCase> out;
  for (const Case<O>& c : cases)
    out.push_back(
        {{c.x}, [fn, o = c.options](const Inputs& in) { return Inputs{fn(in[0], o, Loc::current())}; }, c.label});
  return out;
}

std::string max_signature(const char* name) {
  return std::string(name) + "(x, {.kernel, .stride = kernel, .padding = 0, .dilation = 1, .ceil_mode = false})";
}
std::string avg_signature(const char* name) {
  return std::string(name) +
         "(x, {.kernel, .stride = kernel, .padding = 0, .ceil_mode = false, .count_include_pad = "
         "true, .divisor_override = 0})";
}
constexpr const char* max_formula =
    "out[n, c, i, ...] = max over r, ... of x[n, c, i stride + r dilation - padding, ...]";
constexpr const char* avg_formula = "out[n, c, i, ...] = mean over r, ... of x[n, c, i stride + r - padding, ...]";

const RegisterOp max_1d({
    .name = "max_pool1d",
    .signature = max_signature("max_pool1d"),
    .formula = max_formula,
    .samples =
        [](DType t) {
          return samples_of<MaxPool1dOptions>(
              max_pool1d, {{{.kernel = 2}, distinct({2, 3, 6}, t), "plain"},
                           {{.kernel = 3, .stride = 2, .padding = 1, .dilation = 2}, distinct({3, 9}, t), "no batch"},
                           {{.kernel = 2, .ceil_mode = true}, distinct({1, 5, 3}, t).t(), "ceil mode, transposed"},
                           {{.kernel = 2}, distinct({0, 3, 4}, t), "no sequences"}});
        },
});
const RegisterOp max_2d({
    .name = "max_pool2d",
    .signature = max_signature("max_pool2d"),
    .formula = max_formula,
    .samples =
        [](DType t) {
          return samples_of<MaxPool2dOptions>(
              max_pool2d,
              {{{.kernel = 2}, distinct({2, 3, 4, 4}, t), "plain"},
               {{.kernel = 2}, distinct_channels_last({2, 3, 4, 4}, t), "channels-last"},
               {{.kernel = 3, .stride = {2, 1}, .padding = 1},
                distinct_channels_last({1, 3, 5, 4}, t),
                "overlap, channels-last"},
               {{.kernel = {3, 2}, .stride = 1, .padding = {1, 0}}, distinct({1, 2, 5, 6}, t), "overlap, padding"},
               {{.kernel = 2, .stride = {1, 2}, .padding = {1, 0}, .dilation = {2, 1}},
                distinct({1, 2, 6, 4}, t).t(),
                "dilation, transposed"},
               {{.kernel = 2, .stride = 3}, distinct({1, 2, 5, 5}, t), "stride over kernel"},
               {{.kernel = 2, .ceil_mode = true}, distinct({1, 2, 5, 5}, t), "ceil mode"},
               {{.kernel = {1, 2}}, distinct({2, 3, 4}, t), "no batch"},
               {{.kernel = 1}, distinct({1, 3, 1, 1}, t), "one pixel"},
               {{.kernel = 2}, distinct({0, 3, 4, 4}, t), "no pictures"}});
        },
});
const RegisterOp max_3d({
    .name = "max_pool3d",
    .signature = max_signature("max_pool3d"),
    .formula = max_formula,
    .samples =
        [](DType t) {
          const Tensor last = distinct({1, 4, 3, 4, 2}, t).permute({0, 4, 1, 2, 3});
          return samples_of<MaxPool3dOptions>(
              max_pool3d, {{{.kernel = 2}, distinct({1, 3, 2, 4, 4}, t), "plain"},
                           {{.kernel = {3, 2, 2}, .stride = {2, 1, 2}, .padding = 1}, last, "overlap, channels-last"},
                           {{.kernel = 2, .stride = 1, .padding = {0, 1, 1}, .dilation = {1, 2, 2}, .ceil_mode = true},
                            distinct({2, 3, 4, 3}, t),
                            "no batch, dilation"},
                           {{.kernel = 2}, distinct({0, 3, 2, 2, 2}, t), "no volumes"}});
        },
});

const RegisterOp avg_1d({
    .name = "avg_pool1d",
    .signature = avg_signature("avg_pool1d"),
    .formula = avg_formula,
    .samples =
        [](DType t) {
          return samples_of<AvgPool1dOptions>(
              avg_pool1d,
              {{{.kernel = 2}, uniform({2, 3, 6}, t), "plain"},
               {{.kernel = 3, .stride = 2, .padding = 1, .count_include_pad = false}, strided({3, 7}, t), "no batch"},
               {{.kernel = 3, .stride = 2, .padding = 1, .ceil_mode = true}, transposed({1, 2, 6}, t), "ceil mode"},
               {{.kernel = 2}, uniform({0, 3, 4}, t), "no sequences"}});
        },
});
const RegisterOp avg_2d({
    .name = "avg_pool2d",
    .signature = avg_signature("avg_pool2d"),
    .formula = avg_formula,
    .samples =
        [](DType t) {
          return samples_of<AvgPool2dOptions>(
              avg_pool2d,
              {{{.kernel = 2}, uniform({2, 3, 4, 4}, t), "plain"},
               {{.kernel = {2, 3}, .stride = 1}, channels_last({2, 3, 4, 5}, t), "overlap, channels-last"},
               {{.kernel = 3, .stride = 2, .padding = 1, .count_include_pad = false},
                channels_last({1, 2, 5, 5}, t),
                "padding not counted"},
               {{.kernel = 3, .stride = {2, 1}, .padding = 1}, strided({1, 2, 5, 4}, t), "padding, strided"},
               {{.kernel = 2, .stride = 3}, transposed({1, 2, 4, 6}, t), "stride over kernel, transposed"},
               {{.kernel = 2, .ceil_mode = true}, uniform({1, 2, 5, 5}, t), "ceil mode"},
               {{.kernel = 3, .stride = 2, .padding = 1, .ceil_mode = true},
                uniform({1, 2, 5, 6}, t),
                "ceil mode, padding"},
               {{.kernel = 2, .padding = 1, .divisor_override = 3}, uniform({2, 3, 4}, t), "no batch, own divisor"},
               {{.kernel = 1}, uniform({2, 1, 1, 1}, t), "one pixel"},
               {{.kernel = 2}, uniform({0, 2, 4, 4}, t), "no pictures"}});
        },
});
const RegisterOp avg_3d({
    .name = "avg_pool3d",
    .signature = avg_signature("avg_pool3d"),
    .formula = avg_formula,
    .samples =
        [](DType t) {
          const Tensor last = uniform({1, 4, 3, 4, 2}, t).permute({0, 4, 1, 2, 3});
          return samples_of<AvgPool3dOptions>(
              avg_pool3d, {{{.kernel = 2}, uniform({1, 3, 2, 4, 4}, t), "plain"},
                           {{.kernel = {3, 2, 2}, .stride = {2, 1, 2}, .padding = 1}, last, "overlap, channels-last"},
                           {{.kernel = 3, .stride = 2, .padding = 1, .ceil_mode = true, .count_include_pad = false},
                            strided({2, 4, 3, 3}, t),
                            "no batch, ceil mode"},
                           {{.kernel = 2, .divisor_override = 5}, uniform({1, 1, 2, 3, 2}, t), "own divisor"},
                           {{.kernel = 2}, uniform({0, 3, 2, 2, 2}, t), "no volumes"}});
        },
});

constexpr const char* adaptive_max_formula =
    "out[n, c, i, ...] = max of x[n, c, floor(i H / H') to ceil((i + 1) H / H') - 1, ...]";
constexpr const char* adaptive_avg_formula =
    "out[n, c, i, ...] = mean of x[n, c, floor(i H / H') to ceil((i + 1) H / H') - 1, ...]";

// Even and ragged windows, more results than elements, one window, an axis as it is, no batch, no pictures.
template <int axes>
std::vector<SampleCase> adaptive_samples(Tensor (*fn)(const Tensor&, const PerAxis<axes>&, Loc), DType t) {
  const auto shaped = [](Shape s) {  // [N, C, H, W] with the axes wanted
    while (s.rank() > axes + 2) s.erase(2);
    while (s.rank() < axes + 2) s.insert(2, 3);
    return s;
  };
  Shape one = shaped({1, 3, 5, 4});
  one.erase(0);
  std::vector<Case<PerAxis<axes>>> cases{{2, distinct(shaped({2, 3, 6, 4}), t), "ragged or even"},
                                         {3, strided(shaped({1, 2, 5, 7}), t), "ragged"},
                                         {5, distinct(shaped({1, 2, 2, 3}), t), "more results than elements"},
                                         {1, distinct(one, t), "one window, no batch"},
                                         {keep_size, distinct(shaped({1, 2, 2, 3}), t), "as it is"},
                                         {2, distinct(shaped({0, 3, 4, 4}), t), "no pictures"}};
  if constexpr (axes == 2) {
    cases.push_back({{keep_size, 2}, distinct_channels_last({2, 3, 2, 5}, t), "channels-last, one axis"});
    cases.push_back({{0, 2}, distinct({1, 2, 2, 4}, t), "no results"});
  }
  return samples_of<PerAxis<axes>>(fn, cases);
}

const RegisterOp adaptive_max_1d({.name = "adaptive_max_pool1d",
                                  .signature = "adaptive_max_pool1d(x, output_size)",
                                  .formula = adaptive_max_formula,
                                  .samples = [](DType t) { return adaptive_samples<1>(adaptive_max_pool1d, t); }});
const RegisterOp adaptive_max_2d({.name = "adaptive_max_pool2d",
                                  .signature = "adaptive_max_pool2d(x, output_size)",
                                  .formula = adaptive_max_formula,
                                  .samples = [](DType t) { return adaptive_samples<2>(adaptive_max_pool2d, t); }});
const RegisterOp adaptive_max_3d({.name = "adaptive_max_pool3d",
                                  .signature = "adaptive_max_pool3d(x, output_size)",
                                  .formula = adaptive_max_formula,
                                  .samples = [](DType t) { return adaptive_samples<3>(adaptive_max_pool3d, t); }});
const RegisterOp adaptive_avg_1d({.name = "adaptive_avg_pool1d",
                                  .signature = "adaptive_avg_pool1d(x, output_size)",
                                  .formula = adaptive_avg_formula,
                                  .samples = [](DType t) { return adaptive_samples<1>(adaptive_avg_pool1d, t); }});
const RegisterOp adaptive_avg_2d({.name = "adaptive_avg_pool2d",
                                  .signature = "adaptive_avg_pool2d(x, output_size)",
                                  .formula = adaptive_avg_formula,
                                  .samples = [](DType t) { return adaptive_samples<2>(adaptive_avg_pool2d, t); }});
const RegisterOp adaptive_avg_3d({.name = "adaptive_avg_pool3d",
                                  .signature = "adaptive_avg_pool3d(x, output_size)",
                                  .formula = adaptive_avg_formula,
                                  .samples = [](DType t) { return adaptive_samples<3>(adaptive_avg_pool3d, t); }});

}  // namespace
}  // namespace flame
