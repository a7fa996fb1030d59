// Saving a run and going on with it: everything that decides the steps to come, in one checkpoint.
#pragma once
#include "flame/data/loader.h"
#include "flame/io/checkpoint.h"
#include "flame/nn/module.h"
#include "flame/optim/optimizer.h"

namespace flame::train {

// Where a run stands, beside its tensors.
struct RunPosition {
  int64_t step = 0;  // steps done
  data::LoaderState loader;
  io::Metadata settings;  // the program's own: the flags it was begun with
};

// Weights and buffers, moments and step counts, the default generator, and `at`. Atomic.
void save_run(const std::string& path, const nn::Module& model, const optim::Optimizer& optimizer,
              const RunPosition& at, Loc loc = Loc::current());

// What to bring back. Leaving a part out gives another run; tests show that each of them matters.
struct RestoreOptions {
  bool weights = true, moments = true, steps = true, generator = true;
};
// Of a checkpoint by save_run; FormatError if it is another.
RunPosition run_position(const io::Checkpoint& c, Loc loc = Loc::current());
void restore_run(const io::Checkpoint& c, nn::Module& model, optim::Optimizer& optimizer, const RestoreOptions& o = {},
                 Loc loc = Loc::current());

}  // namespace flame::train
