// Recurrent networks over sequences: RNN, LSTM (Hochreiter and Schmidhuber 1997) and GRU (Cho et al. 2014), with PyTorch's
// names, gate orders and layouts.
#pragma once
#include <memory>

#include "flame/nn/module.h"

namespace flame::nn {

struct RecurrentOptions {
  int64_t in, hidden;
  int64_t layers = 1;
  bool bias = true;
  bool batch_first = false;  // [N, T, in] instead of [T, N, in]
  double dropout = 0;        // of the outputs of every layer but the last, in training mode
  bool bidirectional = false;
  int64_t projection = 0;  // LSTM only: the size to which outputs are projected; 0: none
  DType dtype = DType::f32;
};
struct RecurrentState {
  Tensor h;       // [layers * directions, N, hidden or projection]; undefined: zeros
  Tensor c = {};  // LSTM only: [layers * directions, N, hidden]
};
struct RecurrentResult {
  Tensor out;            // [T, N, directions * (hidden or projection)] of the last layer; forward beside backward
  RecurrentState state;  // after the last step of each layer and direction
};

// weight_ih_l0 [gates * hidden, in], weight_hh_l0 [gates * hidden, hidden], bias_ih_l0, bias_hh_l0 [gates * hidden] and, with
// a projection, weight_hr_l0 [projection, hidden]; further layers l1, ...; the backward direction's end in _reverse. All
// uniform on +-1 / sqrt(hidden). Inputs of rank 2 are one sample. Gate orders: LSTM i f g o; GRU r z n.
class Recurrent : public Module {
 public:
  using Options = RecurrentOptions;
  RecurrentResult forward(const Tensor& x, const RecurrentState& state = {}, Loc loc = Loc::current());
  RecurrentResult operator()(const Tensor& x, const RecurrentState& state = {}, Loc loc = Loc::current()) {
    return forward(x, state, loc);
  }
  std::string kind() const override;

  const Options options;

 protected:
  enum class Cell : uint8_t { rnn, lstm, gru };
  Recurrent(Cell cell, Module* parent, std::string name, const Options& o, Loc loc);

 private:
  struct Direction {  // parameters of one layer and direction
    std::unique_ptr<Param> weight_ih, weight_hh, bias_ih, bias_hh, weight_hr;
  };
  struct Running {
    Tensor h, c;
  };
  Tensor run(const Direction& d, const Tensor& x, bool reverse, Running& state, Loc loc) const;
  Running step(const Direction& d, const Tensor& from_input, const Running& before, Loc loc) const;
  RecurrentState checked_state(const RecurrentState& given, int64_t batch, bool one_sample, const Tensor& x,
                               Loc loc) const;

  Cell cell_;
  std::vector<Direction> directions_;  // forward and, if bidirectional, backward of each layer
};

// h' = tanh(W_ih x + b_ih + W_hh h + b_hh).
class RNN : public Recurrent {
 public:
  explicit RNN(const Options& o, Loc loc = Loc::current()) : Recurrent(Cell::rnn, nullptr, {}, o, loc) {}
  RNN(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : Recurrent(Cell::rnn, &parent, std::move(name), o, loc) {}
};
class LSTM : public Recurrent {
 public:
  explicit LSTM(const Options& o, Loc loc = Loc::current()) : Recurrent(Cell::lstm, nullptr, {}, o, loc) {}
  LSTM(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : Recurrent(Cell::lstm, &parent, std::move(name), o, loc) {}
};
// n = tanh(W_in x + b_in + r (W_hn h + b_hn)); h' = (1 - z) n + z h.
class GRU : public Recurrent {
 public:
  explicit GRU(const Options& o, Loc loc = Loc::current()) : Recurrent(Cell::gru, nullptr, {}, o, loc) {}
  GRU(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : Recurrent(Cell::gru, &parent, std::move(name), o, loc) {}
};

}  // namespace flame::nn
