// Internal: a piece of code that runs twice. The first run notes the States it reads and the generators it draws from; the
// second sees the same values and draws the same numbers, and its writes stay its own.
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "flame/tensor/generator.h"
#include "flame/tensor/internal.h"

namespace flame {

class Recorder;

// What a run needs to know of the world, as it was when first asked for. A noted State keeps its old value: whoever writes
// it parts the two, as for any tensor that shares its bytes.
struct Segment {
  struct Draws {
    std::shared_ptr<void> generator;
    GeneratorState state;                // of the first call
    const Recorder* recorder = nullptr;  // the recording it was part of, with its first storage
    uint64_t recording = 0;
    uint64_t delta = 0;  // of the first call in that recording
  };
  std::vector<std::pair<Ref<StateCell>, Tensor>> states;
  std::vector<Draws> draws;

  const Tensor* find(const StateCell& c) const;
  Draws* find(const void* generator);
  void set(const Ref<StateCell>& c, const Tensor& t);
  void forget_dead();  // States and generators that lived in the first run alone
};

// What this thread is doing: at most one second run, and the first runs inside it.
class SegmentScope {
 public:
  enum class Run : uint8_t { first, second };
  // While one lives, this thread notes in `s`, or sees what stands there. A second run hides all outer scopes.
  SegmentScope(Segment& s, Run run);
  ~SegmentScope();
  SegmentScope(const SegmentScope&) = delete;
  SegmentScope& operator=(const SegmentScope&) = delete;

  static bool active();
  static Segment* second_run();  // of this thread, or null
  // The tensor of a State as this thread is to see it.
  static Tensor read(const Ref<StateCell>& c, const Tensor& now);
  // Called with a generator's first draw in each first run.
  static void note(const Segment::Draws& d);

 private:
  Segment& segment_;
  const Run run_;
  SegmentScope* const before_;
};

}  // namespace flame
