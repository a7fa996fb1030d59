// Internal: a step being recorded, as a flat list of launches. See train/record.h for the public face.
#pragma once
#include <algorithm>
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

// The launches of a step, in parts that each make the same launches whenever they are asked.
struct GraphDesc {
  size_t parts = 0;
  std::function<void(size_t)> launch;  // makes those of one part
  std::function<const std::string&(size_t)> name;
  // Which parts may run beside each other: a part follows the one before it in its lane, and the parts named. Empty: one
  // lane.
  std::vector<uint32_t> lane = {};
  std::vector<std::vector<uint32_t>> after = {};
};

// Launches that a device has taken up without making them, to start them as one once it is finished.
class LaunchGraph : public RefCounted {
 public:
  // Whether a part's launches can be told anew; a library's cannot.
  virtual bool renewable(size_t part) const = 0;
  // Everything that starting it takes is had now, or OutOfMemory is thrown. Once, before renew() and start().
  virtual void finish() = 0;
  // From now on a part's launches are those that fn makes now: as many, with other numbers or addresses. The part must be
  // renewable. What was started before is not changed.
  virtual void renew(size_t part, const std::function<void()>& fn) = 0;
  // Starts all, in order with the device's launches.
  virtual void start() = 0;
};

// While one is installed on a thread, every launch of that thread is noted, after it has run.
class Recorder {
 public:
  struct Hook {
    std::function<void()> advance, undo;
    size_t at;        // runs just before this launch
    bool own_launch;  // and is taken back if that launch fails
    const void* block;
  };
  struct Guard {
    std::function<bool()> holds;
    const char* what;  // the reason of a miss when it does not
  };
  Recorder();
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  // While one lives, what this thread does is no part of the step, and what it makes counts as made before.
  class Pause {
   public:
    Pause();
    ~Pause();
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    Recorder* const recorder_;  // null: there is none, or it is paused already
  };

  static Recorder* current();  // of this thread, or null; null while paused
  void note(const Launch& l, Loc where);
  // A host action that belongs to the step: done now by the caller, and again at this place of every replay. `undo`
  // takes one such action back. With own_launch, it belongs to the launch just noted, and fails with it. `block` is host
  // memory that the action changes: launches that have its address among their scalars read it anew in every replay.
  void on_replay(std::function<void()> advance, std::function<void()> undo, const void* block,
                 bool own_launch = false) {
    hooks.push_back({std::move(advance), std::move(undo), launches.size() - (own_launch ? 1 : 0), own_launch, block});
  }
  // Something that must be as it is now whenever the recording is replayed.
  void guard(const void* subject, const char* what, std::function<bool()> holds);
  // Done before a replay, after the guards: e.g. parting those who share a State that the step writes. Once a subject.
  void before_replay(const void* subject, std::function<void()> fn);
  // Done after a replay, told whether it was made as a whole: what the host knows of memory that the step writes.
  void after_replay(std::function<void(bool)> fn) { conclusions.push_back(std::move(fn)); }
  bool prepares(const void* subject) const {
    return std::find(prepared_.begin(), prepared_.end(), subject) != prepared_.end();
  }
  bool made_here(uint64_t storage_id) const {
    return storage_id >= first_id && std::find(adopted_.begin(), adopted_.end(), storage_id) == adopted_.end();
  }
  void storage_made(uint64_t id) { (paused_ ? adopted_ : alive).push_back(id); }
  void storage_gone(uint64_t id) { std::erase(alive, id); }

  Device* device = nullptr;
  uint64_t first_id;
  std::vector<RecordedLaunch> launches;
  std::vector<Hook> hooks;
  std::vector<Guard> guards;
  std::vector<std::function<void()>> preparations;
  std::vector<std::function<void(bool)>> conclusions;
  std::vector<Ref<Storage>> outside;  // storages that existed before and are read or written
  std::vector<uint64_t> alive;        // storages made inside that still live
  const char* refused = nullptr;      // why this step cannot be replayed, if someone said so

 private:
  Recorder* previous_;
  bool paused_ = false;
  std::vector<const void*> guarded_, prepared_;
  std::vector<uint64_t> adopted_;  // storages made while paused
};

}  // namespace flame
