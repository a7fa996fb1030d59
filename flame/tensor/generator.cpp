// Generators: how calls are numbered, eagerly, in recorded steps, and when a segment runs a second time.
#include "flame/tensor/generator.h"

#include <utility>

#include "flame/core/format.h"
#include "flame/device/recorder.h"
#include "flame/tensor/draw.h"
#include "flame/tensor/segment.h"
#include "flame/tensor/undo.h"

namespace flame {

// Outside recordings a call's number is in block.base. Inside one, base stays at the step's first call, and each call adds
// its place in the step; before a replay a hook moves base on, so that the same launches draw the next step's numbers.
struct Generator::Shared {
  Block block{0, 0};
  GeneratorState state;
  const Recorder* recorder = nullptr;  // the recording that `calls` belongs to; first_id, since addresses come again
  uint64_t recording = 0;
  std::shared_ptr<uint64_t> calls;  // in one step
};

namespace {

// In a second run a generator stands where the first one found it; the generator itself does not move.
Segment::Draws& draws_of(Segment& s, const std::shared_ptr<void>& generator, const GeneratorState& now) {
  if (Segment::Draws* d = s.find(generator.get())) return *d;
  return s.draws.emplace_back(Segment::Draws{.generator = generator, .state = now});
}

Generator::Call second_call(Segment::Draws& d, Generator::Block& block) {
  Recorder* r = Recorder::current();
  const Generator::Block own{d.state.seed, d.state.offset++};
  if (!r) {
    block = own;
    return {&block, 0};
  }
  if (d.recorder == r && d.recording == r->first_id) return {&block, static_cast<int64_t>(d.delta++)};
  // The first run was outside this recording, so these numbers are the same at every replay.
  const auto kept = std::make_shared<Generator::Block>(own);
  r->on_replay([kept] {}, [kept] {}, nullptr);
  return {kept.get(), 0};
}

}  // namespace

Generator::Generator(uint64_t seed) : shared_(std::make_shared<Shared>()) { shared_->state.seed = seed; }

GeneratorState Generator::state() const {
  if (Segment* s = SegmentScope::second_run())
    if (const Segment::Draws* d = s->find(shared_.get())) return d->state;
  return shared_->state;
}

void Generator::set_state(const GeneratorState& state, Loc loc) {
  if (Recorder::current()) fail<RecordError>(loc, "generator: seeded inside a recorded step; seed it before");
  if (Segment* s = SegmentScope::second_run()) {
    draws_of(*s, shared_, state).state = state;
    return;
  }
  note_for_undo();
  shared_->state = state;
}

void Generator::note_for_undo() const {
  UndoScope::before_change(shared_.get(), [this] { return [s = shared_, old = shared_->state] { s->state = old; }; });
}

Generator::Call Generator::next_call() {
  Shared& s = *shared_;
  if (Segment* second = SegmentScope::second_run()) {
    Segment::Draws& d = draws_of(*second, shared_, s.state);
    SegmentScope::note(d);
    return second_call(d, s.block);
  }
  note_for_undo();
  Recorder* r = Recorder::current();
  if (!r) {
    SegmentScope::note({.generator = shared_, .state = s.state});
    s.recorder = nullptr;
    s.block = {s.state.seed, s.state.offset++};
    return {&s.block, 0};
  }
  if (s.recorder != r || s.recording != r->first_id) {
    s.recorder = r;
    s.recording = r->first_id;
    s.block = {s.state.seed, s.state.offset};
    s.calls = std::make_shared<uint64_t>(0);
    r->on_replay(
        [shared = shared_, calls = s.calls] {
          shared->block = {shared->state.seed, shared->state.offset};
          shared->state.offset += *calls;
        },
        [shared = shared_, calls = s.calls] { shared->state.offset -= *calls; }, &s.block);
  }
  SegmentScope::note({shared_, s.state, r, r->first_id, *s.calls});
  ++s.state.offset;
  return {&s.block, static_cast<int64_t>((*s.calls)++)};
}

Draw::Draw(Generator& g) : call_(g.next_call()), now_(*call_.block) {
  now_.base += static_cast<uint64_t>(call_.delta);
  if (const Recorder* r = Recorder::current()) recording_ = r->first_id;
}
std::array<Word, 3> Draw::words() const {
  const Recorder* r = Recorder::current();
  if (r && recording_ == r->first_id) return {word(static_cast<const void*>(call_.block)), word(call_.delta), Word{}};
  return {word(static_cast<const void*>(nullptr)), Word{.u = now_.base}, Word{.u = now_.seed}};
}
DrawNumbers draw_numbers(const Word* words) {
  const auto* block = static_cast<const Generator::Block*>(words[0].p);
  return block ? DrawNumbers{block->seed, block->base + words[1].u} : DrawNumbers{words[2].u, words[1].u};
}

namespace {
Generator& process_generator() {
  static Generator g;
  return g;
}
thread_local Generator* scoped = nullptr;
}  // namespace

Generator& default_generator() { return scoped ? *scoped : process_generator(); }
void manual_seed(uint64_t seed, Loc loc) { default_generator().manual_seed(seed, loc); }
GeneratorScope::GeneratorScope(const Generator& g) : generator_(g), before_(std::exchange(scoped, &generator_)) {}
GeneratorScope::~GeneratorScope() { scoped = before_; }

}  // namespace flame
