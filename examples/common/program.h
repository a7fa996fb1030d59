// How the example programs start, go on from a checkpoint, stop and end.
#pragma once
#include <flame/core/format.h>
#include <flame/flame.h>

#include <cstdio>
#include <optional>

#include "settings.h"

// Sets device, determinism and threads by the options. With --resume also reads the checkpoint and takes over the run's settings.
template <class Options>
std::optional<flame::io::Checkpoint> start(Options& options, const flame::train::RunFolder& folder) {
  flame::set_default_device(pick_device(options.device));
  flame::set_deterministic(options.deterministic);
  std::optional<flame::io::Checkpoint> checkpoint;
  if (options.resume) {
    if (!folder.has_checkpoint())
      flame::fail<flame::IoError>(flame::Loc::current(), "nothing to resume: no checkpoint in '{}'", folder.path());
    checkpoint = flame::io::load_checkpoint(folder.checkpoint(), flame::cpu());
    if (!checkpoint->note.empty()) fmt::print("note: {}\n", checkpoint->note);
    options.settings().adopt(flame::train::run_position(*checkpoint).settings, options.given);
  }
  if (options.threads > 0) flame::set_num_threads(options.threads);
  options.threads = flame::num_threads();
  return checkpoint;
}

// Trains to the end, or until Ctrl-C. Returns the status of the process.
template <class Run>
int train_to_end(Run& run, const std::optional<flame::io::Checkpoint>& checkpoint,
                 const flame::train::Interrupt& interrupt, const char* program, const flame::train::RunFolder& folder) {
  if (checkpoint) {
    run.resume(*checkpoint);
    fmt::print("resumed after step {}\n", run.step());
  } else {
    run.begin();
  }
  if (!run.train(interrupt)) {
    fmt::print("stopped after step {}; go on with: {} --resume --out {}\n", run.step(), program, folder.path());
    return 128 + interrupt.signal();
  }
  run.finish();
  return 0;
}

// body(), with lines shown as they come, and an error as one line on stderr and status 1.
template <class F>
int guarded(const char* name, F&& body) {
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  try {
    return body();
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}: {}\n", name, plain(e));
    return 1;
  }
}
