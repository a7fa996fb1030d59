// Timed choices: a table in this process over one small text file a key.
#include "flame/device/cuda/tuning.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <mutex>
#include <sstream>

#include "flame/core/format.h"
#include "flame/device/cuda/cache.h"
#include "flame/device/cuda/cuda_device.h"

namespace flame::cuda {
namespace {

constexpr const char* first_line = "flame-tuned 3";

struct Table {
  std::mutex mutex;
  std::map<std::string, Tuned> known;
};
Table& table() {
  static Table* all = new Table;
  return *all;
}

std::string whole(const TuningKey& k) { return k.library + '\n' + k.gpu + '\n' + k.text; }
std::filesystem::path file_of(const TuningKey& k) {
  const std::string all = whole(k);
  return cache_folder() / fmt::format("{:016x}{:016x}.tuned", cache_hash(all, 17), cache_hash(all, 19));
}

std::string written(const TuningKey& k, const Tuned& t) {
  std::string out =
      fmt::format("{}\nlibrary {}\ngpu {}\nkey {}\nchosen {}\n", first_line, k.library, k.gpu, k.text, t.chosen);
  for (const Candidate& c : t.candidates) out += fmt::format("candidate {:.3f} {}\n", c.microseconds, c.config);
  return out + fmt::format("sum {:016x}\n", cache_hash(out, 23));
}

// Empty if the text is damaged.
std::optional<TunedFile> parsed(const std::string& text) {
  const size_t end = text.rfind("sum ");
  if (end == std::string::npos || text.substr(end) != fmt::format("sum {:016x}\n", cache_hash(text.substr(0, end), 23)))
    return {};
  std::istringstream in(text.substr(0, end));
  std::string line;
  TunedFile f;
  if (!std::getline(in, line) || line != first_line) return {};
  while (std::getline(in, line)) {
    const size_t space = line.find(' ');
    if (space == std::string::npos) return {};
    const std::string word = line.substr(0, space), rest = line.substr(space + 1);
    if (word == "library") f.key.library = rest;
    else if (word == "gpu") f.key.gpu = rest;
    else if (word == "key") f.key.text = rest;
    else if (word == "chosen") std::from_chars(rest.data(), rest.data() + rest.size(), f.tuned.chosen);
    else if (word == "candidate") {
      Candidate c;
      const auto [stop, error] = std::from_chars(rest.data(), rest.data() + rest.size(), c.microseconds);
      if (error != std::errc() || stop == rest.data() + rest.size()) return {};
      c.config.assign(stop + 1, rest.data() + rest.size());
      f.tuned.candidates.push_back(std::move(c));
    }
  }
  if (f.tuned.chosen >= f.tuned.candidates.size()) return {};
  return f;
}

}  // namespace

TuningStats& tuning_stats() {
  static TuningStats all;
  return all;
}

std::optional<Tuned> find_tuned(const TuningKey& key) {
  std::lock_guard lock(table().mutex);
  const std::string name = whole(key);
  if (const auto it = table().known.find(name); it != table().known.end()) return it->second;
  std::optional<TunedFile> f = parsed(read_file(file_of(key)));
  if (!f || whole(f->key) != name) return {};
  tuning_stats().from_disk += 1;
  return table().known.emplace(name, std::move(f->tuned)).first->second;
}

std::optional<size_t> find_choice(const TuningKey& key, const std::vector<std::string>& configs) {
  const std::optional<Tuned> known = find_tuned(key);
  if (!known) return {};
  const auto it = std::find(configs.begin(), configs.end(), known->candidates[known->chosen].config);
  if (it == configs.end()) return {};
  return static_cast<size_t>(it - configs.begin());
}

size_t choose(const TuningKey& key, const std::vector<std::string>& configs,
              const std::function<double(size_t)>& time) {
  if (const auto known = find_choice(key, configs)) return *known;
  Tuned t;
  for (size_t i = 0; i < configs.size(); ++i) t.candidates.push_back({configs[i], time(i)});
  for (size_t i = 1; i < t.candidates.size(); ++i) {
    const double best = t.candidates[t.chosen].microseconds, now = t.candidates[i].microseconds;
    const double needed = t.chosen == 0 ? 0.97 * best : best;
    if (now >= 0 && (best < 0 || now < needed)) t.chosen = i;
  }
  std::lock_guard lock(table().mutex);
  tuning_stats().keys_timed += 1;
  tuning_stats().candidates_timed += t.candidates.size();
  const size_t chosen = t.chosen;
  if (t.candidates[chosen].microseconds < 0) return chosen;
  write_by_renaming(file_of(key), written(key, t));
  table().known[whole(key)] = std::move(t);
  return chosen;
}

void forget_tuned() {
  std::lock_guard lock(table().mutex);
  table().known.clear();
}

double time_on(CudaDevice& d, const std::function<void()>& fn, double& best) {
  struct Event {
    CUevent e = nullptr;
    Event(const CudaDevice& d) { d.check(driver().cuEventCreate(&e, CU_EVENT_DEFAULT), "cuEventCreate"); }
    ~Event() { driver().cuEventDestroy(e); }
  } const start(d), stop(d);
  fn();
  double shortest = -1;
  int runs = 1;
  for (int round = 0; round < 4; ++round) {
    d.check(driver().cuEventRecord(start.e, d.stream()), "cuEventRecord");
    for (int i = 0; i < runs; ++i) fn();
    d.check(driver().cuEventRecord(stop.e, d.stream()), "cuEventRecord");
    d.synchronize();
    float ms = 0;
    d.check(driver().cuEventElapsedTime(&ms, start.e, stop.e), "cuEventElapsedTime");
    const double each = 1000.0 * static_cast<double>(ms) / runs;
    if (shortest < 0 || each < shortest) shortest = each;
    if (round == 0 && best >= 0 && each > 2 * best) break;
    if (round == 0) runs = std::clamp(static_cast<int>(1500 / std::max(each, 1.0)), 1, 20);  // the clock settles
  }
  if (best < 0 || shortest < best) best = shortest;
  return shortest;
}

std::vector<TunedFile> tuned_files() {
  std::vector<TunedFile> out;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(cache_folder(), none))
    if (entry.path().extension() == ".tuned")
      if (std::optional<TunedFile> f = parsed(read_file(entry.path()))) out.push_back(*std::move(f));
  std::sort(out.begin(), out.end(), [](const TunedFile& a, const TunedFile& b) { return whole(a.key) < whole(b.key); });
  return out;
}

}  // namespace flame::cuda
