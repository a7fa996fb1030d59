// Internal: oneDNN behind two small things: its engine, and a prepared primitive that runs on bare pointers.
#pragma once
#include <atomic>
#include <cstring>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "flame/core/dtype.h"
#include "flame/device/cpu/parallel.h"
#include "flame/device/device.h"

namespace flame::onednn {

inline const dnnl::engine& engine() {
  static const dnnl::engine e(dnnl::engine::kind::cpu, 0);
  return e;
}
// CPU streams carry no work of their own: primitives run on the caller.
inline dnnl::stream& stream() {
  thread_local dnnl::stream s(engine());
  return s;
}

inline dnnl::memory::data_type data_type(DType t) {
  using Type = dnnl::memory::data_type;
  if (t == DType::f32) return Type::f32;
  if (t == DType::bf16) return Type::bf16;
  return t == DType::f16 ? Type::f16 : Type::undef;
}

// Scratch memory is ours (Plan::workspace), so that running allocates nothing.
inline dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

// oneDNN's reference loops are slower than ours.
inline bool is_reference(const dnnl::primitive_desc_base& pd) {
  return std::strstr(pd.impl_info_str(), "ref") != nullptr;
}

// A primitive and its arguments; run() takes one pointer an argument, in the order given here. Two threads may run it at
// once: each takes the spare set of memory objects, or makes one.
class Call {
 public:
  struct Argument {
    int id;  // DNNL_ARG_...
    dnnl::memory::desc desc;
  };
  Call(dnnl::primitive p, std::vector<Argument> arguments)
      : primitive_(std::move(p)), arguments_(std::move(arguments)), threads_(num_threads()) {
    spare_ = make_frame();
  }
  ~Call() { delete spare_.load(); }

  void run(std::initializer_list<void*> pointers) {
    std::unique_ptr<Frame> frame(spare_.exchange(nullptr, std::memory_order_acq_rel));
    if (!frame) frame.reset(make_frame());
    size_t i = 0;
    for (void* p : pointers) dnnl_memory_set_data_handle(frame->arguments[i++].memory, p);
    const LibraryThreads scope(threads_);  // a primitive counts on as many as it was made with
    const dnnl_status_t status = dnnl_primitive_execute(
        primitive_.get(), stream().get(), static_cast<int>(frame->arguments.size()), frame->arguments.data());
    delete spare_.exchange(frame.release(), std::memory_order_acq_rel);
    if (status != dnnl_success) throw DeviceError("oneDNN: a prepared primitive failed to run", Loc::current());
  }

 private:
  struct Frame {
    std::vector<dnnl::memory> memory;
    std::vector<dnnl_exec_arg_t> arguments;
  };
  Frame* make_frame() const {
    auto f = std::make_unique<Frame>();
    for (const Argument& a : arguments_) {
      f->memory.emplace_back(a.desc, engine(), static_cast<void*>(nullptr));
      f->arguments.push_back({a.id, f->memory.back().get()});
    }
    return f.release();
  }

  dnnl::primitive primitive_;
  std::vector<Argument> arguments_;
  int threads_;
  std::atomic<Frame*> spare_{nullptr};
};

}  // namespace flame::onednn
