// The folder of a training run: where its files lie, and its metrics in two forms that a resumed run continues.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "flame/io/event_log.h"
#include "flame/io/metrics.h"

namespace flame::train {

class RunFolder {
 public:
  // Makes the folder and its parents; IoError if a file cannot be written there.
  explicit RunFolder(std::string path, Loc loc = Loc::current());
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string checkpoint() const { return file("checkpoint.safetensors"); }
  std::string metrics() const { return file("metrics.csv"); }
  std::string events() const { return file("events.out.tfevents.0.flame"); }
  bool has_checkpoint() const;
  // Removes checkpoint, metrics and events, so that nothing of an earlier run can be taken for this one's.
  void clear(Loc loc = Loc::current()) const;

 private:
  std::string path_;
};

// metrics.csv and a TensorBoard event file with the same numbers. `keep_until`: see MetricsOptions; -1 begins anew.
class RunMetrics {
 public:
  RunMetrics(const RunFolder& folder, std::vector<std::string> columns, int64_t keep_until = -1,
             Loc loc = Loc::current());
  // Columns that are not named stay empty; ValueError for a name that is no column. Steps must not decrease.
  void add(int64_t step, const std::vector<std::pair<std::string, double>>& values, Loc loc = Loc::current());
  void flush(Loc loc = Loc::current());  // before a checkpoint

 private:
  std::vector<std::string> columns_;
  io::MetricsFile csv_;
  io::EventLog events_;
};

// The columns of a metrics.csv by name, "step" included; NaN where a field is empty. FormatError for anything else.
std::map<std::string, std::vector<double>> read_metrics(const std::string& path, Loc loc = Loc::current());

}  // namespace flame::train
