// Command line parsing by CLI11, kept out of main.cpp.
#include "options.h"

#include "examples/common/flags.h"

Options parse_options(int argc, char** argv) {
  Options o;
  CLI::App app{"Trains a small GPT on the characters of a text, and lets it write."};
  const auto count = [&](const char* flag, int64_t& field, const char* text, int64_t most = 1000000000) {
    app.add_option(flag, field, text)->check(CLI::Range(int64_t{1}, most))->capture_default_str();
  };
  add_device_flags(app, o.device, o.deterministic);
  app.add_option("--text", o.text, "a text file, plain or gzip'd (Debian package jargon-text)")->capture_default_str();
  count("--steps", o.steps, "training steps");
  count("--batch", o.batch, "windows a step", 100000);
  count("--context", o.context, "characters of a window", 100000);
  count("--width", o.width, "of the model", 100000);
  count("--layers", o.layers, "blocks", 1000);
  count("--heads", o.heads, "of the attention; must divide the width", 1000);
  app.add_option("--dropout", o.dropout, "probability")->check(CLI::Range(0.0, 0.99))->capture_default_str();
  app.add_option("--lr", o.lr, "highest learning rate of the one-cycle schedule")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seed", o.seed, "decides initial weights, order of windows and dropout")->capture_default_str();
  app.add_option("--out", o.out, "folder for the results")->capture_default_str();
  app.add_flag("--resume", o.resume, "go on from the folder's checkpoint, with the flags it was begun with");
  app.add_option("--threads", o.threads, "CPU threads (default: all cores)")->check(CLI::Range(1, 1024));
  count("--evaluate-every", o.evaluate_every, "steps between validations, each with a checkpoint");
  app.add_option("--prompt", o.prompt, "what the sample begins with")->capture_default_str();
  count("--sample", o.sample, "characters to write at the end");
  app.add_option("--temperature", o.temperature, "of the sample: lower is safer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  try {
    app.parse(argc, argv);
    if (o.width % o.heads != 0)
      throw CLI::ValidationError(fmt::format("--heads: {} does not divide the width of {}", o.heads, o.width));
    if (o.prompt.empty()) throw CLI::ValidationError("--prompt: expected a character or more");
  } catch (const CLI::CallForHelp& e) { std::exit(app.exit(e)); } catch (const CLI::ParseError& e) {
    fmt::print(stderr, "char_gpt: {} (see --help)\n", e.what());
    std::exit(2);
  }
  for (const auto& [name, value] : o.settings().text())
    o.given[name] = name != "text-crc" && app.count("--" + name) > 0;
  return o;
}
