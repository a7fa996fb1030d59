// Internal: a step being recorded, as a flat list of launches. See train/record.h for the public face.
#pragma once
#include <functional>
#include <vector>

#include "flame/device/device.h"

namespace flame {

// What a launch touched: a storage that existed before the step (kept alive), or one made inside it (by id).
struct RecordedBuffer {
  uint64_t storage_id;
  size_t storage_bytes;
  int64_t offset;
  bool operator==(const RecordedBuffer&) const = default;
};

struct RecordedLaunch {
  Ref<Plan> plan;
  std::vector<RecordedBuffer> buffers;  // reads, then writes
  uint32_t reads;
  std::vector<Word> scalars;
  Loc where;
};

// While one is installed on a thread, every launch of that thread is noted, after it has run.
class Recorder {
 public:
  Recorder();
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  static Recorder* current();  // of this thread, or null
  void note(const Launch& l, Loc where);
  // A host action that belongs to the step: done now by the caller, and again before every replay.
  void on_replay(std::function<void()> fn) { hooks.push_back(std::move(fn)); }
  bool made_here(uint64_t storage_id) const { return storage_id >= first_id; }

  Device* device = nullptr;
  uint64_t first_id;
  std::vector<RecordedLaunch> launches;
  std::vector<std::function<void()>> hooks;
  std::vector<Ref<Storage>> outside;  // storages that existed before and are read or written
  const char* forbidden = nullptr;    // set by a host read: what it was
  Loc forbidden_at;

 private:
  Recorder* previous_;
};

}  // namespace flame
