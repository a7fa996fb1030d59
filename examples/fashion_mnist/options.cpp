// Command line parsing by CLI11, kept out of main.cpp.
#include "options.h"

#include <flame/core/format.h>

#include <CLI/CLI.hpp>
#include <charconv>

namespace {

// The shortest text that reads back as the same number.
template <class T>
std::string text_of(T v) {
  return fmt::format("{}", v);
}
template <class T>
T number_of(const std::string& name, const std::string& text) {
  T v{};
  const auto r = std::from_chars(text.data(), text.data() + text.size(), v);
  if (r.ec != std::errc() || r.ptr != text.data() + text.size())
    flame::fail<flame::FormatError>(flame::Loc::current(), "the checkpoint's setting {} is '{}', expected a number",
                                    name, text);
  return v;
}

}  // namespace

std::map<std::string, std::string> Options::settings() const {
  return {{"epochs", text_of(epochs)}, {"batch", text_of(batch)}, {"lr", text_of(lr)},
          {"seed", text_of(seed)},     {"limit", text_of(limit)}, {"threads", text_of(threads)}};
}

void Options::adopt(const std::map<std::string, std::string>& saved) {
  const std::map<std::string, std::string> mine = settings();
  for (const auto& [name, value] : mine) {
    const auto it = saved.find(name);
    if (it == saved.end())
      flame::fail<flame::FormatError>(flame::Loc::current(), "the checkpoint has no setting {}: not of this program",
                                      name);
    if (given[name] && name != "threads" && it->second != value)
      flame::fail<flame::ValueError>(flame::Loc::current(), "--resume: the run was begun with --{} {}, got {}", name,
                                     it->second, value);
  }
  epochs = number_of<int64_t>("epochs", saved.at("epochs"));
  batch = number_of<int64_t>("batch", saved.at("batch"));
  lr = number_of<double>("lr", saved.at("lr"));
  seed = number_of<uint64_t>("seed", saved.at("seed"));
  limit = number_of<int64_t>("limit", saved.at("limit"));
  const int before = number_of<int>("threads", saved.at("threads"));
  if (!given["threads"]) threads = before;
  else if (threads != before)
    fmt::print("note: the run was begun with {} threads; another number may change last bits\n", before);
}

std::string plain(const std::exception& e) {
  const std::string text = e.what();
  return text.substr(0, text.rfind(" (at "));
}

Options parse_options(int argc, char** argv) {
  Options o;
  CLI::App app{"Trains a convolutional network on Fashion-MNIST and leaves the results in a folder."};
  app.add_option("--device", o.device, "auto takes a GPU where there is one")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--epochs", o.epochs, "passes over the training images")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--batch", o.batch, "images a step")->check(CLI::Range(1, 60000))->capture_default_str();
  app.add_option("--lr", o.lr, "highest learning rate of the one-cycle schedule")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seed", o.seed, "decides initial weights, order of images and dropout")->capture_default_str();
  app.add_option("--out", o.out, "folder for the results")->capture_default_str();
  app.add_flag("--resume", o.resume, "go on from the folder's checkpoint, with the flags it was begun with");
  app.add_option("--threads", o.threads, "CPU threads (default: all cores)")->check(CLI::Range(1, 1024));
  app.add_option("--limit", o.limit, "use only the first N training images (default: all)")
      ->check(CLI::Range(1, 60000));
  app.add_option("--save-every", o.save_every, "steps between checkpoints")
      ->check(CLI::Range(1, 1000000000))
      ->capture_default_str();
  app.add_option("--test-forget", o.forget, "")
      ->check(CLI::IsMember({"weights", "moments", "generator", "loader", "step"}))
      ->group("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) { std::exit(app.exit(e)); } catch (const CLI::ParseError& e) {
    fmt::print(stderr, "fashion_mnist: {} (see --help)\n", e.what());
    std::exit(2);
  }
  for (const auto& [name, value] : o.settings()) o.given[name] = app.count("--" + name) > 0;
  return o;
}
