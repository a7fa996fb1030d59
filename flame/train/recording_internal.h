// Internal: what a recorded step is made of. A log is one eager run in comparable form; a recording is what replays.
#pragma once
#include <unordered_map>

#include "flame/device/recorder.h"
#include "flame/tensor/internal.h"
#include "flame/train/lanes_internal.h"

namespace flame {

// Where a recorded buffer is found at replay.
struct Place {
  enum class Kind : uint8_t { outside, argument, arena } kind;
  uint32_t index;  // outside: in the log's list; argument: which; arena: order of first use
  int64_t offset;  // bytes from the start of that storage; argument: from its first element
  bool operator==(const Place&) const = default;
};

struct Noted {
  Ref<Plan> plan;
  std::vector<Place> places;
  uint32_t reads;
  std::vector<Word> scalars;
  Loc where;
};

// Where an argument lay when the step began; the step itself may part it from there.
struct ArgumentPlace {
  Ref<Storage> storage;
  int64_t offset;  // elements
};

struct Log {
  std::vector<Noted> launches;
  std::vector<size_t> sizes;  // bytes of the storages made inside, by first use
  std::vector<uint64_t> outside_ids;
  std::unordered_map<uint64_t, uint32_t> made;       // storage id to arena index
  std::unordered_map<uint64_t, uint32_t> arguments;  // storage id to argument
  bool reads_unwritten = false;                      // something made inside is read that no launch wrote
};

Log log_of(const Recorder& r, const std::vector<ArgumentPlace>& args, const std::vector<Tensor>& values);
// Empty if the runs repeat; else where they part. Throws RecordError if only a host number differs.
std::string difference(const Log& a, const Log& b, Loc loc);

// Replays one signature's step.
struct Recording {
  struct Entry {
    Ref<Plan> plan;
    std::vector<Buffer> buffers;
    std::vector<void*> pointers;
    std::vector<std::pair<uint32_t, uint32_t>> arguments;  // buffer, argument
    std::vector<int64_t> argument_offsets;                 // bytes
    uint32_t reads;
    std::vector<Word> scalars;
    void* workspace = nullptr;
    Accesses touched;       // but for arguments
    bool changing = false;  // reads numbers that a hook changes
    bool stale = true;      // the graph has other numbers or addresses than this
  };
  // Where the launches of a graph read an argument.
  struct Argument {
    void* address;   // of its first element, as the graph has it
    uint32_t place;  // that address modulo what launches choose their kernels by
    Tensor slot;     // if a library reads it: memory of the recording's, to which the graph copies it first
    std::vector<uint32_t> readers;
    bool stale = true;  // the graph copies it from somewhere else
  };
  struct Output {
    enum class Kind : uint8_t { tensor, argument, state } kind;
    Tensor tensor;  // in the arena, or made outside the step
    uint32_t argument = 0;
    Ref<StateCell> cell;
    Shape shape;  // argument, state: the view of it
    Strides strides;
    int64_t offset = 0;  // elements, from the argument's first one
  };

  // `values` are the arguments that lay at `args`.
  Recording(Recorder& r, const Log& log, const std::vector<ArgumentPlace>& args, const std::vector<Tensor>& values,
            const std::vector<Tensor>& out, int most_lanes);
  // Arguments that a replay would overwrite before reading them are copied first.
  std::vector<Tensor> safe(const std::vector<Tensor>& args) const;
  void run(const std::vector<Tensor>& args);
  void conclude(bool made) const;  // what the host knows is as the replay left it
  std::vector<Tensor> results(const std::vector<Tensor>& args) const;

  Device* device;
  Ref<Storage> arena;
  std::vector<Ref<Storage>> outside;
  std::vector<Ref<Storage>> written;  // of these, what the step writes
  std::vector<Entry> entries;
  std::vector<Recorder::Hook> hooks;
  std::vector<Recorder::Guard> guards;
  std::vector<std::function<void()>> preparations;
  std::vector<std::function<void(bool)>> conclusions;
  std::vector<Output> outputs;
  Ref<LaunchGraph> graph;           // null where the device starts the launches one by one
  std::string no_graph;             // why, if the device has graphs
  uint32_t lanes = 0;               // of the graph
  std::vector<Argument> arguments;  // of the graph
  std::vector<uint32_t> copied;     // which of them have slots: the graph's first parts, before the entries
  std::vector<uint32_t> renewed;    // the graph's entries that may have to be told anew, in order

 private:
  void capture(const std::vector<ArgumentPlace>& args, const std::vector<Tensor>& values, int most_lanes);
  void make_graph(const std::vector<ArgumentPlace>& args, const std::vector<Tensor>& values, int most_lanes);
  void place_arguments(const std::vector<ArgumentPlace>& args, const std::vector<Tensor>& values);
  void capture_parts(int most_lanes);
  void run_list(const std::vector<Tensor>& args);
  void run_graph(const std::vector<Tensor>& args);
  void copy_argument(const Argument& a) const;
  void place(Entry& e, uint32_t argument, const Buffer& base);
  void replay(Entry& e, bool counted);
  void add_entry(const Noted& n, const Log& log, const std::vector<size_t>& arena_offsets, size_t workspace);
  void add_output(const Tensor& t, const Log& log, const std::vector<ArgumentPlace>& args,
                  const std::vector<size_t>& arena_offsets);
};

// The same numbers and strides in memory of their own. `t` must be materialised.
Tensor private_copy(const Tensor& t, MemoryKind kind = MemoryKind::tensor);

}  // namespace flame
