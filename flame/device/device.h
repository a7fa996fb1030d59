// The device interface: memory, plans, the one checked launcher, and library services as plain descriptions.
// A plan is prepared once per (op, attributes, metadata), holds no pointers, and is run with buffers.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flame/core/dtype.h"
#include "flame/core/error.h"
#include "flame/core/ref.h"
#include "flame/core/shape.h"

namespace flame {

class Device;
class Kernel;
class LaunchGraph;
class Recorder;
struct GraphDesc;
struct KernelDesc;

// What a kernel is told about a tensor before it has a pointer. Strides count elements.
struct Meta {
  DType dtype = DType::f32;
  Shape shape;
  Strides strides;
  bool operator==(const Meta&) const = default;
};
inline Meta contiguous_meta(DType t, const Shape& s) { return {t, s, contiguous_strides(s)}; }

// What memory of a device is for: tensors, the planned memory of recorded steps, scratch of launches, and buffers that the
// DataLoader's copies fill.
enum class MemoryKind : uint8_t { tensor, recording, workspace, staging };
inline constexpr int num_memory_kinds = 4;

// One allocation on a device, shared by every tensor that views it.
class Storage final : public RefCounted {
 public:
  Storage(Device& device, size_t bytes, Loc where, MemoryKind kind = MemoryKind::tensor);  // throws OutOfMemory
  // Somebody else's memory on `device`; `release` is called once, when the last tensor over it is gone.
  Storage(Device& device, void* data, size_t bytes, std::function<void()> release);
  ~Storage() override;
  Device& device() const { return device_; }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  uint64_t id() const { return id_; }  // unique in the process, increasing

 private:
  Device& device_;
  void* data_;
  size_t bytes_;
  uint64_t id_;
  MemoryKind kind_ = MemoryKind::tensor;
  std::function<void()> release_;  // set for memory that is not the device's own
};

// A kernel argument that is no tensor: a number, or the address of a host block read at launch.
union Word {
  double f;
  int64_t i;
  uint64_t u;
  const void* p;
};
inline Word word(double v) { return {.f = v}; }
inline Word word(int64_t v) { return {.i = v}; }
inline Word word(const void* v) { return {.p = v}; }

struct Run {
  void* const* buffers;  // reads first, then writes, offsets applied
  const Word* scalars;
  void* workspace;  // 64-byte aligned
};

// The least that a launch has to do, by which a profiler judges its time.
struct Work {
  int64_t bytes = -1;       // to move, each input and each output once; -1: all that its buffers hold
  int64_t flops = 0;        // of products, convolutions and attention
  DType type = DType::f32;  // that they are taken of
};

class Plan : public RefCounted {
 public:
  Plan(std::string op, std::function<void(const Run&)> body, size_t workspace = 0)
      : op(std::move(op)), workspace(workspace), body(std::move(body)) {}
  const std::string op;    // for reports and errors
  const size_t workspace;  // bytes
  const std::function<void(const Run&)> body;
  // For profilers; set by who prepares the plan, before anyone else sees it.
  Work work;
  std::string user;  // the op whose plan it is, where that has another name
};

struct Buffer {
  Storage* storage;
  int64_t offset;  // bytes
};

struct Launch {
  const Ref<Plan>& plan;
  std::span<const Buffer> reads;
  std::span<const Buffer> writes;
  std::span<const Word> scalars;
};

// What a product, a convolution or a layer passes its result through. gelu_tanh is gelu's short form, by tanh.
enum class Activation : uint8_t { none, relu, gelu, gelu_tanh };

// c[..., m, n] = a[..., m, k] @ b[..., k, n] (+ bias[n]); batch strides may be 0; a and b may be transposed by strides.
// Buffers: a, b, (bias), (kept), (added) -> c, (kept), (sums). On devices that fuse(), one of: activation (with keep);
// slope (with sums) or sums, no bias; add. All but add of matrices. c may be float32 for 16 bits, with none but add.
struct GemmDesc {
  Meta a, b, c;
  bool bias = false;
  bool tf32 = false;                         // float32 operands may be rounded to 10 bits of mantissa
  Activation activation = Activation::none;  // relu or gelu_tanh of the sum with the bias
  bool keep = false;                         // and what its slope is taken at is written: see kept_meta
  Activation slope = Activation::none;       // c is multiplied by this activation's slope at what was kept
  bool sums = false;                         // sums of a's rows, [m], are written; with a slope, of c's columns, [n]
  bool add = false;                          // the product is added to a tensor like c, which may be c
};
// What is kept of a contiguous [m, n]: for gelu_tanh the numbers that it was taken of, for relu a bit each, set where they
// are positive, 8 in a byte from the lowest on, rows of a multiple of 16 bytes.
Meta kept_meta(Activation a, const Meta& c);

// Convolution over one to three axes. x: [N, C, H, W], w: [O, C / groups, R, S], y: [N, O, H', W'], or with one or three
// axes in the place of two. Buffers: forward (x, w, bias?) -> y; backward_data (dy, w) -> dx; backward_weight (x, dy) -> dw.
struct ConvDesc {
  enum class Pass : uint8_t { forward, backward_data, backward_weight } pass;
  Meta x, w, y;
  Dims stride, padding, padding_after, dilation;  // one number an axis; padding_after may be negative
  int64_t groups = 1;
  bool bias = false;
  Activation activation = Activation::none;  // relu, of a forward pass, on devices that fuse()
  bool tf32 = false;                         // float32 operands may be rounded to 10 bits of mantissa
};

// Attention without mask and dropout: q [B, H, L, E], k [B, K, S, E], v [B, K, S, D] with K dividing H; lse [B, H, L] is
// contiguous float32. Buffers: forward (q, k, v) -> (out, lse); backward (q, k, v, out, lse, gradient of out) -> (dq, dk, dv).
// Scalars: the scale.
struct AttentionDesc {
  bool backward = false, causal = false;
  Meta q, k, v, out, g, dq, dk, dv;  // the last four of a backward alone
};

// Bytes that identify a plan: op, attributes, metadata. Compared whole, so no two plans are ever confused.
class Key {
 public:
  template <class T>
    requires std::is_arithmetic_v<T> || std::is_enum_v<T> || std::is_pointer_v<T>
  Key& operator<<(T v) {
    put(&v, sizeof v);
    return *this;
  }
  Key& operator<<(std::string_view s) {
    *this << static_cast<uint32_t>(s.size());
    put(s.data(), s.size());
    return *this;
  }
  Key& operator<<(const char* s) { return *this << std::string_view(s); }
  Key& operator<<(const Dims& d) {
    *this << static_cast<uint8_t>(d.rank());
    put(d.begin(), sizeof(int64_t) * static_cast<size_t>(d.rank()));
    return *this;
  }
  Key& operator<<(const Meta& m) { return *this << m.dtype << m.shape << m.strides; }
  void put(const void* data, size_t n);
  uint64_t hash() const;
  std::string_view bytes() const { return {size_ <= inline_.size() ? inline_.data() : spill_.data(), size_}; }

 private:
  std::array<char, 4096> inline_;
  std::string spill_;
  size_t size_ = 0;
};

class PlanCache {
 public:
  PlanCache();
  ~PlanCache();
  // The cached plan of `key`, or the one that `make` prepares, which is then kept. Thread-safe.
  Ref<Plan> get(const Key& key, const std::function<Ref<Plan>()>& make);
  size_t size() const;
  void clear();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct MemoryStats {
  size_t allocated = 0, peak = 0, reserved = 0;                    // bytes: live, most ever live, held from the system
  size_t limit = 0;                                                // set_memory_limit; 0: none
  size_t tensors = 0, recordings = 0, workspace = 0, staging = 0;  // `allocated` by what it is for
  // A GPU's alone.
  size_t library = 0;  // memory of the device that kernels and NVIDIA's libraries took beside `reserved`
  size_t pinned = 0;   // memory of the host that copies go through
};

// Memory on its way to a device, and what the thread that will use it calls before its first launch.
struct Upload {
  Ref<Storage> storage;
  std::function<void()> arrive;
};

class Device {
 public:
  enum class Kind : uint8_t { cpu, cuda, trace };
  Device(Kind kind, std::string name);
  virtual ~Device();
  Kind kind() const { return kind_; }
  const std::string& name() const { return name_; }
  virtual bool host_accessible() const = 0;

  // Memory is 64-byte aligned and cached; allocate throws OutOfMemory with a report.
  virtual void* allocate(size_t bytes, Loc where) = 0;
  virtual void deallocate(void* p, size_t bytes) noexcept = 0;
  virtual void copy_from_host(void* dst, const void* src, size_t bytes) = 0;
  virtual void copy_to_host(void* dst, const void* src, size_t bytes) = 0;
  // From another device whose memory the host cannot read, in order with the launches of both.
  virtual void copy_from_device(void* dst, Device& from, const void* src, size_t bytes);
  // A copy beside this device's launches; `src` may be changed when it returns. Any thread.
  virtual Upload upload(const void* src, size_t bytes, Loc where);
  virtual void synchronize() = 0;

  virtual MemoryStats memory_stats() const = 0;
  virtual void reset_peak_memory() = 0;
  virtual void empty_cache() = 0;  // gives cached blocks back to the system
  // At most so many bytes are held from the system; 0: no limit. NotImplemented where memory is the system's.
  virtual void set_memory_limit(size_t bytes);

  // For the bodies of plans: bytes within the device, in order with its launches.
  virtual void copy_within(void* dst, const void* src, size_t bytes);
  virtual void fill_bytes(void* dst, int byte, size_t bytes);
  // A kernel from text, compiled once; NotImplemented on devices that take none.
  virtual Ref<Kernel> kernel(const KernelDesc& d);

  // Library services: prepared once, launched like any plan.
  virtual Ref<Plan> gemm(const GemmDesc& d) = 0;
  virtual Ref<Plan> conv(const ConvDesc& d) = 0;
  virtual bool fuses() const { return false; }          // activations, slopes and sums into products and convolutions
  virtual Ref<Plan> attention(const AttentionDesc& d);  // null where no library has a plan for it

  // The one checked launcher: allocates workspace, counts, records if this thread records, runs.
  void launch(const Launch& l, Loc where = Loc::current());
  // A launch of a recorded step, its pointers and workspace already in place. Not recorded; counted, if it is made now.
  void replay(const Launch& l, const Run& r, bool counted = true);
  // The launches of a recorded step, kept to be started as one; null where they are made one by one. See device/recorder.h.
  virtual Ref<LaunchGraph> capture(const GraphDesc& g);
  PlanCache& plans() { return plans_; }

 protected:
  virtual void run(const Plan& plan, const Launch& l, const Run& run) = 0;

 private:
  Kind kind_;
  std::string name_;
  PlanCache plans_;
};

Device& cpu();             // always there
Device& default_device();  // cpu() unless set
void set_default_device(Device& d);
// "cpu"; "cuda" or "cuda:1", for which libflame_cuda.so is loaded; "auto": a GPU where there is one, else the CPU.
// DeviceError says which piece is missing; from "auto" it comes only where there is a GPU that does not work.
Device& device(std::string_view name);
void register_device(std::unique_ptr<Device> d);  // for plugins and tests
void set_num_threads(int n);                      // of the CPU device; default: all cores
int num_threads();

// Counters of this process since start; the difference of two snapshots is what a piece of code did.
struct Stats {
  uint64_t launches = 0;            // plans run, but for those of recorded steps that are launched as one graph
  uint64_t island_launches = 0;     // of these, islands
  uint64_t island_ops = 0;          // pointwise ops and reductions run inside islands of two or more
  uint64_t pointwise_ops = 0;       // pointwise ops and reductions in all
  uint64_t plans_prepared = 0;      // plan cache misses
  uint64_t system_allocations = 0;  // memory asked from the operating system or driver
  uint64_t host_copies = 0;         // tensors read on the host or written from it
  uint64_t replays = 0;             // recorded steps replayed
  uint64_t recording_misses = 0;    // recorded steps that ran eagerly after the warm-up
  uint64_t device_copies = 0;       // tensors copied from one GPU to another
  uint64_t uploads = 0;             // batches copied to a device beside its launches
  uint64_t graph_launches = 0;      // recorded steps launched as one graph
};
Stats stats();

MemoryStats memory_stats(const Device& d = default_device());
void reset_peak_memory(Device& d = default_device());
void empty_cache(Device& d = default_device());
// `bytes` at most are held from the driver for tensors of `d`; beyond them, OutOfMemory. 0: no limit.
void set_memory_limit(Device& d, size_t bytes);

// On: plans are chosen without timing, and no sum is taken in an order that changes, so that every process gives the same
// bits. Off by default.
void set_deterministic(bool on);
bool deterministic();

}  // namespace flame
