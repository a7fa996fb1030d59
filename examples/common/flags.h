// Flags that the example programs share.
#pragma once
#include <CLI/CLI.hpp>
#include <string>

// --device: auto, cpu, cuda, or one GPU of several as cuda:1. Whether it is there is found out when it is opened.
// --deterministic: see set_deterministic.
inline void add_device_flags(CLI::App& app, std::string& device, bool& deterministic) {
  const auto is_name = [](const std::string& given) {
    if (given == "auto" || given == "cpu" || given == "cuda" || given.starts_with("cuda:")) return std::string();
    return given + " not in {auto,cpu,cuda,cuda:N}";
  };
  app.add_option("--device", device, "auto takes a GPU where there is one")
      ->check(CLI::Validator(is_name, "{auto,cpu,cuda,cuda:N}"))
      ->capture_default_str();
  app.add_flag("--deterministic", deterministic, "the same bits in every run: nothing is chosen by timing");
}
