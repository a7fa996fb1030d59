// The flags of the program, and how a resumed run gets those it was begun with.
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "../common/settings.h"

struct Options {
  std::string device = "auto";
  bool deterministic = false;
  int64_t epochs = 5, batch = 128;
  double lr = 4e-3;  // the peak of the one-cycle schedule
  uint64_t seed = 0;
  std::string out = "runs/fashion_mnist";
  bool resume = false;
  int threads = 0;                    // 0: all cores
  int64_t limit = 0;                  // training images, 0: all
  int64_t save_every = 100;           // steps between checkpoints
  std::string profile;                // a file for the trace of twenty steps
  bool first_step = false;            // for tools/first-step: one step, told as soon as the host has its results
  std::string forget;                 // for tests of --resume: a part of the checkpoint to leave out
  std::map<std::string, bool> given;  // of the flags that decide the result: whether the user wrote them

  // What decides the result.
  Settings settings() {
    return Settings()
        .add("epochs", epochs)
        .add("batch", batch)
        .add("lr", lr)
        .add("seed", seed)
        .add("limit", limit)
        .add("threads", threads, true);
  }
};

// Exits the process after --help (status 0) and after a mistake (a line on stderr, status 2).
Options parse_options(int argc, char** argv);
