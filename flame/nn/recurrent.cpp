// Recurrent networks: one product makes the inputs' part of all steps, a second each step's; the rest of a step is one
// island.
#include "flame/nn/recurrent.h"

#include <algorithm>
#include <cmath>

#include "flame/nn/options_internal.h"
#include "flame/ops/cat.h"
#include "flame/ops/create.h"
#include "flame/ops/dropout.h"
#include "flame/ops/linear.h"
#include "flame/ops/parts_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/random.h"

namespace flame::nn {
namespace {

constexpr const char* kinds[] = {"RNN", "LSTM", "GRU"};
constexpr int64_t gates_of[] = {1, 4, 3};

const RecurrentOptions& checked(const char* kind, const RecurrentOptions& o, bool lstm, Loc loc) {
  if (o.in < 1 || o.hidden < 1 || o.layers < 1)
    fail<ValueError>(loc, "{}: expected in, hidden and layers of 1 or more, got {}, {} and {}", kind, o.in, o.hidden,
                     o.layers);
  if (o.projection < 0 || o.projection >= o.hidden || (o.projection > 0 && !lstm))
    fail<ValueError>(loc, "{}: expected {}, got {}", kind, lstm ? "a projection smaller than hidden" : "no projection",
                     o.projection);
  check_probability(kind, o.dropout, loc);
  check_float(kind, o.dtype, loc);
  return o;
}
Tensor or_none(const std::unique_ptr<Param>& p) { return p ? p->tensor() : Tensor{}; }

}  // namespace

Recurrent::Recurrent(Cell cell, Module* parent, std::string name, const Options& o, Loc loc)
    : Module(parent, std::move(name), loc),
      options(checked(kinds[static_cast<int>(cell)], o, cell == Cell::lstm, loc)),
      cell_(cell) {
  const int64_t gates = gates_of[static_cast<int>(cell)] * o.hidden, out = o.projection ? o.projection : o.hidden;
  const double bound = 1 / std::sqrt(static_cast<double>(o.hidden));
  const auto made = [&](const std::string& what, const Shape& s) {
    return std::make_unique<Param>(*this, what, flame::uniform(s, -bound, bound, {.dtype = o.dtype}, loc), loc);
  };
  for (int64_t layer = 0; layer < o.layers; ++layer)
    for (const char* way : {"", "_reverse"}) {
      if (*way && !o.bidirectional) continue;
      const std::string end = "_l" + std::to_string(layer) + way;
      Direction d;
      d.weight_ih = made("weight_ih" + end, {gates, layer == 0 ? o.in : out * (o.bidirectional ? 2 : 1)});
      d.weight_hh = made("weight_hh" + end, {gates, out});
      if (o.bias) d.bias_ih = made("bias_ih" + end, {gates});
      if (o.bias) d.bias_hh = made("bias_hh" + end, {gates});
      if (o.projection) d.weight_hr = made("weight_hr" + end, {out, o.hidden});
      directions_.push_back(std::move(d));
    }
}

// from_input: W_ih x + b_ih of this step, [N, gates * hidden].
Recurrent::Running Recurrent::step(const Direction& d, const Tensor& from_input, const Running& before, Loc loc) const {
  const Tensor from_state = linear(before.h, d.weight_hh->tensor(), or_none(d.bias_hh), {}, loc);
  switch (cell_) {
    case Cell::rnn: return {tanh(add(from_input, from_state, loc), loc), {}};
    case Cell::gru: {
      const std::vector<Tensor> x = parts(from_input, 3, -1, false, loc), h = parts(from_state, 3, -1, false, loc);
      const Tensor r = sigmoid(add(x[0], h[0], loc), loc), z = sigmoid(add(x[1], h[1], loc), loc);
      const Tensor n = tanh(add(x[2], mul(r, h[2], loc), loc), loc);
      return {add(n, mul(z, sub(before.h, n, loc), loc), loc), {}};
    }
    case Cell::lstm: break;
  }
  const std::vector<Tensor> gate = parts(add(from_input, from_state, loc), 4, -1, false, loc);
  const Tensor c =
      add(mul(sigmoid(gate[1], loc), before.c, loc), mul(sigmoid(gate[0], loc), tanh(gate[2], loc), loc), loc);
  const Tensor h = mul(sigmoid(gate[3], loc), tanh(c, loc), loc);
  return {d.weight_hr ? linear(h, d.weight_hr->tensor(), {}, {}, loc) : h, c};
}

// x: [T, N, in] -> [T, N, out]; `state` moves to after the last step.
Tensor Recurrent::run(const Direction& d, const Tensor& x, bool reverse, Running& state, Loc loc) const {
  const Tensor all = linear(x, d.weight_ih->tensor(), or_none(d.bias_ih), {}, loc);
  const std::vector<Tensor> inputs = parts(all, x.shape()[0], 0, true, loc);
  std::vector<Tensor> out(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const size_t t = reverse ? inputs.size() - 1 - i : i;
    state = step(d, inputs[t], state, loc);
    out[t] = state.h;
  }
  return stack(out, 0, loc);
}

RecurrentState Recurrent::checked_state(const RecurrentState& given, int64_t batch, bool one_sample, const Tensor& x,
                                        Loc loc) const {
  const auto ready = [&](const Tensor& s, const char* what, int64_t size) {
    const Shape expected{static_cast<int64_t>(directions_.size()), batch, size};
    if (!s.defined()) return zeros(expected, x.dtype(), x.device(), loc);
    Tensor full = one_sample && s.rank() == 2 ? s.unsqueeze(1, loc) : s;
    if (full.shape() != expected)
      fail<ShapeError>(loc, "{}: expected a state {} of shape {}, got {}", kinds[static_cast<int>(cell_)], what,
                       expected, s.shape());
    return full;
  };
  return {ready(given.h, "h", options.projection ? options.projection : options.hidden),
          cell_ == Cell::lstm ? ready(given.c, "c", options.hidden) : Tensor{}};
}

RecurrentResult Recurrent::forward(const Tensor& given, const RecurrentState& start, Loc loc) {
  const bool one_sample = given.rank() == 2;
  if (!(given.rank() == 3 || one_sample) || given.shape().back() != options.in)
    fail<ShapeError>(loc, "{}: expected {}{}], got shape {}", kinds[static_cast<int>(cell_)],
                     options.batch_first ? "[N, T, " : "[T, N, ", options.in, given.shape());
  Tensor x = one_sample ? given.unsqueeze(1, loc) : options.batch_first ? given.transpose(0, 1, loc) : given;
  if (x.shape()[0] == 0)
    fail<ShapeError>(loc, "{}: expected one step or more, got shape {}", kinds[static_cast<int>(cell_)], given.shape());
  const RecurrentState before = checked_state(start, x.shape()[1], one_sample, x, loc);
  const auto count = static_cast<int64_t>(directions_.size());
  const std::vector<Tensor> h = parts(before.h, count, 0, true, loc);
  const std::vector<Tensor> c =
      before.c.defined() ? parts(before.c, count, 0, true, loc) : std::vector<Tensor>(h.size());
  std::vector<Tensor> last_h, last_c;
  const size_t ways = options.bidirectional ? 2 : 1;
  for (size_t i = 0; i < directions_.size(); i += ways) {
    if (i > 0) x = dropout(x, options.dropout, is_training(), nullptr, loc);
    std::vector<Tensor> out;
    for (size_t way = 0; way < ways; ++way) {
      Running state{h[i + way], c[i + way]};
      out.push_back(run(directions_[i + way], x, way == 1, state, loc));
      last_h.push_back(state.h);
      last_c.push_back(state.c);
    }
    x = ways == 1 ? out[0] : cat(out, -1, loc);
  }
  RecurrentResult r{x, {stack(last_h, 0, loc), before.c.defined() ? stack(last_c, 0, loc) : Tensor{}}};
  if (one_sample) {
    r.out = r.out.squeeze(1, loc);
    r.state.h = r.state.h.squeeze(1, loc);
    if (r.state.c.defined()) r.state.c = r.state.c.squeeze(1, loc);
  } else if (options.batch_first) {
    r.out = r.out.transpose(0, 1, loc);
  }
  return r;
}

std::string Recurrent::kind() const {
  return fmt::format("{}({}, {}{}{})", kinds[static_cast<int>(cell_)], options.in, options.hidden,
                     options.layers > 1 ? fmt::format(", {} layers", options.layers) : "",
                     options.bidirectional ? ", both ways" : "");
}

}  // namespace flame::nn
