// Joins steps of cheap ops into chains, which keep their running value in vector registers (kernels_chain.cpp).
#include "flame/fuse/interpreter.h"

namespace flame {

namespace {

Step chain_of_one(const Step& s) {
  Step chain{};
  if (s.kind != Step::Kind::exec || s.c >= 0 || !joins_chain(s.code, s.dtype)) return chain;
  const bool swapped = s.b >= 0 && (s.same & 1);  // the number on the left is no running value
  chain.kind = Step::Kind::chain;
  chain.row = s.row;
  chain.dtype = s.dtype;
  chain.dst = s.dst;
  chain.a = swapped ? s.b : s.a;
  chain.chain_fn = chain_kernel(s.dtype);
  chain.links.push_back({s.code, swapped || (s.same & 2), swapped, swapped ? s.a : s.b});
  return chain;
}
// Appends `s` if it works on the chain's result alone.
bool extends(const Compiled& c, Step& chain, const Step& s, const std::vector<int>& reads) {
  if (s.kind != Step::Kind::exec || s.c >= 0 || s.row != chain.row || s.dtype != chain.dtype ||
      !joins_chain(s.code, s.dtype))
    return false;
  const bool left = s.a == chain.dst, right = s.b == chain.dst;
  if (left == right || reads[static_cast<size_t>(chain.dst)] != 1 ||
      c.slots[static_cast<size_t>(chain.dst)].kind != BlockSlot::Kind::reg)
    return false;
  chain.links.push_back({s.code, (s.same & (left ? 2u : 1u)) != 0, right, left ? s.b : s.a});
  chain.dst = s.dst;
  return true;
}

}  // namespace

void join_chains(Compiled& c) {
  std::vector<int> reads(c.slots.size());
  for (const Step& s : c.steps) {
    if (s.kind == Step::Kind::iota) continue;  // its `a` is a node
    for (int slot : {s.a, s.b, s.c})
      if (slot >= 0) ++reads[static_cast<size_t>(slot)];
  }
  std::vector<Step> joined;
  for (size_t i = 0; i < c.steps.size();) {
    size_t end = i;
    Step chain = chain_of_one(c.steps[i]);
    while (!chain.links.empty() && ++end < c.steps.size() && chain.links.size() < longest_chain &&
           extends(c, chain, c.steps[end], reads)) {}
    if (chain.links.size() < 2) joined.push_back(std::move(c.steps[i++]));
    else {
      joined.push_back(std::move(chain));
      i = end;
    }
  }
  c.steps = std::move(joined);
}

}  // namespace flame
