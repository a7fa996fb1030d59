// Command line parsing by CLI11, kept out of main.cpp.
#include "options.h"

#include "examples/common/flags.h"

Options parse_options(int argc, char** argv) {
  Options o;
  CLI::App app{"Trains a convolutional network on Fashion-MNIST and leaves the results in a folder."};
  add_device_flags(app, o.device, o.deterministic);
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
  app.add_option("--profile", o.profile, "write a Chrome trace of 20 steps to this file, and print their table");
  app.add_flag("--test-first-step", o.first_step, "")->group("");
  app.add_option("--test-forget", o.forget, "")
      ->check(CLI::IsMember({"weights", "moments", "generator", "loader", "step"}))
      ->group("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) { std::exit(app.exit(e)); } catch (const CLI::ParseError& e) {
    fmt::print(stderr, "fashion_mnist: {} (see --help)\n", e.what());
    std::exit(2);
  }
  for (const auto& [name, value] : o.settings().text()) o.given[name] = app.count("--" + name) > 0;
  return o;
}
