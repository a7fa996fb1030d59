// Internal: what tensor/ asks of fuse/, and the cell behind a State.
#pragma once
#include <mutex>

#include "flame/tensor/tensor.h"

namespace flame {

struct StateCell : RefCounted {
  Ref<Value> value;
  GradEdge leaf;                // of a Parameter that wants gradients
  GradEdge frozen;              // the leaf while frozen
  std::mutex mutex;             // guards readers
  std::vector<Value*> readers;  // views that share the storage
  ~StateCell() override;
};

// A counted, recorded copy of bytes on one device.
void copy_bytes(Device& d, Buffer from, Buffer to, int64_t bytes, Loc loc);

// Implemented by fuse.
void drop_expr(Value& v);                                               // a pending value dies unread
Ref<Value> converted(const Ref<Value>& x, DType t, const Strides& st);  // x itself if it already is
void note_flush(const char* reason);                                    // for explain()
// The fallback of Tensor::to_string for one element.
std::string format_element(const void* p, DType t);

}  // namespace flame
