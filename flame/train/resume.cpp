// Tensors are named "model/…" and "optimizer/…"; numbers are metadata text, the program's own under "setting.…".
#include "flame/train/resume.h"

#include <charconv>

#include "flame/core/format.h"
#include "flame/ops/create.h"
#include "flame/ops/random.h"

namespace flame::train {
namespace {

constexpr std::string_view of_model = "model/", of_optimizer = "optimizer/", of_setting = "setting.";

template <class T>
T number(const io::Checkpoint& c, const std::string& name, Loc loc) {
  const std::string& text = c.text(name, loc);
  T v{};
  const auto r = std::from_chars(text.data(), text.data() + text.size(), v);
  if (r.ec != std::errc() || r.ptr != text.data() + text.size())
    fail<FormatError>(loc, "the checkpoint's '{}' is '{}', expected a number", name, text);
  return v;
}

std::vector<io::NamedTensor> with_prefix(const io::Checkpoint& c, std::string_view prefix) {
  std::vector<io::NamedTensor> out;
  for (const auto& [name, t] : c.tensors)
    if (name.starts_with(prefix)) out.emplace_back(name.substr(prefix.size()), t);
  return out;
}

}  // namespace

void save_run(const std::string& path, const nn::Module& model, const optim::Optimizer& optimizer,
              const RunPosition& at, Loc loc) {
  std::vector<io::NamedTensor> tensors;
  for (const auto& [name, state] : model.state_dict())
    tensors.emplace_back(std::string(of_model) + name, state.tensor());
  for (const auto& [name, t] : optimizer.state_dict()) tensors.emplace_back(std::string(of_optimizer) + name, t);
  const GeneratorState generator = default_generator().state();
  io::Metadata metadata{{"step", std::to_string(at.step)},
                        {"loader.epoch", std::to_string(at.loader.epoch)},
                        {"loader.position", std::to_string(at.loader.position)},
                        {"generator.seed", std::to_string(generator.seed)},
                        {"generator.offset", std::to_string(generator.offset)}};
  for (const auto& [name, text] : at.settings) metadata.emplace(std::string(of_setting) + name, text);
  io::save_checkpoint(path, tensors, metadata, loc);
}

RunPosition run_position(const io::Checkpoint& c, Loc loc) {
  RunPosition at{number<int64_t>(c, "step", loc),
                 {number<int64_t>(c, "loader.epoch", loc), number<int64_t>(c, "loader.position", loc)},
                 {}};
  for (const auto& [name, text] : c.metadata)
    if (name.starts_with(of_setting)) at.settings.emplace(name.substr(of_setting.size()), text);
  return at;
}

void restore_run(const io::Checkpoint& c, nn::Module& model, optim::Optimizer& optimizer, const RestoreOptions& o,
                 Loc loc) {
  const GeneratorState generator{number<uint64_t>(c, "generator.seed", loc),
                                 number<uint64_t>(c, "generator.offset", loc)};
  std::vector<io::NamedTensor> state = with_prefix(c, of_optimizer);
  for (auto& [name, t] : state) {
    const bool is_steps = name == "steps", is_moment = !is_steps && name != "options";
    if ((is_steps && !o.steps) || (is_moment && !o.moments)) t = zeros_like(t, loc);
  }
  if (o.weights) model.load_state(with_prefix(c, of_model), {}, loc);
  optimizer.load_state(state, loc);
  if (o.generator) default_generator().set_state(generator, loc);
}

}  // namespace flame::train
