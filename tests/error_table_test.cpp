// Every row of the error table throws its type, names the op and the caller's line, and changes nothing.
#include "tests/support/error_table.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <set>

#include "flame/tensor/op.h"
#include "tests/support/chosen.h"

namespace flame {
namespace {

using namespace test;

TEST(ErrorTable, EveryMistakeIsTypedAndNamed) {
  for (const ErrorCase& c : error_cases()) {
    if (!chosen(c.op)) continue;
    const size_t allocated = memory_stats().allocated;
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
    EXPECT_EQ(memory_stats().allocated, allocated) << c.op << ": memory is still held after: " << c.message;
  }
  std::printf("%zu mistakes\n", error_cases().size());
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
