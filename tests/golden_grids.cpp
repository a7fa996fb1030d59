// How the golden loop calls grid_sample and unique.
#include "tests/support/golden.h"

namespace flame::test {
namespace {

const AddGoldenCalls calls([](GoldenCalls& f) {
  f["unique"] = [](const std::vector<Tensor>& in, const Json&) {
    const Unique u = unique(in[0]);
    return std::vector<Tensor>{u.values, u.inverse, u.counts};
  };
  f["grid_sample"] = [](const std::vector<Tensor>& in, const Json& o) {
    const std::string padding = o.value("padding_mode", "zeros");
    return std::vector<Tensor>{
        grid_sample(in[0], in[1],
                    {.mode = o.value("mode", "bilinear") == "nearest" ? GridMode::nearest : GridMode::bilinear,
                     .padding_mode = padding == "zeros"    ? GridPadding::zeros
                                     : padding == "border" ? GridPadding::border
                                                           : GridPadding::reflection,
                     .align_corners = o.value("align_corners", false)})};
  };
});

}  // namespace
}  // namespace flame::test
