// Segments: notes of a first run, and the world that a second run sees.
#include "flame/tensor/segment.h"

namespace flame {

namespace {
thread_local SegmentScope* innermost = nullptr;
}

const Tensor* Segment::find(const StateCell& c) const {
  for (const auto& [cell, t] : states)
    if (cell.get() == &c) return &t;
  return nullptr;
}
Segment::Draws* Segment::find(const void* generator) {
  for (Draws& d : draws)
    if (d.generator.get() == generator) return &d;
  return nullptr;
}
void Segment::set(const Ref<StateCell>& c, const Tensor& t) {
  for (auto& [cell, old] : states)
    if (cell.get() == c.get()) {
      old = t;
      return;
    }
  states.emplace_back(c, t);
}

void Segment::forget_dead() {
  std::erase_if(states, [](const auto& s) { return s.first->ref_count() == 1; });
  std::erase_if(draws, [](const Draws& d) { return d.generator.use_count() == 1; });
}

SegmentScope::SegmentScope(Segment& s, Run run) : segment_(s), run_(run), before_(std::exchange(innermost, this)) {}
SegmentScope::~SegmentScope() { innermost = before_; }

bool SegmentScope::active() { return innermost != nullptr; }

Segment* SegmentScope::second_run() {
  for (SegmentScope* s = innermost; s; s = s->before_)
    if (s->run_ == Run::second) return &s->segment_;
  return nullptr;
}

Tensor SegmentScope::read(const Ref<StateCell>& c, const Tensor& now) {
  Tensor seen = now;
  if (const Segment* s = second_run())
    if (const Tensor* t = s->find(*c)) seen = *t;
  for (SegmentScope* s = innermost; s && s->run_ == Run::first; s = s->before_)
    if (!s->segment_.find(*c)) s->segment_.states.emplace_back(c, seen);
  return seen;
}

void SegmentScope::note(const Segment::Draws& d) {
  for (SegmentScope* s = innermost; s && s->run_ == Run::first; s = s->before_)
    if (!s->segment_.find(d.generator.get())) s->segment_.draws.push_back(d);
}

}  // namespace flame
