// Generators of random numbers: a seed and a call number. The key of a draw is the seed, its counter (element index, call
// number), so a draw depends on seed, call and element alone. The kernels stand in ops/random.h.
#pragma once
#include <cstdint>
#include <memory>

#include "flame/core/error.h"

namespace flame {

struct GeneratorState {
  uint64_t seed = 0;
  uint64_t offset = 0;  // the number of the next call
  bool operator==(const GeneratorState&) const = default;
};

// A seed and a call number. Copies share them. One thread at a time; give each thread its own (GeneratorScope).
class Generator {
 public:
  explicit Generator(uint64_t seed = 0);
  void manual_seed(uint64_t seed, Loc loc = Loc::current()) { set_state({seed, 0}, loc); }
  GeneratorState state() const;
  // Throws RecordError inside a recorded step, whose replays could not repeat it.
  void set_state(const GeneratorState& s, Loc loc = Loc::current());

  // Internal: what a kernel needs to know of one call. `block` is read when the launch runs, also when it is replayed.
  struct Block {
    uint64_t seed, base;  // the call's number is base + delta
  };
  struct Call {
    const Block* block;
    int64_t delta;
  };
  Call next_call();  // takes a call number; under a recorder, replays take fresh ones in the same order

 private:
  struct Shared;
  void note_for_undo() const;
  std::shared_ptr<Shared> shared_;
};

Generator& default_generator();  // of the innermost GeneratorScope of this thread, else of the process (seed 0)
void manual_seed(uint64_t seed, Loc loc = Loc::current());  // of the default generator

// While one lives, `g` is this thread's default generator; other threads keep theirs. Scopes nest.
class GeneratorScope {
 public:
  explicit GeneratorScope(const Generator& g);
  explicit GeneratorScope(uint64_t seed) : GeneratorScope(Generator(seed)) {}  // a generator for this block alone
  ~GeneratorScope();
  GeneratorScope(const GeneratorScope&) = delete;
  GeneratorScope& operator=(const GeneratorScope&) = delete;

 private:
  Generator generator_;
  Generator* before_;
};

}  // namespace flame
