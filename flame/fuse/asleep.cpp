// What an island does not write: a passing value, and what the graph alone keeps and a few cheap ops make of no more bytes. It sleeps,
// pending beside the island, until someone reads it; most die unread, or are read by an island of a backward.
#include <algorithm>
#include <utility>

#include "flame/device/profile.h"
#include "flame/fuse/island_internal.h"

namespace flame {

namespace {
Expr* expr_of(const Slot& s) { return s.value ? s.value->expr.load(std::memory_order_relaxed) : nullptr; }
constexpr int64_t worth_a_launch = 1 << 20;  // bytes
bool cheap(const Expr& e) {
  return !e.is_reduce && (e.code == Code::copy || e.code == Code::add || e.code == Code::sub || e.code == Code::mul);
}
}  // namespace

void note_read(const Value& x) {
  if (!x.pending()) return;
  std::lock_guard lock(*x.island);
  if (Expr* e = x.expr.load(std::memory_order_relaxed)) e->read = true;
}

void note_kept(const Value& x, bool kept) {
  if (!x.pending()) return;
  std::lock_guard lock(*x.island);
  if (Expr* e = x.expr.load(std::memory_order_relaxed)) e->kept += kept ? 1 : ~0u;
}

void Island::put_to_sleep(Value& v) {
  Expr& e = *v.expr.load(std::memory_order_relaxed);
  e.asleep = true;
  e.depth = 1;
  e.index = static_cast<int>(sleepers_.size());
  for (const Slot& s : e.in)
    if (Expr* p = expr_of(s)) {
      ++p->sleeping_uses;
      e.depth = std::max(e.depth, p->depth + 1);
    }
  sleepers_.push_back(&v);
}

void Island::forget_sleeper(Expr& e) {
  Value* last = sleepers_.back();
  sleepers_[static_cast<size_t>(e.index)] = last;
  last->expr.load(std::memory_order_relaxed)->index = e.index;
  sleepers_.pop_back();
  for (const Slot& s : e.in)
    if (Expr* p = expr_of(s)) --p->sleeping_uses;
  e.asleep = false;
}

void Island::wake(Value& v) {
  Expr& e = *v.expr.load(std::memory_order_relaxed);
  if (!e.asleep) return;
  if (device != v.device) {
    if (live) flush("another device");
    device = v.device;
  }
  forget_sleeper(e);
  e.depth = 1;
  for (const Slot& s : e.in)
    if (const Expr* p = expr_of(s)) {
      wake(*s.value);
      e.depth = std::max(e.depth, p->depth + 1);
    }
  e.index = static_cast<int>(nodes.size());
  nodes.push_back(&v);
  ++live;
}

void Island::wake_held() {
  std::vector<Value*> held;
  for (Value* v : sleepers_) {
    const Expr& e = *v->expr.load(std::memory_order_relaxed);
    if (v->ref_count() > e.uses + e.kept) held.push_back(v);
  }
  for (Value* v : held)
    if (v->pending()) wake(*v);
}

namespace {

struct Chooser {
  const std::vector<Ref<Value>>& nodes;
  std::vector<bool>& wanted;
  std::vector<bool> asleep;

  Expr& expr(size_t i) const { return *nodes[i]->expr.load(std::memory_order_relaxed); }

  // Puts node `i`, and what it is made of and nobody holds, among the sleepers. Not where many ops would be made again or, but for
  // what is `passing`, dear ones, or more be read than `i` itself. What is small is written, whatever it is.
  void choose(size_t i, bool passing) {
    constexpr size_t most = 12;
    constexpr int64_t small = 16;  // parts of its bytes
    const int64_t own = ideal_bytes(nodes[i]->meta());
    std::vector<size_t> made, written, next{i};
    std::vector<const Value*> read;
    while (!next.empty()) {
      const size_t at = next.back();
      next.pop_back();
      if (std::find(made.begin(), made.end(), at) != made.end()) continue;
      made.push_back(at);
      if (made.size() > most) return;
      for (const Slot& s : expr(at).in) {
        if (!s.value) continue;
        const Expr* p = expr_of(s);
        const auto j = static_cast<size_t>(p ? p->index : 0);
        if (p && (asleep[j] || (!wanted[j] && (passing ? !p->is_reduce : cheap(*p))))) {
          next.push_back(j);
          continue;
        }
        if (s.value->cell && !passing) return;
        if (p && !wanted[j]) {
          if (small * ideal_bytes(s.value->meta()) > own) return;
          written.push_back(j);
        }
        if (std::find(read.begin(), read.end(), s.value.get()) == read.end()) read.push_back(s.value.get());
      }
    }
    int64_t bytes = 0;
    for (const Value* v : read) bytes += ideal_bytes(v->meta());
    if (!passing && bytes > own + own / small) return;
    for (const size_t j : made) {
      asleep[j] = true;
      wanted[j] = false;
    }
    for (const size_t j : written) wanted[j] = true;
  }
};

}  // namespace

std::vector<bool> Island::sleepers_of(const std::vector<Ref<Value>>& live_nodes, const Value* reader,
                                      std::vector<bool>& wanted) const {
  Chooser c{live_nodes, wanted, std::vector<bool>(live_nodes.size())};
  for (size_t i = 0; i < live_nodes.size(); ++i)
    if (c.expr(i).sleeping_uses) wanted[i] = true;
  for (size_t i = 0; i < live_nodes.size(); ++i) {
    const Value& v = *live_nodes[i];
    Expr& e = c.expr(i);
    const bool passing = std::exchange(e.passing, false);
    if (!reader || &v == reader || e.read || e.is_reduce || !wanted[i]) continue;
    const uint32_t held = v.ref_count() - e.uses - 1;  // without us and the pending readers
    // One more than the graph may well be a temporary; of something small, a launch for it were more than what is saved.
    const bool unread = held <= e.kept || (held == e.kept + 1 && ideal_bytes(v.meta()) >= worth_a_launch);
    if (passing && held == 1) c.choose(i, true);
    else if (e.kept && unread && cheap(e)) c.choose(i, false);
  }
  return c.asleep;
}

}  // namespace flame
