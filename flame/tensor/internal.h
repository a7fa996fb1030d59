// Internal: what tensor/ asks of fuse/, and the cell behind a State.
#pragma once
#include <array>
#include <memory>
#include <mutex>

#include "flame/tensor/tensor.h"

namespace flame {

// A State's value in 16 bits, a cell of its own; see tensor/shadow.h.
struct Shadow {
  Ref<StateCell> cell;  // null until it is first asked for
  bool fresh = false;   // agrees with the State
};

struct StateCell : RefCounted {
  Ref<Value> value;
  GradEdge leaf;                // of a Parameter that wants gradients
  GradEdge frozen;              // the leaf while frozen
  std::mutex mutex;             // guards readers
  std::vector<Value*> readers;  // views that share the storage

  std::mutex shadow_mutex;  // readers on several threads may ask for a shadow at once
  Shadow shadows[2];        // float16, bfloat16
  int shadow_in_use = -1;   // which one was asked for last
  using Fresh = std::array<bool, 2>;
  std::shared_ptr<Fresh> left_fresh;  // which shadows agree after the recorded step that wrote the State last
  ~StateCell() override;
};

bool is_shared(StateCell& c);  // a write parts someone from the bytes
// As State::begin_write, for code that knows no segment and takes nothing back: flushes readers, parts sharers, marks shadows.
Value& begin_write(const Ref<StateCell>& c, Loc loc);

// A counted, recorded copy of bytes on one device.
void copy_bytes(Device& d, Buffer from, Buffer to, int64_t bytes, Loc loc);

// Implemented by fuse.
void drop_expr(Value& v);                                               // a pending value dies unread
Ref<Value> converted(const Ref<Value>& x, DType t, const Strides& st);  // x itself if it already is
void note_flush(const char* reason);                                    // for explain()
// Casts into memory that is there, in a launch of its own; nothing pending runs. Both are materialised, of one layout.
void cast_into(const Value& from, const Value& to, Loc loc);
// The fallback of Tensor::to_string for one element.
std::string format_element(const void* p, DType t);

}  // namespace flame
