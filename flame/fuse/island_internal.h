// Internal: the pending graph of one thread.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "flame/fuse/program.h"

namespace flame {

struct Slot {
  Ref<Value> value;  // null: a scalar
  Word scalar{};
};

struct Expr {
  ~Expr();
  bool is_reduce = false;
  bool reshaped = false;  // a copy that only adds or drops axes of size 1
  bool passing = false;   // see note_passing
  bool read = false;      // by an op that is about to run, see note_read
  bool asleep = false;    // beside the island's nodes, see asleep.cpp
  Code code{};
  Reduce reduce{};
  DType compute{};
  uint8_t inputs = 0;
  int axis = 0;   // iota
  int index = 0;  // in the island
  int depth = 1;
  uint32_t axis_mask = 0;      // reduce
  uint32_t uses = 0;           // pending readers
  uint32_t sleeping_uses = 0;  // those of them that sleep
  uint32_t kept = 0;           // nodes of the graph that hold it, see note_kept
  Loc where;                   // the caller's line
  std::unique_ptr<Draw> draw;  // dropout
  uint32_t last = 0;           // the highest word that keeps an element
  Slot in[3];
};

constexpr int draw_input = 3;

// What an island runs, once its shape has been seen: launches in order, with the places of their buffers.
struct IslandPlan {
  struct Group {
    Ref<Plan> plan;
    std::vector<int> leaves;                   // into the island's leaves, then its nodes (negative: ~node)
    std::vector<int> outputs;                  // nodes
    std::vector<std::pair<int, int>> scalars;  // node, input; from draw_input on words of its draw
    int ops = 0;
    int nodes = 0;
  };
  std::vector<Group> groups;
};

// Recursive, since dropping a value inside a flush comes back here. Never held while taking another island's.
class Island {
 public:
  static constexpr int max_ops = 64, max_depth = 32;
  static Island& current();
  void lock();
  void unlock();
  // All that is pending; with `reader`, because that is read, what is passing may wait once more.
  void flush(const char* why, const Value* reader = nullptr);
  void compact();       // forgets dropped nodes
  void wake(Value& v);  // if it sleeps: it, and what it is made of, are nodes again, before who reads it
  void wake_held();     // those that others than the graph hold
  void forget_sleeper(Expr& e);

  std::vector<Value*> nodes;  // in order of creation; null: dropped
  int live = 0;               // of the nodes
  Device* device = nullptr;
  bool fusion = true;
  const char* reason = nullptr;  // of the next flush, if someone said so
  std::vector<std::pair<const char*, uint64_t>> reasons;

 private:
  std::vector<Value*> sleepers_;
  void put_to_sleep(Value& v);
  // Which nodes are left unwritten in a flush for `reader`; they are wanted no more.
  std::vector<bool> sleepers_of(const std::vector<Ref<Value>>& live_nodes, const Value* reader,
                                std::vector<bool>& wanted) const;
  void run(std::vector<Ref<Value>>& live_nodes, const Value* reader);
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  std::unordered_map<std::string, std::shared_ptr<IslandPlan>, Hash, std::equal_to<>> plans_;
  std::atomic<const void*> owner_{nullptr};
  int depth_ = 0;
};

// Splits nodes into groups and prepares one plan each.
IslandPlan plan_island(const std::vector<Ref<Value>>& nodes, const std::vector<bool>& wanted,
                       const std::vector<Value*>& leaves, Device& d);

}  // namespace flame
