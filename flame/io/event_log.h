// TensorBoard event files: TFRecord frames around protocol buffers, scalars only.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "flame/io/file.h"

namespace flame::io {

struct EventLogOptions {
  int64_t keep_until = -1;  // events of an existing file up to and including this step stay; -1: none
};

// The file's name has to contain "tfevents". A resumed run goes on in the same file: torn and later events are cut off.
class EventLog {
 public:
  explicit EventLog(const std::string& path, const EventLogOptions& options = {}, Loc loc = Loc::current());
  void add_scalar(std::string_view tag, float value, int64_t step, Loc loc = Loc::current());
  void flush(Loc loc = Loc::current());  // before a checkpoint, so that the file reaches at least to its step

 private:
  std::unique_ptr<AppendFile> file_;
};

}  // namespace flame::io
