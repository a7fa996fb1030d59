// Parts of a tensor as views with one joint gradient.
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/ops/cat.h"
#include "flame/ops/parts_internal.h"

namespace flame {

std::vector<Tensor> parts(const Tensor& x, int64_t count, int64_t axis, bool dropped, Loc loc) {
  const int64_t size = x.size(axis, loc) / count;
  if (axis < 0) axis += x.rank();
  std::vector<Tensor> out = no_grad([&] {
    std::vector<Tensor> views;
    for (int64_t i = 0; i < count; ++i) {
      const Tensor view = x.narrow(axis, i * size, size, loc);
      views.push_back(dropped ? view.squeeze(axis, loc) : view);
    }
    return views;
  });
  const auto rule = [axis, dropped](const CustomContext& c) -> std::vector<Tensor> {
    return {dropped ? stack(c.grads, axis) : cat(c.grads, axis)};
  };
  return with_rule("parts", {&x, 1}, std::move(out), {}, rule, loc);
}

}  // namespace flame
