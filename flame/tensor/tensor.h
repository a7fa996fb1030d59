// Tensor, a value: writing through one handle is never seen through another. State, the one mutable cell.
#pragma once
#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flame/device/device.h"

namespace flame {

struct Expr;       // a pending computation, see fuse/island.h
class Island;      // a thread's pending computations
struct StateCell;  // what a State handle shares
class Arg;         // a tensor or a number, see ops/pointwise.h
class Index;       // one entry of x.index({...}), see ops/index.h
struct SetOptions {
  bool accumulate = false;  // add instead of replacing; repeated places add up
};

// The bytes behind a tensor, or the pending expression that will make them. Shared, immutable once materialised.
class Value final : public RefCounted {
 public:
  Value(Device& device, DType dtype, const Shape& shape, const Strides& strides)
      : device(&device), dtype(dtype), shape(shape), strides(strides) {
    checked_numel(shape);
  }
  ~Value() override;
  Device* device;
  DType dtype;
  Shape shape;
  Strides strides;                   // in elements
  int64_t offset = 0;                // in elements
  Ref<Storage> storage;              // null while pending
  std::atomic<Expr*> expr{nullptr};  // owned; null once materialised
  Island* island = nullptr;          // where it was noted, if it ever was pending
  StateCell* cell = nullptr;         // set while the storage is a State's

  // A tensor over the same storage; knows of the State, if any. `base` must be materialised.
  static Ref<Value> view(const Value& base, const Shape& shape, const Strides& strides, int64_t offset);

  bool pending() const { return expr.load(std::memory_order_acquire) != nullptr; }
  Meta meta() const { return {dtype, shape, strides}; }
  Buffer buffer() const { return {storage.get(), offset * static_cast<int64_t>(size_of(dtype))}; }
};

// A step of the backward graph; see autograd/node.h.
class Node;
void retain_node(Node* n);
void release_node(Node* n);

// Where a tensor's gradient goes: output `index` of `node`. Null for tensors without a gradient.
class GradEdge {
 public:
  GradEdge() = default;
  GradEdge(Node* n, uint32_t index) : node_(n), index_(index) {
    if (node_) retain_node(node_);
  }
  GradEdge(const GradEdge& o) : GradEdge(o.node_, o.index_) {}
  GradEdge(GradEdge&& o) noexcept : node_(std::exchange(o.node_, nullptr)), index_(o.index_) {}
  GradEdge& operator=(GradEdge o) noexcept {
    std::swap(node_, o.node_);
    std::swap(index_, o.index_);
    return *this;
  }
  ~GradEdge() {
    if (node_) release_node(node_);
  }
  Node* node() const { return node_; }
  uint32_t index() const { return index_; }
  explicit operator bool() const { return node_ != nullptr; }

 private:
  Node* node_ = nullptr;
  uint32_t index_ = 0;
};

class Tensor {
 public:
  Tensor() = default;  // undefined: has no shape; most calls throw
  explicit Tensor(Ref<Value> v, GradEdge e = {}) : value_(std::move(v)), edge_(std::move(e)) {}
  // A copy of host numbers, contiguous, row-major; throws ShapeError if the counts differ.
  template <class T>
  static Tensor from(std::span<const T> data, const Shape& shape, Device& d = default_device(),
                     Loc loc = Loc::current()) {
    return from_host(data.data(), data.size(), dtype_of<T>(), shape, d, loc);
  }
  template <class T>
  static Tensor from(const std::vector<T>& data, const Shape& shape, Device& d = default_device(),
                     Loc loc = Loc::current()) {
    if constexpr (std::is_same_v<T, bool>) {
      const std::vector<uint8_t> bytes(data.begin(), data.end());
      return from_host(bytes.data(), bytes.size(), DType::boolean, shape, d, loc);
    } else {
      return from(std::span<const T>(data), shape, d, loc);
    }
  }
  // A tensor over somebody else's memory on `d`, without a copy. The memory may not change while a tensor reads it;
  // `deleter(data)` is called when the last one is gone, and not if this throws. Strides in elements; none: row-major.
  template <class T, class Deleter>
  static Tensor from_blob(T* data, const Shape& shape, Deleter deleter, const Strides& strides = {}, Device& d = cpu(),
                          Loc loc = Loc::current()) {
    return over_blob(
        data, dtype_of<T>(), shape, strides, [data, deleter = std::move(deleter)] { deleter(data); }, d, loc);
  }
  static Tensor from_host(const void* data, size_t count, DType dtype, const Shape& shape, Device& d = default_device(),
                          Loc loc = Loc::current());
  static Tensor empty(const Shape& shape, DType dtype = DType::f32, Device& d = default_device(),
                      Loc loc = Loc::current());  // uninitialised bytes

  bool defined() const { return static_cast<bool>(value_); }
  const Shape& shape() const { return value().shape; }
  const Strides& strides() const { return value().strides; }
  int rank() const { return value().shape.rank(); }
  int64_t size(int64_t axis, Loc loc = Loc::current()) const;  // negative axes count from the end
  int64_t numel() const { return flame::numel(value().shape); }
  DType dtype() const { return value().dtype; }
  Device& device() const { return *value().device; }
  bool is_pending() const { return value().pending(); }

  // Host reads: run what is pending, wait, copy. Counted in stats().host_copies. T must be the tensor's dtype.
  template <class T>
  std::vector<T> to_vector(Loc loc = Loc::current()) const {
    if constexpr (std::is_same_v<T, bool>) {
      std::vector<uint8_t> bytes(static_cast<size_t>(numel()));
      copy_to_host(bytes.data(), DType::boolean, loc);
      return {bytes.begin(), bytes.end()};
    } else {
      std::vector<T> out(static_cast<size_t>(numel()));
      copy_to_host(out.data(), dtype_of<T>(), loc);
      return out;
    }
  }
  void copy_to_host(void* dst, DType expected, Loc loc = Loc::current()) const;  // row-major
  // Fills `out`, row-major; ShapeError unless it has numel() elements.
  template <class T>
  void copy_to(std::span<T> out, Loc loc = Loc::current()) const {
    check_span(out.size(), loc);
    copy_to_host(out.data(), dtype_of<T>(), loc);
  }
  // The elements in place, without a copy: of a contiguous tensor on a device whose memory the host can read, else
  // ValueError or DeviceError. Valid while a tensor over these bytes lives and, for a State's, until it is written.
  template <class T>
  std::span<const T> span(Loc loc = Loc::current()) const {
    return {static_cast<const T*>(host_data(dtype_of<T>(), loc)), static_cast<size_t>(numel())};
  }
  // The one element, of any dtype, else ShapeError. An integer or bool T takes an integer or bool dtype, else
  // DTypeError, whose number fits, else ValueError. double is exact up to 2^53.
  template <class T = double>
  T item(Loc loc = Loc::current()) const {
    if constexpr (std::is_floating_point_v<T>) return static_cast<T>(scalar(loc).value);
    else return static_cast<T>(whole_number(dtype_of<T>(), loc));
  }
  std::string to_string() const;  // NumPy style, abbreviated

  // Autograd.
  bool requires_grad() const { return static_cast<bool>(edge_); }
  Tensor& requires_grad_(Loc loc = Loc::current());  // makes this handle a leaf; copies of it share the leaf
  Tensor detach() const { return Tensor(value_); }
  Tensor grad() const;  // of a leaf, after backward; undefined if none arrived
  void set_grad(const Tensor& g, Loc loc = Loc::current()) const;
  // Called with this tensor's full gradient; returning a defined tensor replaces it.
  void register_hook(std::function<Tensor(const Tensor&)> fn, Loc loc = Loc::current()) const;

  // Shape and dtype changes; definitions in ops/. reshape takes one -1.
  Tensor to(DType t, Loc loc = Loc::current()) const;
  Tensor to(Device& d, Loc loc = Loc::current()) const;
  Tensor contiguous(Loc loc = Loc::current()) const;
  Tensor reshape(const Shape& s, Loc loc = Loc::current()) const;
  Tensor flatten(int64_t from = 0, int64_t to = -1, Loc loc = Loc::current()) const;
  Tensor permute(const Dims& order, Loc loc = Loc::current()) const;
  Tensor transpose(int64_t a, int64_t b, Loc loc = Loc::current()) const;
  Tensor t(Loc loc = Loc::current()) const { return transpose(-1, -2, loc); }
  Tensor expand(const Shape& s, Loc loc = Loc::current()) const;
  Tensor squeeze(int64_t axis, Loc loc = Loc::current()) const;  // axes of other sizes than 1 stay
  Tensor squeeze(const Dims& axes, Loc loc = Loc::current()) const;
  Tensor squeeze(Loc loc = Loc::current()) const;  // all axes of size 1
  Tensor unsqueeze(int64_t axis, Loc loc = Loc::current()) const;
  Tensor narrow(int64_t axis, int64_t start, int64_t length, Loc loc = Loc::current()) const;
  Tensor slice(int64_t axis, int64_t start, int64_t stop, int64_t step = 1, Loc loc = Loc::current()) const;
  Tensor select(int64_t axis, int64_t index, Loc loc = Loc::current()) const;
  Tensor sum(const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current()) const;
  Tensor mean(const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current()) const;
  // Reading by integers, slices, masks and index tensors, and a copy with `value` written there; see ops/index.h.
  Tensor index(std::initializer_list<Index> at, Loc loc = Loc::current()) const;
  Tensor index(std::span<const Index> at, Loc loc = Loc::current()) const;
  Tensor set(std::initializer_list<Index> at, const Arg& value, const SetOptions& o = {},
             Loc loc = Loc::current()) const;
  Tensor set(std::span<const Index> at, const Arg& value, const SetOptions& o = {}, Loc loc = Loc::current()) const;

  // Internal.
  Value& value() const;  // throws ValueError when undefined
  const Ref<Value>& value_ref() const { return value_; }
  const GradEdge& edge() const { return edge_; }
  void* data() const;  // materialises; the device address of element 0

 private:
  static Tensor over_blob(void* data, DType t, const Shape& shape, const Strides& strides,
                          std::function<void()> release, Device& d, Loc loc);
  void check_span(size_t count, Loc loc) const;
  const void* host_data(DType expected, Loc loc) const;
  Scalar scalar(Loc loc) const;                     // the one element
  int64_t whole_number(DType fits, Loc loc) const;  // the one element, checked against the range of `fits`
  Ref<Value> value_;
  GradEdge edge_;
};

// Runs whatever is pending behind `v`, so that v.storage is set. Implemented by fuse.
void materialize(Value& v);
// Runs whatever this thread has pending. Before a State is written, and at the end of a recorded step.
void flush_pending();

// A mutable cell at a fixed device address. Copies of the handle share the cell.
// Writing it first runs pending readers; whoever still shares the old bytes gets them in a new buffer.
class State {
 public:
  State() noexcept;
  State(const State&) noexcept;
  State(State&&) noexcept;
  State& operator=(const State&) noexcept;
  State& operator=(State&&) noexcept;
  ~State();
  explicit State(const Tensor& initial, Loc loc = Loc::current());  // copies the bytes
  bool defined() const { return static_cast<bool>(cell_); }
  Tensor tensor() const;
  operator Tensor() const { return tensor(); }
  const Shape& shape() const { return value().shape; }
  DType dtype() const { return value().dtype; }
  Device& device() const { return *value().device; }
  int64_t numel() const { return flame::numel(shape()); }
  void assign(const Tensor& t, Loc loc = Loc::current()) const;  // same shape; cast to the cell's dtype
  // For ops that write in place: flushes readers, parts sharers, returns the value to write through.
  Value& begin_write(Loc loc = Loc::current()) const;
  Value& value() const;                           // throws ValueError when undefined
  const void* id() const { return cell_.get(); }  // equal for handles of one cell

 protected:
  Ref<StateCell> cell_;
};

// A State that an optimizer trains: tensor() carries a leaf, and gradients arrive in grad().
class Parameter : public State {
 public:
  Parameter() = default;
  explicit Parameter(const Tensor& initial, Loc loc = Loc::current());
  Tensor grad() const;  // undefined if none arrived
  void set_grad(const Tensor& g, Loc loc = Loc::current()) const;
  void zero_grad() const;  // drops it
  bool requires_grad() const;
  void requires_grad_(bool on) const;  // freezes or thaws
};

}  // namespace flame
