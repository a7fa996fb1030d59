// Convolutions by cuDNN, channels-last; several engines are timed on the operands of a plan's first run, and the choice stays
// on disk. What cuDNN has no engine for is left to the own kernels. Filters that are not channels-last are turned in the
// workspace, and buffers that do not start at a multiple of 16 bytes are copied to one.
#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "flame/core/format.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/dnn_graph.h"
#include "flame/device/cuda/library.h"
#include "flame/device/cuda/tuning.h"

namespace flame::cuda {

DnnFunctions::DnnFunctions() {
  void* l = need_library("cuDNN", {"libcudnn.so.9", "libcudnn.so"});
#define FLAME_LOAD(name) name = reinterpret_cast<decltype(name)>(need_symbol(l, #name));
  FLAME_DNN_FUNCTIONS(FLAME_LOAD)
#undef FLAME_LOAD
}

namespace {

using Pass = ConvDesc::Pass;
constexpr size_t most_candidates = 6, most_workspace = size_t{64} << 20;

// Whether padding alike on both sides gives the same places of y; cuDNN's engines want that.
bool even_padding(const ConvDesc& c) {
  for (int i = 0; i < c.stride.rank(); ++i) {
    const int64_t room = c.x.shape[2 + i] + 2 * c.padding[i] - c.dilation[i] * (c.w.shape[2 + i] - 1) - 1;
    if (c.padding[i] < 0 || room < 0 || room / c.stride[i] + 1 != c.y.shape[2 + i]) return false;
  }
  return true;
}

bool for_library(const ConvDesc& c) {
  return is_float(c.x.dtype) && numel(c.x.shape) > 0 && numel(c.y.shape) > 0 && numel(c.w.shape) > 0 && even_padding(c);
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
bool finished(const ConvDesc& c) { return c.bias || c.activation != Activation::none; }
// A kernel that adds the bias to a result of 16 bits rounds it a second time.
bool rounds_twice(const ConvDesc& c) { return c.bias && size_of(c.x.dtype) == 2; }
size_t bytes_of(const Meta& m) { return static_cast<size_t>(numel(m.shape)) * size_of(m.dtype); }

// The kernels around cuDNN's: filters from [outer][channels][taps] to [outer][taps][channels] and back, and what ends a
// channels-last result.
struct Helpers {
  Ref<Kernel> swap;
  std::optional<ConvFinish> finish;
  const int64_t outer, channels, taps;
  const bool turns;
  Helpers(Device& d, const ConvDesc& c)
      : outer(c.w.shape[0]),
        channels(c.w.shape[1]),
        taps(numel(c.w.shape) / (outer * channels)),
        turns(channels > 1 && taps > 1 && !is_channels_last(c.w.shape, c.w.strides)) {
    if (turns)
      swap = d.kernel({"conv filter",
                       std::string(own_text("device/cuda/filter.cu")),
                       "swap_last",
                       {std::string("-DFLAME_T=") + device_type(c.x.dtype)}});
  }
  void ask_finish(Device& d, const ConvDesc& c) { finish.emplace(d, c.x.dtype, c.bias, c.activation); }
  // [outer][a][b] to [outer][b][a], by tiles that hold all of a short axis.
  void turn(void* from, void* to, int64_t a, int64_t b) const {
    constexpr int64_t tile = 4096, few = 63;  // numbers of shared memory; an odd row has no two lanes in one bank
    int64_t ta = std::min(a, few), tb = std::min(b, few);
    if (a < b) tb = std::min(b, (tile / ta - 1) / 32 * 32);
    else ta = std::min(a, tile / (tb | 1) / 32 * 32);
    (*swap)({.blocks = outer * ((a + ta - 1) / ta) * ((b + tb - 1) / tb)}, from, to, a, b, static_cast<int32_t>(ta),
            static_cast<int32_t>(tb));
  }
};

// A plan's buffers, those that are not aligned replaced by copies while a launch needs them. The last one is written. Their
// memory is taken and given back in the program's order, not when a launch that waits is made.
class Aligned {
 public:
  Aligned(CudaDevice& d, const Run& r, std::span<const Meta> metas) : device_(d) {
    for (size_t i = 0; i < metas.size(); ++i) {
      buffers_[i] = r.buffers[i];
      if (aligned(r.buffers[i])) continue;
      const size_t bytes = bytes_of(metas[i]);
      const Storage& copy = *copies_.emplace_back(make_ref<Storage>(d, bytes, Loc::current(), MemoryKind::workspace));
      buffers_[i] = copy.data();
      if (i + 1 == metas.size()) result_ = r.buffers[i], result_bytes_ = bytes;
      else d.copy_within(copy.data(), r.buffers[i], bytes);
      tuning_stats().aligned_copies += 1;
    }
    last_ = buffers_[metas.size() - 1];
  }
  Run run(const Run& r) const { return {buffers_.data(), r.scalars, r.workspace}; }
  void finish() {
    if (result_) device_.copy_within(result_, last_, result_bytes_);
  }

 private:
  CudaDevice& device_;
  std::array<void*, 4> buffers_{};
  std::vector<Ref<Storage>> copies_;  // their memory is used again by launches behind this one
  void *result_ = nullptr, *last_ = nullptr;
  size_t result_bytes_ = 0;
};

TuningKey key_of(const CudaDevice& d, const DnnFunctions& f, const ConvDesc& c) {
  constexpr const char* passes[] = {"forward", "backward_data", "backward_weight"};
  return {fmt::format("cuDNN {}", f.cudnnGetVersion()), fmt::format("{} sm_{}", d.gpu_name(), d.arch()),
          fmt::format("conv {} {}{}{}{} x {} w {} y {} stride {} padding {} dilation {} groups {}",
                      passes[static_cast<int>(c.pass)], c.x.dtype, c.tf32 ? " tf32" : "", c.bias ? " bias" : "",
                      c.activation == Activation::relu ? " relu" : "", c.x.shape, c.w.shape, c.y.shape, c.stride,
                      c.padding, c.dilation, c.groups)};
}

// A convolution with the engines that may compute it.
class Convolution {
 public:
  Convolution(CudaDevice& d, const ConvDesc& c)
      : device_(d),
        dnn_(d.libraries().dnn()),
        desc_(c),
        helpers_(d, c),
        key_(key_of(d, dnn_.f, c)),
        filter_bytes_(helpers_.turns ? bytes_of(c.w) : 0),
        y_count_(numel(c.y.shape)) {
    metas_ = {c.x, c.w, c.y};
    if (c.pass == Pass::backward_data) std::swap(metas_[0], metas_[2]);
    if (c.pass == Pass::backward_weight) std::swap(metas_[1], metas_[2]);
    if (c.bias) metas_.insert(metas_.begin() + 2, contiguous_meta(c.x.dtype, {c.y.shape[1]}));
  }
  bool prepare();  // false: cuDNN has no engine
  size_t workspace() const { return filter_at_ + filter_bytes_; }
  void run(const Run& r);
  const std::vector<Meta>& metas() const { return metas_; }  // of the buffers

 private:
  void find_candidates();
  bool go(const Execution& e, const Run& r, bool trying) const;
  void choose_among(const Run& r);

  CudaDevice& device_;
  Libraries::Dnn& dnn_;
  const ConvDesc desc_;
  Helpers helpers_;
  const TuningKey key_;
  const size_t filter_bytes_;
  const int64_t y_count_;
  std::vector<Meta> metas_;
  size_t filter_at_ = 0;
  std::vector<Execution> candidates_;
  size_t chosen_ = 0;
  bool decided_ = true, used_ = false;
  std::mutex mutex_;
};

void Convolution::find_candidates() {
  std::lock_guard lock(dnn_.mutex);
  const bool ends = finished(desc_);
  if (const auto known = deterministic() ? std::nullopt : find_tuned(key_)) {
    const std::string& config = known->candidates[known->chosen].config;
    if (std::optional<Execution> e = ConvGraph(dnn_, desc_, config.starts_with("fused")).plan_of(config))
      candidates_.push_back(std::move(*e));
  }
  if (candidates_.empty()) {
    const bool fused_alone = rounds_twice(desc_) || deterministic();  // if cuDNN has any
    const size_t most = deterministic() ? 1 : ends && !fused_alone ? most_candidates / 2 : most_candidates;
    if (ends) candidates_ = ConvGraph(dnn_, desc_, true).plans(most, most_workspace);
    if (!fused_alone || candidates_.empty())
      for (Execution& e : ConvGraph(dnn_, desc_, false).plans(most, most_workspace))
        candidates_.push_back(std::move(e));
  }
  decided_ = candidates_.size() < 2;
}

bool Convolution::prepare() {
  find_candidates();
  size_t workspace = 0;
  for (const Execution& e : candidates_) {
    if (finished(desc_) && !e.fused && !helpers_.finish) helpers_.ask_finish(device_, desc_);
    workspace = std::max(workspace, e.workspace);
  }
  filter_at_ = (workspace + 255) / 256 * 256;
  return !candidates_.empty();
}

// False, if `trying`, where the engine breaks.
bool Convolution::go(const Execution& e, const Run& r, bool trying) const {
  const Helpers& h = helpers_;
  void* turned = h.turns ? static_cast<char*>(r.workspace) + filter_at_ : nullptr;
  void *x = r.buffers[0], *w = r.buffers[1], *y = r.buffers[desc_.bias ? 3 : 2];
  if (desc_.pass == Pass::backward_data) std::swap(x, y);
  if (desc_.pass == Pass::backward_weight) std::swap(w, y);
  if (desc_.pass != Pass::backward_weight && turned) h.turn(w, turned, h.channels, h.taps);
  const std::array<void*, 4> pointers{x, turned ? turned : w, y, desc_.bias ? r.buffers[2] : nullptr};
  constexpr std::array<int64_t, 4> ids{id_x, id_w, id_y, id_bias};
  const int64_t count = e.fused && desc_.bias ? 4 : 3;
  Descriptor pack(dnn_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, pointers.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &r.workspace);
  pack.finalize("a cuDNN variant pack");
  const auto execute = [&] {
    std::lock_guard lock(dnn_.mutex);
    dnn_.follow();
    return dnn_.f.cudnnBackendExecute(dnn_.handle, e.plan.raw(), pack.raw());
  };
  if (!trying) must(device_, "cudnnBackendExecute", execute);
  else if (!works(device_, "cudnnBackendExecute", execute)) return false;
  if (desc_.pass == Pass::backward_weight && turned) h.turn(turned, w, h.taps, h.channels);
  if (h.finish && !e.fused) (*h.finish)(desc_.bias ? r.buffers[2] : nullptr, y, y_count_, desc_.y.shape[1]);
  return true;
}

// Every candidate writes all of the result, so the operands at hand serve.
void Convolution::choose_among(const Run& r) {
  std::vector<std::string> configs;
  configs.reserve(candidates_.size());
  for (const Execution& e : candidates_) configs.push_back(e.config);
  double best = -1;
  const auto time = [&](size_t i) {
    if (!go(candidates_[i], r, true)) return -1.0;
    return time_on(
        device_, [&] { go(candidates_[i], r, false); }, best);
  };
  chosen_ = choose(key_, configs, time);
  decided_ = true;
}

void Convolution::run(const Run& r) {
  std::lock_guard lock(mutex_);
  std::optional<CudaDevice::Meter> meter;  // the first run loads the library's kernels
  if (!used_) meter.emplace(device_);
  if (!decided_ && !device_.capturing()) choose_among(r);
  go(candidates_[chosen_], r, false);
  used_ = true;
  if (candidates_[chosen_].fused) tuning_stats().fused_convolutions += 1;
}

}  // namespace

Libraries::Dnn::Dnn(CudaDevice& d) : device(d) {
  must(d, "cudnnCreate", [&] { return f.cudnnCreate(&handle); });
  follow();
}
void Libraries::Dnn::follow() {
  const CUstream s = device.raw_stream();
  if (s == on) return;
  must(device, "cudnnSetStream", [&] { return f.cudnnSetStream(handle, reinterpret_cast<cudaStream_t>(s)); });
  on = s;
}

void ask_conv_kernels(Device& d, const ConvDesc& c) {
  if (!for_library(c)) return;
  Helpers helpers(d, c);
  if (finished(c)) helpers.ask_finish(d, c);
}

Ref<Plan> dnn_conv(CudaDevice& d, const ConvDesc& c) {
  if (!for_library(c)) return {};
  const CudaDevice::Meter meter(d);
  const auto conv = std::make_shared<Convolution>(d, c);
  if (!conv->prepare()) return {};
  constexpr const char* names[] = {"conv forward", "conv backward_data", "conv backward_weight"};
  const auto body = d.in_order(c.bias ? 4 : 3, 0, [conv](const Run& r) { conv->run(r); });
  return make_ref<Plan>(
      names[static_cast<int>(c.pass)],
      [&d, conv, body](const Run& r) {
        Aligned buffers(d, r, conv->metas());
        body(buffers.run(r));
        buffers.finish();
      },
      conv->workspace());
}

Ref<Plan> CudaDevice::conv(const ConvDesc& c) {
  enter();
  if (Ref<Plan> p = prepared([&] { return dnn_conv(*this, c); })) return p;
  return own_conv(*this, c);
}

}  // namespace flame::cuda
