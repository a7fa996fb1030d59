// The bar is drawn ten times a second at most; plain output gets a line every tenth of the way.
#include "flame/train/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "flame/core/format.h"

namespace flame::train {
namespace {

constexpr double redraw_seconds = 0.1, value_weight = 0.05;
constexpr int plain_lines = 10;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

int terminal_width(std::FILE* f) {
  winsize size{};
  return ioctl(fileno(f), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string with_commas(int64_t n) {
  std::string s = std::to_string(n);
  for (auto at = static_cast<int64_t>(s.size()) - 3; at > 0; at -= 3) s.insert(static_cast<size_t>(at), ",");
  return s;
}

std::string clock_time(double seconds) {
  const auto s = static_cast<int64_t>(std::ceil(seconds));
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60)
                  : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace

std::string progress_line(const ProgressState& s, int width, bool picture, bool last) {
  const double part = s.total > 0 ? static_cast<double>(s.done) / static_cast<double>(s.total) : 1;
  const double speed = s.seconds > 0 ? static_cast<double>(s.counted) / s.seconds : 0;
  std::string rest = fmt::format("{:3.0f}%", std::floor(part * 100));
  if (speed > 0) rest += fmt::format("  {} {}/s", with_commas(std::llround(speed)), s.unit);
  if (s.value) rest += fmt::format("  {} {:.4f}", s.value_name, *s.value);
  if (last) rest += fmt::format("  {:.1f} s", s.seconds);
  else if (speed > 0) rest += "  ETA " + clock_time(static_cast<double>(s.total - s.done) / speed);

  std::string line = s.label;
  const int room = width - static_cast<int>(line.size() + rest.size()) - 6;  // brackets and two spaces on each side
  if (picture && room >= 8) {
    const int cells = std::min(room, 30), full = static_cast<int>(part * cells);
    std::string bar(static_cast<size_t>(full), '=');
    if (full < cells) bar += '>';
    bar.resize(static_cast<size_t>(cells), ' ');
    line += "  [" + bar + "]";
  }
  line += "  " + rest;
  return line.size() <= static_cast<size_t>(width) ? line : line.substr(0, static_cast<size_t>(width));
}

ProgressBar::ProgressBar(ProgressOptions options, Loc loc) : options_(std::move(options)) {
  using Style = ProgressOptions::Style;
  if (options_.done < 0 || options_.done > options_.total)
    fail<ValueError>(loc, "ProgressBar: {} done of {}, expected 0 to {}", options_.done, options_.total,
                     options_.total);
  silent_ = options_.style == Style::silent;
  live_ = options_.style == Style::live || (options_.style == Style::automatic && isatty(fileno(options_.out)) == 1);
  done_ = options_.done;
  next_plain_ = done_ * plain_lines / std::max<int64_t>(options_.total, 1) + 1;
  start_ = now();
}

ProgressBar::~ProgressBar() { finish(); }

void ProgressBar::update(int64_t items, std::optional<double> value) {
  done_ += items;
  if (value) {
    mean_ = (1 - value_weight) * mean_ + value_weight * *value;  // starts at zero, so it is divided by its weight
    weight_ = (1 - value_weight) * weight_ + value_weight;
  }
  if (silent_ || finished_ || done_ >= options_.total) return;  // finish() shows the end
  if (live_) {
    if (now() - shown_at_ >= redraw_seconds) show(false);
  } else if (done_ * plain_lines >= next_plain_ * options_.total) {
    next_plain_ = done_ * plain_lines / options_.total + 1;
    show(false);
  }
}

void ProgressBar::finish() {
  if (finished_) return;
  end_ = now();
  finished_ = true;
  if (!silent_) show(true);
}

double ProgressBar::seconds() const { return (finished_ ? end_ : now()) - start_; }

void ProgressBar::show(bool last) {
  ProgressState s{options_.label, options_.unit,         options_.value_name, done_,
                  options_.total, done_ - options_.done, seconds(),           {}};
  if (weight_ > 0) s.value = mean_ / weight_;
  const std::string line = progress_line(s, live_ ? terminal_width(options_.out) - 1 : 200, live_, last);
  const std::string text = live_ ? fmt::format("\r{}\x1b[K{}", line, last ? "\n" : "") : line + "\n";
  std::fwrite(text.data(), 1, text.size(), options_.out);
  std::fflush(options_.out);
  shown_at_ = now();
}

}  // namespace flame::train
