// The table of a profile: each op's time beside the least it could take, by speeds measured on the device.
#include <algorithm>
#include <chrono>
#include <map>
#include <unordered_map>

#include "flame/autograd/autocast.h"
#include "flame/autograd/modes.h"
#include "flame/core/format.h"
#include "flame/fuse/island.h"
#include "flame/ops/create.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "flame/tensor/internal.h"
#include "flame/train/profile_internal.h"

namespace flame::train {
namespace {

// The best of a few runs of fn, whose launches are made together.
template <class F>
double seconds_of(Device& d, F&& fn) {
  constexpr int tries = 4;
  const int together = d.kind() == Device::Kind::cuda ? 8 : 1;
  double best = 0;
  for (int i = 0; i <= tries; ++i) {
    d.synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int k = 0; k < together; ++k) fn();
    d.synchronize();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (i == 1 || (i > 1 && took.count() / together < best)) best = took.count() / together;  // the first one warms up
  }
  return best;
}

// How fast a device moves bytes and multiplies, measured when it is first asked.
class Roofs {
 public:
  // Seconds; 0 if nothing is known of the launch.
  double floor(const std::string& name, const Work& w) {
    Device* const found = known(name);
    if (!found || found->kind() == Device::Kind::trace) return 0;
    Device& d = *found;
    double out = w.bytes > 0 ? static_cast<double>(w.bytes) / bandwidth(d) : 0;
    if (w.flops > 0) out = std::max(out, static_cast<double>(w.flops) / speed(d, w.type));
    return out;
  }

 private:
  static Device* known(const std::string& name) {
    for (Device* d : known_devices())
      if (d->name() == name) return d;
    return nullptr;
  }
  // One array read, another one written: by the driver on a GPU, on the CPU by all threads.
  double bandwidth(Device& d) {
    double& measured = bandwidths_[&d];
    if (measured == 0) {
      const bool gpu = d.kind() == Device::Kind::cuda;
      const int64_t n = int64_t{1} << (gpu ? 26 : 24), bytes = 4 * n;
      const NoGrad guard;
      const Tensor from = zeros({n}, DType::f32, d);
      materialize(*from.value_ref());
      const Ref<Storage> to = make_ref<Storage>(d, static_cast<size_t>(gpu ? bytes : 0), Loc::current());
      measured = static_cast<double>(2 * bytes) / seconds_of(d, [&] {
                   if (gpu) copy_bytes(d, from.value().buffer(), {to.get(), 0}, bytes, Loc::current());
                   else materialize(*neg(from).value_ref());
                 });
    }
    return measured;
  }
  double speed(Device& d, DType t) {
    double& measured = speeds_[{&d, t}];
    if (measured == 0) {
      const int64_t n = d.kind() == Device::Kind::cuda ? 8192 : 768;
      const NoGrad guard;
      const NoAutocast as_it_is;
      const Tensor a = full({n, n}, 1, t, d), b = full({n, n}, 1, t, d);
      measured = 2.0 * static_cast<double>(n * n * n) / seconds_of(d, [&] { matmul(a, b); });
    }
    return measured;
  }
  std::map<const Device*, double> bandwidths_;
  std::map<std::pair<const Device*, DType>, double> speeds_;
};

// The nodes of a graph in the order of their making are those of its parts one after another, if each was seen and kernels of
// known names stand where they must.
void name_by_parts(const Profile& profile, const std::vector<size_t>& activities, const std::vector<ProfilePart>& parts,
                   std::vector<ActivityCause>& out) {
  size_t all = 0;
  for (const ProfilePart& p : parts)
    for (size_t k = 0; k < p.nodes; ++k, ++all) {
      if (all >= activities.size()) return;
      const std::string known = k < p.kernels.size() ? p.kernels[k] : "";
      if (!known.empty() && known != profile.activities[activities[all]].name) return;
    }
  if (all != activities.size()) return;
  size_t next = 0;
  for (const ProfilePart& p : parts)
    for (size_t k = 0; k < p.nodes; ++k) out[activities[next++]] = {p.name, p.work, k == 0};
}

}  // namespace

std::vector<ActivityCause> causes_of(const Profile& p) {
  std::vector<ActivityCause> out;
  std::unordered_map<uint64_t, std::vector<size_t>> by_launch;
  for (size_t i = 0; i < p.activities.size(); ++i) {
    out.push_back({p.activities[i].name});
    if (p.activities[i].launch) by_launch[p.activities[i].launch].push_back(i);
  }
  for (const ProfiledRange& r : p.ranges) {
    const auto it = r.launch ? by_launch.find(r.launch) : by_launch.end();
    if (it == by_launch.end()) continue;
    std::vector<size_t>& mine = it->second;
    std::stable_sort(mine.begin(), mine.end(), [&](size_t a, size_t b) {
      const ProfiledActivity &x = p.activities[a], &y = p.activities[b];
      return x.node != y.node ? x.node < y.node : x.start < y.start;
    });
    if (r.parts) name_by_parts(p, mine, *r.parts, out);
    else
      for (size_t i : mine) out[i] = {r.name, r.work, i == mine.front()};
  }
  return out;
}

std::vector<ProfileRow> rows_of(const Profile& p) {
  std::map<std::pair<std::string, std::string>, ProfileRow> rows;
  Roofs roofs;
  const auto add = [&](const std::string& name, const std::string& device, int64_t ns) -> ProfileRow& {
    ProfileRow& row = rows[{name, device}];
    row.name = name;
    row.device = device;
    row.seconds += static_cast<double>(ns) * 1e-9;
    return row;
  };
  const auto count = [&](ProfileRow& row, const Work& w) {
    ++row.calls;
    row.bytes += w.bytes;
    row.flops += w.flops;
    row.floor += roofs.floor(row.device, w);
  };
  for (const ProfiledRange& r : p.ranges)
    if (r.launch && r.device->kind() != Device::Kind::cuda)
      count(add(r.name, r.device->name(), r.end - r.start), r.work);
  const std::vector<ActivityCause> causes = causes_of(p);
  for (size_t i = 0; i < causes.size(); ++i) {
    const ProfiledActivity& a = p.activities[i];
    ProfileRow& row = add(causes[i].name, a.device, a.end - a.start);
    if (causes[i].first) count(row, causes[i].work);
  }
  std::vector<ProfileRow> out;
  for (auto& [key, row] : rows) out.push_back(std::move(row));
  std::stable_sort(out.begin(), out.end(),
                   [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  return out;
}

std::string table_of(std::vector<ProfileRow> rows, const ProfileTableOptions& o) {
  double all = 0;
  for (const ProfileRow& r : rows) all += r.seconds;
  const auto key = [&](const ProfileRow& r) {
    const auto calls = static_cast<double>(std::max<uint64_t>(r.calls, 1));
    switch (o.sort) {
      case ProfileSort::total: return r.seconds;
      case ProfileSort::mean: return r.seconds / calls;
      case ProfileSort::calls: return calls;
      case ProfileSort::bytes: return static_cast<double>(r.bytes);
      case ProfileSort::lost: return r.floor > 0 ? r.seconds - r.floor : 0;
      case ProfileSort::name: break;
    }
    return 0.0;
  };
  std::stable_sort(rows.begin(), rows.end(), [&](const ProfileRow& a, const ProfileRow& b) {
    return o.sort == ProfileSort::name ? a.name < b.name : key(a) > key(b);
  });
  if (o.rows > 0 && rows.size() > o.rows) rows.resize(o.rows);
  size_t width = 4, device_width = 6;
  for (const ProfileRow& r : rows) {
    width = std::max(width, std::min<size_t>(r.name.size(), 48));
    device_width = std::max(device_width, r.device.size());
  }
  std::string out =
      fmt::format("{:<{}}  {:<{}}  {:>7}  {:>9}  {:>5}  {:>9}  {:>9}  {:>7}  {:>7}  {:>6}\n", "name", width, "device",
                  device_width, "calls", "total ms", "%", "mean us", "MB/call", "GB/s", "TFLOP/s", "floor");
  const auto number = [](double v, int digits) { return v > 0 ? fmt::format("{:.{}f}", v, digits) : std::string("-"); };
  for (const ProfileRow& r : rows) {
    const auto calls = static_cast<double>(std::max<uint64_t>(r.calls, 1)), bytes = static_cast<double>(r.bytes);
    out += fmt::format("{:<{}.{}}  {:<{}}  {:>7}  {:>9.3f}  {:>5.1f}  {:>9.1f}  {:>9}  {:>7}  {:>7}  {:>6}\n", r.name,
                       width, width, r.device, device_width, r.calls, r.seconds * 1e3, 100 * r.seconds / all,
                       r.seconds / calls * 1e6, number(bytes / calls * 1e-6, 3), number(bytes / r.seconds * 1e-9, 1),
                       number(static_cast<double>(r.flops) / r.seconds * 1e-12, 3),
                       r.floor > 0 ? fmt::format("{:.0f} %", 100 * r.floor / r.seconds) : "-");
  }
  return out;
}

}  // namespace flame::train
