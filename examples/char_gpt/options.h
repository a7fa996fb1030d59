// The flags of the program, and how a resumed run gets those it was begun with.
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "../common/settings.h"

struct Options {
  std::string device = "auto";
  bool deterministic = false;
  std::string text = "/usr/share/doc/jargon-text/jargon.txt.gz";
  uint32_t text_crc = 0;  // of what the text holds, set once it is read
  int64_t steps = 3000, batch = 32;
  int64_t context = 128, width = 128, layers = 4, heads = 4;
  double dropout = 0.0;
  double lr = 2e-3;  // the peak of the one-cycle schedule
  uint64_t seed = 0;
  std::string out = "runs/char_gpt";
  bool resume = false;
  int threads = 0;                      // 0: all cores
  int64_t evaluate_every = 250;         // steps
  std::string prompt = "   :computer";  // how the sample begins
  int64_t sample = 800;                 // characters of it
  double temperature = 0.5;
  std::map<std::string, bool> given;  // of the flags that decide the result: whether the user wrote them

  // What decides the result.
  Settings settings() {
    return Settings()
        .add("text", text)
        .add("text-crc", text_crc)
        .add("steps", steps)
        .add("batch", batch)
        .add("context", context)
        .add("width", width)
        .add("layers", layers)
        .add("heads", heads)
        .add("dropout", dropout)
        .add("lr", lr)
        .add("seed", seed)
        .add("evaluate-every", evaluate_every)
        .add("threads", threads, true);
  }
};

// Exits the process after --help (status 0) and after a mistake (a line on stderr, status 2).
Options parse_options(int argc, char** argv);
