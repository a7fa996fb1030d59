// Internal: sizes of layers as their summaries show them: "3", or "3x2" where axes differ.
#pragma once
#include "flame/core/format.h"
#include "flame/ops/conv.h"

namespace flame::nn {

template <int axes>
std::string text(const PerAxis<axes>& p) {
  if (p == p[0]) return fmt::format("{}", p[0]);
  const Dims d = p.dims();
  return fmt::format("{}", fmt::join(d.begin(), d.end(), "x"));
}

template <int axes>
std::string text(const ConvPadding<axes>& p) {
  return p.same() ? "same" : text(static_cast<const PerAxis<axes>&>(p));
}

}  // namespace flame::nn
