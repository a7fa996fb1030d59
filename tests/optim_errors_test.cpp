// What optimizers refuse: options out of range, wrong parameters, gradients and saved states that do not fit.
#include <gtest/gtest.h>

#include "tests/support/error.h"
#include "tests/support/optim_cases.h"

namespace flame {
namespace {

using namespace test;
using namespace optim;

// Each wrong option throws ValueError that names optimizer and option, at this file's line.
template <class Options>
void expect_refused(const char* optimizer, const char* option, const Options& o) {
  const Parameters p = optim_starts(DType::f32);
  for (const bool groups : {false, true}) try {
      if (groups) OptimizerOf<Options>({{{p[0]}, {}}, {{p[1]}, o}});
      else OptimizerOf<Options>(p, o);
      ADD_FAILURE() << optimizer << " took a wrong " << option;
    } catch (const ValueError& e) {
      const std::string text = e.what();
      EXPECT_EQ(text.find(std::string(optimizer) + ": "), 0u) << text;
      EXPECT_NE(text.find(option), std::string::npos) << text;
      EXPECT_NE(text.find("expected"), std::string::npos) << text;
      EXPECT_NE(std::string(e.where().file_name()).find("optim_errors_test.cpp"), std::string::npos) << text;
    }
}
template <class Options>
void expect_common(const char* name) {
  for (const double wrong : {-1.0, static_cast<double>(NAN)}) {
    expect_refused(name, "lr", Options{.lr = wrong});
    Options decay;
    decay.weight_decay = wrong;
    expect_refused(name, "weight_decay", decay);
    if constexpr (requires(Options o) { o.betas; })
      for (const std::array<double, 2> betas : {std::array<double, 2>{1, 0.9}, {0.9, 1}, {-0.1, 0.9}, {0.9, wrong}}) {
        Options o;
        o.betas = betas;
        expect_refused(name, "betas", o);
      }
    if constexpr (requires(Options o) { o.eps; }) {
      Options o;
      o.eps = wrong;
      expect_refused(name, "eps", o);
    }
  }
  const Parameters p = optim_starts(DType::f32);
  EXPECT_NE(message_of<ValueError>([&] { OptimizerOf<Options>(Parameters{}); }).find("one parameter or more, got none"),
            std::string::npos);
  EXPECT_NE(message_of<ValueError>([&] {
              OptimizerOf<Options>(Parameters{p[0], p[1], p[0]});
            }).find("the one at 2 twice"),
            std::string::npos);
  EXPECT_NE(message_of<ValueError>([&] {
              OptimizerOf<Options>(Parameters{p[0], {}});
            }).find("an undefined one at 1"),
            std::string::npos);
}

TEST(OptimErrors, OfOptions) {
  expect_common<SGDOptions>("SGD");
  expect_common<AdamOptions>("Adam");
  expect_common<AdamWOptions>("AdamW");
  expect_common<RMSpropOptions>("RMSprop");
  expect_common<AdagradOptions>("Adagrad");
  expect_common<NAdamOptions>("NAdam");
  expect_common<RAdamOptions>("RAdam");
  expect_common<AdamaxOptions>("Adamax");
  expect_common<LionOptions>("Lion");
  expect_common<AdafactorOptions>("Adafactor");
  expect_refused("SGD", "momentum", SGDOptions{.momentum = -1});
  expect_refused("SGD", "dampening", SGDOptions{.momentum = 0.9, .dampening = 0.1, .nesterov = true});
  expect_refused("RMSprop", "alpha", RMSpropOptions{.alpha = -1});
  expect_refused("RMSprop", "momentum", RMSpropOptions{.momentum = -1});
  expect_refused("Adagrad", "lr_decay", AdagradOptions{.lr_decay = -1});
  expect_refused("Adagrad", "initial_accumulator_value", AdagradOptions{.initial_accumulator_value = -1});
  expect_refused("NAdam", "momentum_decay", NAdamOptions{.momentum_decay = -1});
  expect_refused("Adafactor", "beta2_decay", AdafactorOptions{.beta2_decay = 0.1});
  expect_refused("Adafactor", "eps1", AdafactorOptions{.eps1 = -1});
  expect_refused("Adafactor", "eps2", AdafactorOptions{.eps2 = -1});
  expect_refused("Adafactor", "d of 1 or more", AdafactorOptions{.d = 0.5});
}

TEST(OptimErrors, OfParametersAndGradients) {
  EXPECT_THROW(Parameter(zeros({2}, DType::i64)), DTypeError);  // so no optimizer sees an integer one
  const Parameters p = optim_starts(DType::f32);
  Lion opt(p);
  EXPECT_THROW(p[0].set_grad(zeros({4})), ShapeError);
  EXPECT_THROW(opt.set_lr(3, 0.1), IndexError);
  EXPECT_THROW(opt.set_lr(NAN), ValueError);
  EXPECT_THROW(opt.set_schedule(1, ConstantLR{.lr = 1}), IndexError);
}

TEST(OptimErrors, OfSavedStates) {
  for (const OptimCase& c : optim_cases()) {
    SCOPED_TRACE(c.name);
    const Parameters params = optim_starts(DType::f32);
    Optimizer opt = c.make(params);
    set_gradients(params, 0);
    opt.step();
    const auto good = opt.state_dict();
    const auto all_bytes = [&] {
      std::vector<std::vector<unsigned char>> out;
      for (const auto& [name, t] : opt.state_dict()) out.push_back(bytes(t));
      return out;
    };
    const auto before = all_bytes();
    for (size_t i = 0; i < good.size(); ++i) {
      auto bad = good;
      bad[i].second = zeros({7, 7}, good[i].second.dtype());
      EXPECT_NE(message_of<ShapeError>([&] { opt.load_state(bad); }).find("'" + good[i].first + "' of shape"),
                std::string::npos);
      bad[i].second = good[i].second.to(good[i].second.dtype() == DType::f16 ? DType::f32 : DType::f16);
      EXPECT_THROW(opt.load_state(bad), DTypeError) << good[i].first;
      bad.erase(bad.begin() + static_cast<long>(i));
      EXPECT_NE(message_of<ValueError>([&] { opt.load_state(bad); }).find("'" + good[i].first + "', got none"),
                std::string::npos);
      bad = good;
      bad.push_back(good[i]);
      EXPECT_THROW(opt.load_state(bad), ValueError) << good[i].first;
    }
    EXPECT_EQ(all_bytes(), before);
  }
  // A state of another variant, or of options that none may have.
  const Parameters params = optim_starts(DType::f32);
  AdamW plain(params), amsgrad(params, {.amsgrad = true});
  EXPECT_NE(message_of<ValueError>([&] { amsgrad.load_state(plain.state_dict()); }).find("same variant"),
            std::string::npos);
  auto wrong = plain.state_dict();
  wrong[1].second = wrong[1].second - 1;
  EXPECT_THROW(plain.load_state(wrong), ValueError);
}

}  // namespace
}  // namespace flame
