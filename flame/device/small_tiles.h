// Internal: the form of the tiles of fuse/small_product.cuh, for the kernels made of them.
#pragma once
#include "flame/device/kernel.h"

namespace flame {

// What has work for most of a GPU, and lets long sums be shared by many warps with many reads on the way.
struct SmallTiles {
  int tile, warps, depth;

  // How many tiles of that size cover [m, n].
  static int64_t of(int64_t m, int64_t n, int tile) { return blocks_for(m, tile) * blocks_for(n, tile); }
  // `large`: tiles of 32 x 32; k: the longest sum; deepest: chunks on the way where many warps share a sum.
  SmallTiles(int64_t large, int64_t k, int deepest)
      : tile(large < 96 ? 16 : 32),
        warps(tile == 16 && k > 512 ? 16 : 8),
        depth(k <= 128      ? 1
              : warps == 16 ? deepest
                            : 2) {}
};

}  // namespace flame
