// A progress bar: speed, a value and the time left, on one line that is redrawn; plain lines where the output is no terminal.
#pragma once
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

#include "flame/core/error.h"

namespace flame::train {

struct ProgressOptions {
  std::string label = {};  // in front, such as "epoch 1/5"
  int64_t total = 0;       // items of the whole
  int64_t done = 0;        // items that an earlier run did; they do not count for the speed
  std::string unit = "items";
  std::string value_name = "loss";
  enum class Style : uint8_t {
    automatic,
    live,
    plain,
    silent
  } style = Style::automatic;  // live on a terminal, else plain
  std::FILE* out = stdout;
};

class ProgressBar {
 public:
  explicit ProgressBar(ProgressOptions options,
                       Loc loc = Loc::current());  // ValueError if done is not within the total
  ~ProgressBar();                                  // leaves the last state on a line of its own
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // `items` more are done. Shows the running mean of the values (each weighs 1/20), the latest of which may be missing.
  void update(int64_t items, std::optional<double> value = {});
  void finish();           // ends the line; the destructor does so too
  double seconds() const;  // since the start, or of the whole once finished

 private:
  void show(bool last);
  ProgressOptions options_;
  bool live_, silent_, finished_ = false;
  double start_, end_ = 0, shown_at_ = 0;
  int64_t done_, next_plain_;
  double mean_ = 0, weight_ = 0;
};

// Internal: a state of the bar as text of at most `width` columns; `bar` columns of picture are part of it if they fit.
struct ProgressState {
  std::string label, unit, value_name;
  int64_t done = 0, total = 0, counted = 0;  // counted: done since the start of the clock
  double seconds = 0;
  std::optional<double> value;
};
std::string progress_line(const ProgressState& s, int width, bool picture, bool last);

}  // namespace flame::train
