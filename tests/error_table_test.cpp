// Every row of the error table throws its type, names the op and the caller's line, and changes nothing.
#include "tests/support/error_table.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <set>

#include "flame/tensor/op.h"
#include "tests/support/chosen.h"

namespace flame {
namespace {

using namespace test;

TEST(ErrorTable, EveryMistakeIsTypedAndNamed) {
  flush_pending();  // the tensors that rows were given
  for (const ErrorCase& c : error_cases()) {
    if (!chosen(c.op)) continue;
    const size_t allocated = memory_stats().allocated;
    const GeneratorState drawn = default_generator().state();
    try {
      c.call();
      ADD_FAILURE() << c.op << ": nothing was thrown, expected: " << c.message;
    } catch (const Error& e) {
      const std::string m = e.what();
      EXPECT_TRUE(c.right_type(e)) << c.op << ": another type of error: " << m;
      EXPECT_NE(m.find(c.message), std::string::npos) << c.op << ": expected: " << c.message << "\ngot: " << m;
      EXPECT_NE(m.find(c.op), std::string::npos) << "the op " << c.op << " is not named: " << m;
      EXPECT_NE(std::string(e.where().file_name()).find("tests/"), std::string::npos)
          << c.op << ": not the caller's line: " << m;
    }
    EXPECT_EQ(default_generator().state(), drawn) << c.op << ": a number was drawn before: " << c.message;
    EXPECT_EQ(memory_stats().allocated, allocated) << c.op << ": memory is still held after: " << c.message;
  }
  constexpr const char* kinds[] = {"rank", "shape", "dtype", "device", "axis", "index", "emptiness", "option"};
  std::map<Mistake, std::set<std::string>> ops;
  for (const ErrorCase& c : error_cases()) ops[c.mistake].insert(c.op);
  std::printf("%zu mistakes; ops by kind:", error_cases().size());
  for (const auto& [kind, names] : ops) std::printf(" %s %zu", kinds[static_cast<int>(kind)], names.size());
  std::printf("\n");
  EXPECT_GT(error_cases().size(), 0u);
}

TEST(ErrorTable, EveryOpHasRows) {
  std::set<std::string> covered;
  for (const ErrorCase& c : error_cases()) covered.insert(c.op);
  int missing = 0;
  for (const OpEntry& e : Registry::global().entries())
    if (chosen(e.name) && !covered.contains(e.name)) {
      std::printf("no mistake tried: %s\n", e.name.c_str());
      ++missing;
    }
  std::printf("missing = %d\n", missing);
  EXPECT_EQ(missing, 0);
}

}  // namespace
}  // namespace flame
