// Threads of a block as coroutines: ucontext makes their stacks, setjmp and longjmp switch between them.
#undef _FORTIFY_SOURCE  // its longjmp refuses stacks it does not know
#include "tests/emulator/threads.h"

#include <csetjmp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

#include "flame/core/format.h"

namespace flame::emulated {
namespace {

using flame_emulated::Context;
using flame_emulated::Entry;
using flame_emulated::Index;
using flame_emulated::Meeting;

constexpr int lanes_of_warp = 32;
constexpr size_t stack_bytes = 256 << 10;

struct Stack {
  jmp_buf at;
  ucontext_t begin;
  char* memory;
  bool begun = false;
  Stack()
      : memory(static_cast<char*>(
            mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    if (memory == MAP_FAILED) std::abort();
    mprotect(memory, 4096, PROT_NONE);
  }
  ~Stack() { munmap(memory, stack_bytes); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
};

enum class State : uint8_t { ready, with_warp, with_block, ended };
struct Thread {
  Index index;
  State state = State::ready;
  Stack* stack = nullptr;
  void* record = nullptr;
  Meeting meeting = nullptr;
  unsigned lanes = 0;
};

// There is one: launches take turns.
class Block {
 public:
  std::string run(Context& c, const Entry& k, const unsigned char* arguments);
  void meet_warp(unsigned lanes, void* record, Meeting meeting) {
    Thread& t = *now_;
    t.lanes = lanes;
    leave(State::with_warp, record, meeting);
  }
  void meet_block(void* record, Meeting meeting) { leave(State::with_block, record, meeting); }
  void body();
  [[noreturn]] void trap(std::string what) {
    wrong_ = std::move(what);
    std::longjmp(back_, 1);
  }
  bool running() const { return now_ != nullptr; }

 private:
  void leave(State s, void* record, Meeting meeting) {
    Thread& t = *now_;
    t.state = s;
    t.record = record;
    t.meeting = meeting;
    if (!_setjmp(t.stack->at)) _longjmp(back_, 1);
    context_->thread = now_->index;
  }
  void resume(Thread& t);
  bool turn(size_t warp);
  void try_warp(size_t warp, unsigned lanes);
  bool try_block();
  std::string name(const Thread& t) const {
    return fmt::format("thread ({}, {}, {}) of block ({}, {}, {})", t.index.x, t.index.y, t.index.z, context_->block.x,
                       context_->block.y, context_->block.z);
  }
  void stuck();

  Context* context_ = nullptr;
  const Entry* kernel_ = nullptr;
  const unsigned char* arguments_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<std::unique_ptr<Stack>> stacks_;
  std::vector<Stack*> free_;
  std::vector<void*> records_;
  Thread* now_ = nullptr;
  jmp_buf back_;
  std::string wrong_;
  const bool reverse_ = [] {
    const char* order = std::getenv("FLAME_EMULATOR_ORDER");
    return order && std::string(order) == "reverse";
  }();
};
Block& block() {
  static Block* const one = new Block;
  return *one;
}

void Block::body() {
  for (;;) {
    context_->thread = now_->index;
    kernel_->call(arguments_);
    now_->state = State::ended;
    if (!_setjmp(now_->stack->at)) _longjmp(back_, 1);
  }
}
// Until it waits for others or has ended.
void Block::resume(Thread& t) {
  now_ = &t;
  if (!t.stack) {
    if (free_.empty()) {
      stacks_.push_back(std::make_unique<Stack>());
      free_.push_back(stacks_.back().get());
    }
    t.stack = free_.back();
    free_.pop_back();
  }
  if (!_setjmp(back_)) {
    Stack& s = *t.stack;
    if (s.begun) _longjmp(s.at, 1);
    s.begun = true;
    getcontext(&s.begin);
    s.begin.uc_stack.ss_sp = s.memory;
    s.begin.uc_stack.ss_size = stack_bytes;
    s.begin.uc_link = nullptr;
    makecontext(
        &s.begin, [] { block().body(); }, 0);
    setcontext(&s.begin);
  }
  Thread& left = *now_;
  now_ = nullptr;
  if (!wrong_.empty()) wrong_ += " in " + name(left);
  else if (left.state == State::ended) {
    free_.push_back(left.stack);
    left.stack = nullptr;
  }
}

void Block::try_warp(size_t warp, unsigned lanes) {
  void* records[lanes_of_warp]{};
  Meeting meeting = nullptr;
  Thread* const first = &threads_[warp * lanes_of_warp];
  const size_t there = std::min<size_t>(threads_.size() - warp * lanes_of_warp, lanes_of_warp);
  for (size_t i = 0; i < there; ++i) {
    Thread& t = first[i];
    if (!(lanes >> i & 1) || t.state == State::ended) continue;
    if (t.state != State::with_warp || t.lanes != lanes) return;
    if (meeting && meeting != t.meeting) {
      wrong_ = "lanes meet for different things: " + name(t);
      return;
    }
    meeting = t.meeting;
    records[i] = t.record;
  }
  if (!meeting) return;
  meeting(records, lanes_of_warp);
  for (size_t i = 0; i < there; ++i)
    if (records[i]) first[i].state = State::ready;
}

// Every lane of the warp goes on as far as it can; true: some did.
bool Block::turn(size_t warp) {
  bool any = false;
  const size_t begin = warp * lanes_of_warp, end = std::min(threads_.size(), begin + lanes_of_warp);
  for (bool more = true; more;) {
    more = false;
    for (size_t k = begin; k < end; ++k) {
      Thread& t = threads_[reverse_ ? end - 1 - (k - begin) : k];
      if (t.state != State::ready) continue;
      any = more = true;
      resume(t);
      if (!wrong_.empty()) return false;
      if (t.state == State::with_warp) {
        if (!(t.lanes >> ((&t - threads_.data()) % lanes_of_warp) & 1)) {
          wrong_ = "a lane is not among those that it calls: " + name(t);
          return false;
        }
        try_warp(warp, t.lanes);
      } else if (t.state == State::ended) {
        for (size_t i = begin; i < end; ++i)
          if (threads_[i].state == State::with_warp) try_warp(warp, threads_[i].lanes);
      }
      if (!wrong_.empty()) return false;
    }
  }
  return any;
}

bool Block::try_block() {
  records_.assign(threads_.size(), nullptr);
  Meeting meeting = nullptr;
  for (size_t i = 0; i < threads_.size(); ++i) {
    Thread& t = threads_[i];
    if (t.state == State::ended) continue;
    if (t.state != State::with_block) return false;
    if (meeting && meeting != t.meeting) {
      wrong_ = "threads meet at different barriers: " + name(t);
      return false;
    }
    meeting = t.meeting;
    records_[i] = t.record;
  }
  if (!meeting) return false;
  meeting(records_.data(), static_cast<int>(records_.size()));
  for (Thread& t : threads_)
    if (t.state == State::with_block) t.state = State::ready;
  return true;
}

void Block::stuck() {
  wrong_ = "threads wait for others that do not come:";
  int said = 0;
  for (const Thread& t : threads_) {
    if (t.state == State::ended || (said > 0 && t.state == (&t - 1)->state && t.lanes == (&t - 1)->lanes)) continue;
    if (++said > 4) break;
    wrong_ += t.state == State::with_block ? fmt::format(" {} at a barrier;", name(t))
                                           : fmt::format(" {} for lanes {:08x} of its warp;", name(t), t.lanes);
  }
}

std::string Block::run(Context& c, const Entry& k, const unsigned char* arguments) {
  context_ = &c;
  kernel_ = &k;
  arguments_ = arguments;
  wrong_.clear();
  c.meet_warp = [](unsigned lanes, void* record, Meeting m) { block().meet_warp(lanes, record, m); };
  c.meet_block = [](void* record, Meeting m) { block().meet_block(record, m); };
  const Index size = c.block_size;
  threads_.assign(static_cast<size_t>(size.x) * size.y * size.z, {});
  for (size_t i = 0; i < threads_.size(); ++i) {
    const auto n = static_cast<unsigned>(i);
    threads_[i].index = {n % size.x, n / size.x % size.y, n / size.x / size.y};
  }
  std::memset(c.shared, 0xff, static_cast<size_t>(c.shared_end - c.shared));  // nothing reads what nobody wrote
  const size_t warps = (threads_.size() + lanes_of_warp - 1) / lanes_of_warp;
  const auto ended = [&] {
    for (const Thread& t : threads_)
      if (t.state != State::ended) return false;
    return true;
  };
  while (wrong_.empty()) {
    bool any = false;
    for (size_t w = 0; w < warps && wrong_.empty(); ++w) any = turn(reverse_ ? warps - 1 - w : w) || any;
    if (!wrong_.empty() || ended()) break;
    if (!try_block() && !any && wrong_.empty()) stuck();
  }
  if (!wrong_.empty()) {  // stacks are left as they are: they begin anew
    free_.clear();
    for (const auto& s : stacks_) {
      s->begun = false;
      free_.push_back(s.get());
    }
  }
  return wrong_;
}

void on_signal(int number, siginfo_t* info, void*) {
  if (!block().running()) {
    std::signal(number, SIG_DFL);
    return;  // and meets it again
  }
  const char* what = number == SIGILL || number == SIGTRAP
                         ? "a misaligned access, an index outside its array, or an assumption that does not hold"
                     : number == SIGFPE ? "a division by zero"
                                        : "an access of memory that is not there";
  block().trap(number == SIGSEGV || number == SIGBUS ? fmt::format("{} ({})", what, info->si_addr) : what);
}
// While one lives, signals of kernels are errors of theirs.
class Signals {
 public:
  Signals() {
    static char* const stack = new char[64 << 10];
    stack_t own{};
    own.ss_sp = stack;
    own.ss_size = 64 << 10;
    sigaltstack(&own, &stack_before_);
    struct sigaction act {};
    act.sa_sigaction = on_signal;
    act.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (size_t i = 0; i < std::size(numbers); ++i) sigaction(numbers[i], &act, &before_[i]);
  }
  ~Signals() {
    for (size_t i = 0; i < std::size(numbers); ++i) sigaction(numbers[i], &before_[i], nullptr);
    sigaltstack(&stack_before_, nullptr);
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

 private:
  static constexpr int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE};
  struct sigaction before_[std::size(numbers)];
  stack_t stack_before_{};
};

}  // namespace

std::string run_grid(Context& context, const Entry& kernel, const unsigned char* arguments) {
  const Signals signals;
  Index& at = context.block;
  for (at.z = 0; at.z < context.grid.z; ++at.z)
    for (at.y = 0; at.y < context.grid.y; ++at.y)
      for (at.x = 0; at.x < context.grid.x; ++at.x)
        if (std::string wrong = block().run(context, kernel, arguments); !wrong.empty()) return wrong;
  return {};
}

}  // namespace flame::emulated
