// Internal: what a pass of grad(outputs, inputs) notes of each node, by sequence number. A flat table, since every node of
// the graph is looked up several times; neighbours in time are neighbours in it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace flame {

struct Mark {
  uint64_t sequence = 0;  // 0: free
  bool visited = false, wanted = false;
  bool leads = false;  // it is wanted, or a wanted one can be reached from it
};

class Marks {
 public:
  const Mark* find(uint64_t sequence) const {
    if (table_.empty()) return nullptr;
    const Mark& m = table_[place(sequence)];
    return m.sequence == sequence ? &m : nullptr;
  }
  // Made if there is none. The next call may move it.
  Mark& at(uint64_t sequence) {
    if (2 * (count_ + 1) > table_.size()) grow();
    Mark& m = table_[place(sequence)];
    if (m.sequence == 0) {
      m.sequence = sequence;
      ++count_;
    }
    return m;
  }

 private:
  std::vector<Mark> table_;  // a power of two, at most half full
  size_t count_ = 0;

  size_t place(uint64_t sequence) const {
    constexpr uint64_t run = 16;  // in order; runs are spread by a multiplicative hash
    const size_t mask = table_.size() - 1;
    size_t i = (((sequence / run * 0x9E3779B97F4A7C15u) >> 32) * run + sequence % run) & mask;
    while (table_[i].sequence != 0 && table_[i].sequence != sequence) i = (i + 1) & mask;
    return i;
  }
  void grow() {
    std::vector<Mark> old(table_.empty() ? 64 : 2 * table_.size());
    old.swap(table_);
    for (const Mark& m : old)
      if (m.sequence != 0) table_[place(m.sequence)] = m;
  }
};

}  // namespace flame
