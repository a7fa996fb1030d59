// Internal: what a finished profile is made into.
#pragma once
#include <string>
#include <vector>

#include "flame/device/profile.h"
#include "flame/train/profiler.h"

namespace flame::train {

// What an activity of a GPU was done for: its launch or, of a recorded step that was launched as one, the part of the step,
// where each node of the graph was seen. Else it goes by its own name.
struct ActivityCause {
  std::string name;
  Work work = {.bytes = 0};
  bool first = true;  // of the activities with that cause: this one counts as the call
};
std::vector<ActivityCause> causes_of(const Profile& p);

std::vector<ProfileRow> rows_of(const Profile& p);  // the longest first
std::string table_of(std::vector<ProfileRow> rows, const ProfileTableOptions& o);

// The JSON object format of Google's "Trace Event Format" (2016): events X, C, M, s and f, times in microseconds.
void write_chrome_trace(const Profile& p, const std::string& path, Loc loc);

}  // namespace flame::train
