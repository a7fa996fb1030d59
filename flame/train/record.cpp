// Recorded steps: two equal eager runs a signature, then replays. Results carry no gradient, eager or replayed.
#include "flame/train/record.h"

#include <algorithm>
#include <list>

#include "flame/autograd/autocast.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/counters.h"
#include "flame/device/settle.h"
#include "flame/fuse/island.h"
#include "flame/ops/cat.h"
#include "flame/ops/matmul.h"
#include "flame/train/recording_internal.h"

namespace flame {

namespace {

std::vector<char> bytes_of(const Tensor& t) {
  std::vector<char> out(static_cast<size_t>(t.numel()) * size_of(t.dtype()));
  t.copy_to_host(out.data(), t.dtype());
  return out;
}
std::vector<char> bytes_of(const Storage& s) {
  std::vector<char> out(s.bytes());
  s.device().copy_to_host(out.data(), s.data(), s.bytes());
  return out;
}

// Whether someone beside `out` holds what it returned, so that later calls would be expected to change it.
bool held_elsewhere(const Tensor& t, const std::vector<Tensor>& out) {
  uint32_t handles = 0;
  std::vector<const Value*> values;
  for (const Tensor& o : out) {
    if (o.value().storage != t.value().storage) continue;
    handles += o.value_ref() == t.value_ref();
    if (std::find(values.begin(), values.end(), &o.value()) == values.end()) values.push_back(&o.value());
  }
  return t.value().ref_count() > handles || t.value().storage->ref_count() > values.size();
}

// Why this run cannot be replayed, or null.
const char* refusal(const Recorder& r, const Log& log, const std::vector<Tensor>& out) {
  if (r.refused) return r.refused;
  if (log.reads_unwritten) return "the step reads a tensor that no launch wrote";
  for (uint64_t id : r.alive) {
    const auto returned =
        std::find_if(out.begin(), out.end(), [&](const Tensor& t) { return t.value().storage->id() == id; });
    if (returned == out.end() || held_elsewhere(*returned, out)) return "a tensor made inside the step outlives it";
  }
  return nullptr;
}

}  // namespace

struct RecordedStep::Impl {
  struct Signature {
    std::string key;
    int runs = 0;
    std::unique_ptr<Log> last;
    std::unique_ptr<Recording> recording;
    std::vector<std::function<void()>> preparations;  // of the last eager run
    uint64_t replays = 0;
  };
  Fn fn;
  RecordOptions options;
  RecordStats stats;
  uint64_t mode = 0;
  std::list<Signature> signatures;  // last used first

  Signature& find(const std::vector<Tensor>& args) {
    Key key;
    key << mode << grad_enabled() << static_cast<int>(autocast_dtype().value_or(DType::f32)) << fusion_enabled()
        << deterministic() << matmul_precision() << args.size();
    for (const Tensor& t : args) key << t.value().meta() << &t.device() << t.requires_grad();
    for (auto it = signatures.begin(); it != signatures.end(); ++it)
      if (it->key == key.bytes()) {
        signatures.splice(signatures.begin(), signatures, it);
        return signatures.front();
      }
    if (static_cast<int>(signatures.size()) >= options.max_recordings) signatures.pop_back();
    signatures.emplace_front().key = key.bytes();
    return signatures.front();
  }

  std::vector<Tensor> plain(const std::vector<Tensor>& args) {
    std::vector<Tensor> out = fn(args);
    for (Tensor& t : out) t = t.detach();
    return out;
  }

  // Runs on copies of the arguments, so that their memory is known from everything the function captured.
  std::vector<Tensor> eager(Signature& s, const std::vector<Tensor>& args, Loc loc) {
    for (const auto& prepare : s.preparations) prepare();
    std::vector<Tensor> mine;
    std::vector<ArgumentPlace> places;
    for (const Tensor& t : args) {
      mine.push_back(private_copy(t));
      places.push_back({mine.back().value().storage, mine.back().value().offset});
    }
    Recorder recorder;
    std::vector<Tensor> out = plain(mine);
    flush_pending();
    for (const Tensor& t : out) materialize(t.value());
    ++s.runs;
    s.preparations = recorder.preparations;
    auto log = std::make_unique<Log>(log_of(recorder, places, mine));
    if (const char* why = refusal(recorder, *log, out)) {
      miss(s, why);
      s.last.reset();
      return out;
    }
    const std::string parted = s.last ? difference(*s.last, *log, loc) : std::string();
    const bool enough = s.last && s.runs >= options.warmup;
    s.last = std::move(log);
    if (!parted.empty()) miss(s, "the ops did not repeat: " + parted);
    else if (enough) keep(s, recorder, places, mine, out);
    return out;
  }

  // The step is done by now, once its launches have reached the device: without memory for a recording it is a miss, and the
  // next call tries again.
  void keep(Signature& s, Recorder& recorder, const std::vector<ArgumentPlace>& places, const std::vector<Tensor>& mine,
            const std::vector<Tensor>& out) {
    settle_launches();  // their error is the step's own
    try {
      s.recording = std::make_unique<Recording>(recorder, *s.last, places, mine, out, options.lanes);
    } catch (const OutOfMemory& e) { return miss(s, e.what()); } catch (const std::bad_alloc&) {
      return miss(s, "no memory for the recording's list");
    }
    ++stats.recordings;
    stats.arena_bytes = s.recording->arena->bytes();
    stats.launches = s.recording->entries.size();
    stats.lanes = s.recording->lanes;
    if (!s.recording->no_graph.empty()) miss(s, "no graph, launched one by one: " + s.recording->no_graph);
  }

  void miss(const Signature& s, std::string why) {
    if (s.runs >= options.warmup) {
      ++stats.misses;
      counters().recording_misses += 1;
    }
    stats.last_miss = std::move(why);
  }

  void replay(Signature& s, const std::vector<Tensor>& args) {
    s.recording->run(args);
    ++s.replays;
    ++stats.replays;
    counters().replays += 1;
  }

  // Replays, takes everything back, runs eagerly, and compares what both wrote.
  std::vector<Tensor> verified(Signature& signature, const std::vector<Tensor>& args, Loc loc) {
    const Recording& r = *signature.recording;
    std::vector<std::vector<char>> before, after, results;
    for (const Ref<Storage>& s : r.written) before.push_back(bytes_of(*s));
    replay(signature, args);
    r.conclude(false);  // the eager step does it again
    for (const Ref<Storage>& s : r.written) after.push_back(bytes_of(*s));
    for (const Tensor& t : r.results(args)) results.push_back(bytes_of(t));
    for (auto h = r.hooks.rbegin(); h != r.hooks.rend(); ++h) h->undo();
    for (size_t i = 0; i < r.written.size(); ++i)
      r.written[i]->device().copy_from_host(r.written[i]->data(), before[i].data(), before[i].size());
    std::vector<Tensor> out = plain(args);
    flush_pending();
    for (size_t i = 0; i < out.size(); ++i)
      if (bytes_of(out[i]) != results[i])
        fail<RecordError>(loc, "record: result {} of a replay differs from the eager step", i);
    for (size_t i = 0; i < r.written.size(); ++i)
      if (bytes_of(*r.written[i]) != after[i])
        fail<RecordError>(loc, "record: a state written by a replay differs from the eager step");
    return out;
  }

  std::vector<Tensor> call(const std::vector<Tensor>& args, Loc loc) {
    ++stats.calls;
    if (Recorder::current()) return plain(args);  // part of an outer recorded step
    for (const Tensor& t : args) materialize(t.value());
    flush_pending();
    Signature& s = find(args);
    if (!s.recording) return eager(s, args, loc);
    const Recording& r = *s.recording;
    for (const Recorder::Guard& g : r.guards)
      if (!g.holds()) {
        ++s.runs;
        miss(s, g.what);
        return plain(args);
      }
    const std::vector<Tensor> inputs = r.safe(args);
    for (const auto& prepare : r.preparations) prepare();
    if (options.verify > 0 && (s.replays + 1) % static_cast<uint64_t>(options.verify) == 0)
      return verified(s, inputs, loc);
    replay(s, inputs);
    r.conclude(true);
    return r.results(inputs);
  }
};

RecordedStep::RecordedStep(Fn fn, RecordOptions options) : impl_(std::make_unique<Impl>()) {
  if (options.warmup < 2)
    fail<ValueError>(Loc::current(), "record: expected a warm-up of at least 2 calls, got {}", options.warmup);
  if (options.max_recordings < 1)
    fail<ValueError>(Loc::current(), "record: expected 1 recording or more, got {}", options.max_recordings);
  if (options.verify < 0)
    fail<ValueError>(Loc::current(), "record: expected 0 or more for verify, got {}", options.verify);
  if (options.lanes < 0) fail<ValueError>(Loc::current(), "record: expected 0 lanes or more, got {}", options.lanes);
  impl_->fn = std::move(fn);
  impl_->options = options;
}
RecordedStep::~RecordedStep() = default;
std::vector<Tensor> RecordedStep::operator()(const std::vector<Tensor>& in, Loc loc) { return impl_->call(in, loc); }
const RecordStats& RecordedStep::stats() const { return impl_->stats; }
void RecordedStep::set_mode(uint64_t mode) { impl_->mode = mode; }

void step_call::check_repeat(int steps, size_t takes, size_t given, Loc loc) {
  if (steps < 1) fail<ValueError>(loc, "repeat: expected 1 step or more, got {}", steps);
  if (takes != given)
    fail<ValueError>(loc, "repeat: expected a function of the {} tensors of a batch, got one of {}", given, takes);
}
std::vector<Tensor> step_call::stacked(const std::vector<std::vector<Tensor>>& steps) {
  const NoGrad guard;
  std::vector<Tensor> out;
  for (size_t k = 0; k < steps[0].size(); ++k) {
    std::vector<Tensor> one;
    for (const std::vector<Tensor>& s : steps) one.push_back(s.at(k).detach());
    out.push_back(stack(one));
  }
  return out;
}

}  // namespace flame
