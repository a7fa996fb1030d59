// pixel_shuffle and pixel_unshuffle: views and one copy.
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/interpolate.h"

namespace flame {
namespace {

void check(const char* op, const Tensor& x, int64_t factor, Loc loc) {
  if (x.rank() < 3) fail<ShapeError>(loc, "{}: expected x [..., C, H, W], got {}", op, x.shape());
  if (factor < 1) fail<ValueError>(loc, "{}: expected a factor of 1 or more, got {}", op, factor);
}
// The product of all axes but the last three.
int64_t batch(const Shape& s) {
  int64_t n = 1;
  for (int i = 0; i < s.rank() - 3; ++i) n *= s[i];
  return n;
}
Shape with_last(Shape s, int64_t c, int64_t h, int64_t w) {
  s[s.rank() - 3] = c;
  s[s.rank() - 2] = h;
  s[s.rank() - 1] = w;
  return s;
}

}  // namespace

Tensor pixel_shuffle(const Tensor& x, int64_t r, Loc loc) {
  const OpScope scope("pixel_shuffle");
  check("pixel_shuffle", x, r, loc);
  const Shape& s = x.shape();
  const int64_t c = s[x.rank() - 3], h = s[x.rank() - 2], w = s[x.rank() - 1];
  if (c % (r * r) != 0) fail<ShapeError>(loc, "pixel_shuffle: expected channels that {} divides, got x {}", r * r, s);
  return x.reshape({batch(s), c / (r * r), r, r, h, w}, loc)
      .permute({0, 1, 4, 2, 5, 3}, loc)
      .reshape(with_last(s, c / (r * r), h * r, w * r), loc);
}

Tensor pixel_unshuffle(const Tensor& x, int64_t r, Loc loc) {
  const OpScope scope("pixel_unshuffle");
  check("pixel_unshuffle", x, r, loc);
  const Shape& s = x.shape();
  const int64_t c = s[x.rank() - 3], h = s[x.rank() - 2], w = s[x.rank() - 1];
  if (h % r != 0 || w % r != 0)
    fail<ShapeError>(loc, "pixel_unshuffle: expected a height and width that {} divides, got x {}", r, s);
  return x.reshape({batch(s), c, h / r, r, w / r, r}, loc)
      .permute({0, 1, 3, 5, 2, 4}, loc)
      .reshape(with_last(s, c * r * r, h / r, w / r), loc);
}

}  // namespace flame
