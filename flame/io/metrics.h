// metrics.csv: one row of numbers a step under a header. A resumed run ends with the file of one never interrupted.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flame/io/file.h"

namespace flame::io {

struct MetricsOptions {
  int64_t keep_until = -1;  // rows of an existing file up to and including this step stay; -1: none
};

class MetricsFile {
 public:
  // `columns` come after the first one, which is "step". FormatError if a file that is kept has other columns.
  MetricsFile(const std::string& path, std::vector<std::string> columns, const MetricsOptions& options = {},
              Loc loc = Loc::current());
  // One value a column, NaN for an empty field; numbers are written as short as they read back exactly (values of
  // float32 precision as float32). Steps must not decrease.
  void add_row(int64_t step, std::span<const double> values, Loc loc = Loc::current());
  void add_row(int64_t step, std::initializer_list<double> values, Loc loc = Loc::current()) {
    add_row(step, std::span<const double>(values.begin(), values.size()), loc);
  }
  void flush(Loc loc = Loc::current());  // before a checkpoint, so that the file reaches at least to its step

 private:
  std::vector<std::string> columns_;
  std::unique_ptr<AppendFile> file_;
  int64_t last_ = -1;
};

}  // namespace flame::io
