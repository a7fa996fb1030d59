// Line plots as SVG text: axes with round ticks, a light grid, a legend, linear or logarithmic y.
#pragma once
#include <string>
#include <vector>

#include "flame/core/error.h"

namespace flame::io {

struct Series {
  std::string name;          // in the legend, unless empty
  std::vector<double> x, y;  // of equal length; NaN, Inf and, on a log axis, y <= 0 leave a gap
  bool faint = false;        // a light line behind the others, such as raw values behind their mean
};

struct Plot {
  std::string title = {}, x_label = {}, y_label = {};
  std::vector<Series> series = {};
  bool log_y = false;
  int width = 800, height = 480;
};

// Long series keep the first, last, lowest and highest point of each pixel column, so that no spike is lost.
std::string render_svg(const Plot& plot, Loc loc = Loc::current());
void write_svg(const std::string& path, const Plot& plot, Loc loc = Loc::current());  // atomic

// Internal: 1, 2 or 5 times a power of ten apart, from at or below `low` to at or above `high`.
std::vector<double> nice_ticks(double low, double high, int about);

}  // namespace flame::io
