// A user's kernel as an op: its inputs go through the dispatcher like any other's, so it is checked, recorded and counted.
#include "flame/ops/cuda_kernel.h"

#include <cstring>
#include <mutex>
#include <set>

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/kernel.h"
#include "flame/ops/check_internal.h"

namespace flame {

struct CudaKernel::Source {
  std::string text;
  const char* entry;
  std::vector<std::string> options;
  Loc loc;
};

namespace {

// Names of kernels live on, since reasons of flushes hold them.
const char* kept(const std::string& name) {
  static std::mutex mutex;
  static auto* all = new std::set<std::string>;
  std::lock_guard lock(mutex);
  return all->insert(name).first->c_str();
}

using Kind = KernelArgument::Kind;

// A parameter: which kind, of a number its size and alignment.
struct Parameter {
  Kind kind;
  size_t bytes = 0, alignment = 0;
};
constexpr size_t words_of(size_t bytes) { return (bytes + sizeof(Word) - 1) / sizeof(Word); }

// As flame::View in cuda_kernel.cuh.
struct DeviceView {
  const void* data = nullptr;
  int64_t rank = 0;
  int64_t shape[max_rank]{}, strides[max_rank]{};
};

class UserKernel final : public Op {
 public:
  UserKernel(std::shared_ptr<const CudaKernel::Source> source, const KernelLaunch& at,
             const std::vector<KernelArgument>& arguments)
      : source_(std::move(source)), at_(at) {
    for (const KernelArgument& a : arguments) {
      parameters_.push_back({a.kind, a.bytes.size(), a.alignment});
      if (a.kind == Kind::output) outputs_.push_back(a.output);
      if (a.kind == Kind::pointer || a.kind == Kind::view) views_.push_back(a.kind == Kind::view);
      if (a.kind != Kind::number) continue;
      const size_t first = numbers_.size();
      numbers_.resize(first + words_of(a.bytes.size()), word(int64_t{0}));
      std::memcpy(&numbers_[first], a.bytes.data(), a.bytes.size());
    }
  }
  const char* name() const override { return source_->entry; }
  std::vector<Meta> infer(std::span<const Tensor>, Loc) const override {
    std::vector<Meta> out;
    out.reserve(outputs_.size());
    for (const KernelOutput& o : outputs_) out.push_back(contiguous_meta(o.dtype, o.shape));
    return out;
  }
  Layout layout(int input, const Meta&) const override {
    return views_[static_cast<size_t>(input)] ? Layout::any : Layout::contiguous;
  }
  Device* device() const override { return at_.device; }
  bool differentiable() const override { return false; }
  std::vector<Word> scalars() const override { return numbers_; }
  void key(Key& k) const override {
    k << source_->text << source_->options.size();
    for (const std::string& o : source_->options) k << o;
    k << at_.blocks << at_.y << at_.z << at_.threads << at_.threads_y << at_.threads_z << at_.shared;
    for (const Parameter& p : parameters_) k << p.kind << p.bytes << p.alignment;
    for (const KernelOutput& o : outputs_) k << o.zeroed;
  }
  Ref<Plan> prepare_cpu(std::span<const Meta>, std::span<const Meta>) const override {
    fail<NotImplemented>(
        at_.loc, "{}: a CUDA kernel runs on a GPU alone; its inputs, or the default device, are on cpu", name());
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    std::vector<DeviceView> views;
    for (const Meta& m : in) {
      DeviceView& v = views.emplace_back();
      v.rank = m.shape.rank();
      for (int i = 0; i < m.shape.rank(); ++i) {
        v.shape[i] = m.shape[i];
        v.strides[i] = m.strides[i];
      }
    }
    std::vector<size_t> zeroed;  // bytes of an output, or 0
    for (size_t i = 0; i < out.size(); ++i)
      zeroed.push_back(outputs_[i].zeroed ? static_cast<size_t>(numel(out[i].shape)) * size_of(out[i].dtype) : 0);
    const Grid grid{.blocks = at_.blocks,
                    .y = at_.y,
                    .z = at_.z,
                    .threads = at_.threads,
                    .shared = at_.shared,
                    .threads_y = at_.threads_y,
                    .threads_z = at_.threads_z};
    return make_ref<Plan>(name(), [&d, k = compiled(d), parameters = parameters_, views, zeroed, grid](const Run& r) {
      KernelArguments all;
      size_t read = 0, written = 0;
      const Word* number = r.scalars;
      for (const Parameter& p : parameters) {
        if (p.kind == Kind::number) {
          all.put(number, p.bytes, p.alignment);
          number += words_of(p.bytes);
        } else if (p.kind == Kind::output) {
          void* to = r.buffers[views.size() + written];
          d.fill_bytes(to, 0, zeroed[written++]);
          all << to;
        } else if (p.kind == Kind::view) {
          DeviceView v = views[read];
          v.data = r.buffers[read++];
          all << v;
        } else {
          all << r.buffers[read++];
        }
      }
      k->launch(grid, all.bytes());
    });
  }

 private:
  std::shared_ptr<const CudaKernel::Source> source_;
  KernelLaunch at_;
  std::vector<Parameter> parameters_;
  std::vector<KernelOutput> outputs_;
  std::vector<bool> views_;  // of the inputs
  std::vector<Word> numbers_;

  // The log speaks of lines of the user's text.
  Ref<Kernel> compiled(Device& d) const {
    const std::string text =
        fmt::format("#include \"flame/ops/cuda_kernel.cuh\"\n#line 1 \"{}.cu\"\n{}", source_->entry, source_->text);
    try {
      return d.kernel({source_->entry, text, source_->entry, source_->options, true});
    } catch (const KernelError& e) { fail<ValueError>(source_->loc, "{}", e.text); }
  }
};

}  // namespace

CudaKernel::CudaKernel(std::string source, const std::string& entry, std::vector<std::string> options, Loc loc) {
  if (entry.empty() || source.empty())
    fail<ValueError>(loc, "CudaKernel: expected a source and the name of a function in it, got {}",
                     entry.empty() ? "no name" : "no source");
  source_ = std::make_shared<Source>(Source{std::move(source), kept(entry), std::move(options), loc});
}

std::vector<Tensor> CudaKernel::launch(const KernelLaunch& at, const std::vector<KernelArgument>& arguments) const {
  const char* name = source_->entry;
  const int64_t threads = int64_t{at.threads} * at.threads_y * at.threads_z;
  if (at.blocks < 1 || at.y < 1 || at.z < 1 || at.threads < 1 || at.threads_y < 1 || at.threads_z < 1 ||
      threads > 1024 || at.blocks > 2147483647 || at.y > 65535 || at.z > 65535 || at.shared < 0)
    fail<ValueError>(at.loc,
                     "{}: expected a grid of up to 2147483647 x 65535 x 65535 blocks of 1 to 1024 threads, got "
                     "{} x {} x {} of {} x {} x {} and {} bytes of shared memory",
                     name, at.blocks, at.y, at.z, at.threads, at.threads_y, at.threads_z, at.shared);
  std::vector<Tensor> in;
  for (const KernelArgument& a : arguments) {
    if (a.kind == Kind::output) check_sizes(name, a.output.shape, at.loc);
    if (a.kind != Kind::pointer && a.kind != Kind::view) continue;
    check_defined(name, a.tensor, at.loc);
    in.push_back(a.tensor);
  }
  try {
    return dispatch_multi(make_ref<UserKernel>(source_, at, arguments), in, at.loc);
  } catch (const KernelError& e) { fail<ValueError>(at.loc, "{}", e.text); }
}

}  // namespace flame
