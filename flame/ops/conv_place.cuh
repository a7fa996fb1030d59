// Places of a convolution's result over two axes, walked over without a division a step.
#pragma once
#include "flame/fuse/device.cuh"

namespace flame {

struct Places {
  int32_t h, w, out_h, out_w, places, per_block;  // places of y in all
  int32_t stride[2], padding[2], dilation[2];
  int32_t xs[4], ws[4];  // strides: n, c, h, w; o, c, h, w
};

// A place of y, or how far a number of places leads.
struct Place {
  int32_t n, i, j;
  Place() = default;
  Place(const Places& p, int32_t at) : n(at / (p.out_h * p.out_w)), i(at / p.out_w % p.out_h), j(at % p.out_w) {}
  void move(const Places& p, const Place& by) {
    j += by.j;
    i += by.i;
    n += by.n;
    if (j >= p.out_w) j -= p.out_w, ++i;
    if (i >= p.out_h) i -= p.out_h, ++n;
  }
  int32_t row(const Places& p, int32_t tap) const { return i * p.stride[0] - p.padding[0] + tap * p.dilation[0]; }
  int32_t column(const Places& p, int32_t tap) const { return j * p.stride[1] - p.padding[1] + tap * p.dilation[1]; }
};

}  // namespace flame
