// One pass to find the ranges, one to draw: frame, grid, labels, lines, legend.
#include "flame/io/svg.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "flame/core/format.h"
#include "flame/io/file.h"

namespace flame::io {
namespace {

// Okabe and Ito's palette: told apart by colour-blind readers too.
constexpr const char* colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};
constexpr double char_width = 6.6;  // of 12 px text, about

std::string escape(const std::string& s) {
  std::string out;
  for (const char c : s) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else if (static_cast<unsigned char>(c) >= 0x20) out += c;  // XML knows no control characters
  }
  return out;
}

struct Point {
  double x, y;
};

// One axis: the range of the data, its ticks, and the way from value to pixel.
struct Axis {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  double from = 0, to = 1;  // pixels of low and high
  bool log = false;
  std::vector<double> ticks;

  double scaled(double v) const { return log ? std::log10(v) : v; }
  void include(double v) {
    low = std::min(low, scaled(v));
    high = std::max(high, scaled(v));
  }
  double pixel(double v) const { return from + (scaled(v) - low) / (high - low) * (to - from); }

  void settle(int about) {
    if (low > high) low = 0, high = 1;  // nothing to show
    const double size = std::max(std::abs(low), std::abs(high));
    if (high - low <= size * 1e-9 + 1e-290) {  // one value, or too close for its digits
      const double pad = log ? 0.5 : size < 1e-280 ? 1 : size * 0.1;
      low -= pad;
      high += pad;
    }
    if (!log) {
      ticks = nice_ticks(low, high, about);
      return;
    }
    // Decades, with 2 and 5 between them where there are few.
    const double first = std::floor(low), last = std::ceil(high), every = std::ceil((last - first) / about);
    for (double e = first; e <= last; e += std::max(every, 1.0))
      for (const double m : {1.0, 2.0, 5.0})
        if (m == 1.0 || last - first <= 3) ticks.push_back(m * std::pow(10.0, e));
    std::erase_if(ticks, [&](double t) { return std::log10(t) < low - 1e-9 || std::log10(t) > high + 1e-9; });
    if (ticks.size() < 2) {  // within one step of the above: linear ticks read better
      ticks = nice_ticks(std::pow(10.0, low), std::pow(10.0, high), about);
      std::erase_if(ticks, [&](double t) { return t <= 0; });
    }
    for (const double t : ticks) include(t);
  }
};

std::string tick_label(double v, double step) {
  if (v == 0 || std::abs(v) < step * 1e-6) return "0";
  const double size = std::abs(v);
  if (size >= 1e6 || size < 1e-4) return fmt::format("{:.4g}", v);
  const int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 9);
  return fmt::format("{:.{}f}", v, decimals);
}

// NaN fails every comparison; beyond 1e300 differences would overflow.
bool visible(double x, double y, bool log) { return std::abs(x) < 1e300 && std::abs(y) < 1e300 && (!log || y > 0); }

// The runs of a series between its gaps, in pixels.
std::vector<std::vector<Point>> pixel_runs(const Series& s, const Axis& x, const Axis& y) {
  std::vector<std::vector<Point>> runs(1);
  for (size_t i = 0; i < s.x.size(); ++i) {
    if (visible(s.x[i], s.y[i], y.log)) runs.back().push_back({x.pixel(s.x[i]), y.pixel(s.y[i])});
    else if (!runs.back().empty()) runs.emplace_back();
  }
  if (runs.back().empty()) runs.pop_back();
  return runs;
}

// At most four points a pixel column. Runs whose x goes back and forth are kept whole.
std::vector<Point> thinned(const std::vector<Point>& run) {
  if (run.size() < 1000 || !std::is_sorted(run.begin(), run.end(), [](Point a, Point b) { return a.x < b.x; }))
    return run;
  std::vector<Point> out;
  for (size_t i = 0; i < run.size();) {
    size_t end = i, low = i, high = i;
    for (; end < run.size() && std::floor(run[end].x) == std::floor(run[i].x); ++end) {
      if (run[end].y < run[low].y) low = end;
      if (run[end].y > run[high].y) high = end;
    }
    size_t keep[] = {i, std::min(low, high), std::max(low, high), end - 1};
    for (size_t* k = keep; k != std::unique(keep, keep + 4); ++k) out.push_back(run[*k]);
    i = end;
  }
  return out;
}

class Drawing {
 public:
  Drawing(const Plot& plot) : plot_(plot) {
    y_.log = plot.log_y;
    for (const Series& s : plot.series)
      for (size_t i = 0; i < s.x.size(); ++i)
        if (visible(s.x[i], s.y[i], plot.log_y)) x_.include(s.x[i]), y_.include(s.y[i]);
    x_.settle(8);
    y_.settle(6);
    if (!y_.log) {  // whole steps above and below, so that lines do not touch the frame
      y_.low = std::min(y_.low, y_.ticks.front());
      y_.high = std::max(y_.high, y_.ticks.back());
    }
    std::erase_if(x_.ticks, [&](double t) {
      return t < x_.low - 1e-9 * (x_.high - x_.low) || t > x_.high + 1e-9 * (x_.high - x_.low);
    });
    for (const double t : y_.ticks) y_labels_.push_back(tick_label(t, y_.log ? t : step_of(y_.ticks)));
    size_t widest = 0;
    for (const auto& l : y_labels_) widest = std::max(widest, l.size());
    x_.from = 24 + (plot.y_label.empty() ? 0 : 22) + static_cast<double>(widest) * char_width;
    x_.to = plot.width - 24;
    y_.from = plot.height - (plot.x_label.empty() ? 36 : 58);
    y_.to = plot.title.empty() ? 20 : 48;
  }

  std::string draw() {
    out_ = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
        "font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"12\" fill=\"#333\">\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        plot_.width, plot_.height);
    grid();
    for (const bool faint : {true, false})
      for (size_t i = 0; i < plot_.series.size(); ++i)
        if (plot_.series[i].faint == faint) line(plot_.series[i], colours[i % std::size(colours)]);
    legend();
    return out_ + "</svg>\n";
  }

 private:
  static double step_of(const std::vector<double>& ticks) { return ticks.size() > 1 ? ticks[1] - ticks[0] : 1; }

  void text(double x, double y, const char* attributes, const std::string& s) {
    out_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, attributes, escape(s));
  }

  void grid() {
    out_ += "<g stroke=\"#e6e6e6\">\n";
    const auto rule = [&](double x1, double y1, double x2, double y2) {
      out_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", x1, y1, x2, y2);
    };
    for (const double t : x_.ticks) rule(x_.pixel(t), y_.from, x_.pixel(t), y_.to);
    for (const double t : y_.ticks) rule(x_.from, y_.pixel(t), x_.to, y_.pixel(t));
    out_ += "</g>\n<g stroke=\"#999\">\n";
    rule(x_.from, y_.from, x_.to, y_.from);
    rule(x_.from, y_.from, x_.from, y_.to);
    out_ += "</g>\n<g fill=\"#555\">\n";
    for (const double t : x_.ticks)
      text(x_.pixel(t), y_.from + 18, "text-anchor=\"middle\"", tick_label(t, step_of(x_.ticks)));
    for (size_t i = 0; i < y_.ticks.size(); ++i)
      text(x_.from - 8, y_.pixel(y_.ticks[i]) + 4, "text-anchor=\"end\"", y_labels_[i]);
    out_ += "</g>\n";
    const double middle = (x_.from + x_.to) / 2;
    if (!plot_.title.empty())
      text(middle, 28, "text-anchor=\"middle\" font-size=\"16\" font-weight=\"bold\"", plot_.title);
    if (!plot_.x_label.empty())
      text(middle, plot_.height - 14, "text-anchor=\"middle\" font-size=\"13\"", plot_.x_label);
    if (!plot_.y_label.empty()) {
      const double y = (y_.from + y_.to) / 2;
      const std::string turned =
          fmt::format("text-anchor=\"middle\" font-size=\"13\" transform=\"rotate(-90 20 {:.1f})\"", y);
      text(20, y, turned.c_str(), plot_.y_label);
    }
  }

  void line(const Series& s, const char* colour) {
    out_ += fmt::format(
        "<g fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-opacity=\"{}\" stroke-linejoin=\"round\">\n", colour,
        s.faint ? "1" : "2", s.faint ? "0.3" : "1");
    for (const auto& run : pixel_runs(s, x_, y_)) {
      if (run.size() == 1) {
        out_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\" stroke=\"none\"/>\n", run[0].x,
                            run[0].y, colour);
        continue;
      }
      out_ += "<path d=\"";
      char command = 'M';
      for (const Point& p : thinned(run)) out_ += fmt::format("{}{:.1f} {:.1f}", std::exchange(command, 'L'), p.x, p.y);
      out_ += "\"/>\n";
    }
    out_ += "</g>\n";
  }

  // In the upper right corner, where a falling loss leaves room.
  void legend() {
    size_t longest = 0, rows = 0;
    for (const Series& s : plot_.series)
      if (!s.name.empty()) longest = std::max(longest, s.name.size()), ++rows;
    if (rows == 0) return;
    const double width = 46 + static_cast<double>(longest) * char_width, left = x_.to - width - 8, top = y_.to + 8;
    out_ += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" rx=\"4\" fill=\"#fff\" "
        "fill-opacity=\"0.85\" stroke=\"#ccc\"/>\n",
        left, top, width, rows * 18 + 8);
    double y = top + 17;
    for (size_t i = 0; i < plot_.series.size(); ++i) {
      const Series& s = plot_.series[i];
      if (s.name.empty()) continue;
      out_ += fmt::format(
          "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" stroke-width=\"{}\" "
          "stroke-opacity=\"{}\"/>\n",
          left + 8, y - 4, left + 30, y - 4, colours[i % std::size(colours)], s.faint ? 1 : 2, s.faint ? "0.4" : "1");
      text(left + 36, y, "", s.name);
      y += 18;
    }
  }

  const Plot& plot_;
  Axis x_, y_;
  std::vector<std::string> y_labels_;
  std::string out_;
};

}  // namespace

std::vector<double> nice_ticks(double low, double high, int about) {
  const double rough = (high - low) / about, power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = power * 10;
  for (const double m : {1.0, 2.0, 5.0})
    if (m * power >= rough * (1 - 1e-9)) {
      step = m * power;
      break;
    }
  std::vector<double> ticks;
  const double first = std::floor(low / step + 1e-9), last = std::ceil(high / step - 1e-9);
  for (double i = first; i <= last && ticks.size() < 100; ++i) ticks.push_back(i * step);
  return ticks;
}

std::string render_svg(const Plot& plot, Loc loc) {
  if (plot.width < 200 || plot.height < 150)
    fail<ValueError>(loc, "render_svg: size {} x {}, expected at least 200 x 150", plot.width, plot.height);
  for (const Series& s : plot.series)
    if (s.x.size() != s.y.size())
      fail<ValueError>(loc, "render_svg: series '{}' has {} x and {} y", s.name, s.x.size(), s.y.size());
  return Drawing(plot).draw();
}

void write_svg(const std::string& path, const Plot& plot, Loc loc) {
  write_file_atomic(path, render_svg(plot, loc), loc);
}

}  // namespace flame::io
