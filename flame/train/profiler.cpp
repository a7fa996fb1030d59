// The profiler's public face: what starts and stops, on the host and in the CUDA plugin.
#include "flame/train/profiler.h"

#include <exception>
#include <mutex>

#include "flame/core/format.h"
#include "flame/device/plugin.h"
#include "flame/train/profile_internal.h"

namespace flame::train {
namespace {

// A function of the plugin's that gives what is missing, or nothing.
void ask_plugin(const char* function, ProfileListener& l, Loc loc) {
  std::string missing;
  const auto f = reinterpret_cast<const char* (*)(ProfileListener*)>(cuda_plugin_function(function, missing));
  if (f) missing = f(&l);
  if (!missing.empty()) fail<DeviceError>(loc, "Profiler: {}", missing);
}

bool any_gpu() {
  for (const Device* d : known_devices())
    if (d->kind() == Device::Kind::cuda) return true;
  return false;
}

void take_activities(Profile& p) {
  std::string missing;
  if (const auto f = reinterpret_cast<void (*)(std::vector<ProfiledActivity>*)>(
          cuda_plugin_function("flame_cuda_profile_stop", missing)))
    f(&p.activities);
}

}  // namespace

struct Profiler::Impl {
  ProfilerOptions options;
  bool gpus = false, stopped = false;
  Profile profile;
  std::vector<ProfileRow> rows;
  bool has_rows = false;
  void need_stopped(const char* what, Loc loc) const {
    if (!stopped) fail<ValueError>(loc, "Profiler: expected stop() before {}", what);
  }
};

Profiler::Profiler(ProfilerOptions options, Loc loc) : impl_(std::make_unique<Impl>()) {
  static std::mutex one_begins;
  std::lock_guard lock(one_begins);
  impl_->options = std::move(options);
  constexpr const char* busy = "Profiler: another one is at work; stop() it first";
  if (profiling()) fail<ValueError>(loc, "{}", busy);
  ProfileListener listener;
  if (impl_->options.nvtx) ask_plugin("flame_cuda_nvtx", listener, loc);
  impl_->gpus = impl_->options.kernels && any_gpu();
  if (impl_->gpus) {
    for (Device* d : known_devices()) d->synchronize();  // what was launched before is no part of it
    ask_plugin("flame_cuda_profile_start", listener, loc);
  }
  if (start_profile(listener)) return;
  if (impl_->gpus) take_activities(impl_->profile);  // ends what was begun
  fail<ValueError>(loc, "{}", busy);
}

Profiler::~Profiler() {
  try {
    stop();
  } catch (const std::exception&) {  // a destructor has no one to tell
  }
}

void Profiler::stop(Loc loc) {
  if (std::exchange(impl_->stopped, true)) return;
  std::exception_ptr failed;
  try {
    for (Device* d : known_devices()) d->synchronize();
  } catch (...) { failed = std::current_exception(); }  // of the program's own work
  impl_->profile = stop_profile();
  if (impl_->gpus) take_activities(impl_->profile);
  if (failed) std::rethrow_exception(failed);
  if (!impl_->options.trace.empty()) write_trace(impl_->options.trace, loc);
}

void Profiler::write_trace(const std::string& path, Loc loc) const {
  impl_->need_stopped("write_trace()", loc);
  write_chrome_trace(impl_->profile, path, loc);
}

const std::vector<ProfileRow>& Profiler::rows(Loc loc) {
  impl_->need_stopped("rows()", loc);
  if (!impl_->has_rows) impl_->rows = rows_of(impl_->profile);
  impl_->has_rows = true;
  return impl_->rows;
}

std::string Profiler::table(const ProfileTableOptions& o, Loc loc) {
  impl_->need_stopped("table()", loc);
  return table_of(rows(loc), o);
}

struct ProfileScope::Impl {
  ProfileRange range;
};
ProfileScope::ProfileScope(const char* name, Loc loc) {
  if (profiling()) impl_.reset(new Impl{{RangeKind::scope, name, loc}});
}
ProfileScope::~ProfileScope() = default;

}  // namespace flame::train
