// Internal: which launch an asynchronous error came from. The stream itself writes down, every few launches, how far it got.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "flame/device/cuda/driver.h"

namespace flame::cuda {

class LaunchWatch {
 public:
  // Of a stream whose context is current.
  void start(CUstream stream);
  using Names = std::shared_ptr<const std::vector<std::string>>;  // of the launches that a recorded step is
  // Lives while a launch is made.
  class Noted {
   public:
    Noted(LaunchWatch& w, const std::string& op) : watch_(w) { w.launching(op, nullptr); }
    Noted(LaunchWatch& w, const Names& step) : watch_(w) { w.launching("", step); }
    ~Noted() { watch_.launched(); }
    Noted(const Noted&) = delete;
    Noted& operator=(const Noted&) = delete;

   private:
    LaunchWatch& watch_;
  };
  uint32_t count();              // launches noted so far
  void finished(uint32_t upto);  // the stream was waited for
  // "'a'" or "one of 'a', 'b'": what may have gone wrong if the stream has stopped.
  std::string suspects();

 private:
  void launching(const std::string& op, const Names& step);
  void launched();
  static constexpr uint32_t every = 8, kept = 4096;  // more than a stream takes before it lets the program wait
  CUstream stream_ = nullptr;
  volatile uint32_t* mark_ = nullptr;  // written by the device
  std::mutex mutex_;
  uint32_t count_ = 0, finished_ = 0;
  uint32_t between_ = 0;                        // threads that have noted a launch and not made it yet
  std::array<uint32_t, kept / every> marks_{};  // the last ones sent behind launches
  size_t next_mark_ = 0;
  std::array<std::array<char, 48>, kept> names_{};
  std::array<Names, kept> steps_{};  // where a launch is a recorded step
};

}  // namespace flame::cuda
