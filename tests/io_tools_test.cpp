// tools/accuracy.py counts what predictions.csv says, and refuses files that do not hold what they should.
#include <gtest/gtest.h>

#include "flame/io/file.h"
#include "readers/reader.h"

using namespace flame::io;
using flame_test::Scratch;
using flame_test::write_plain;

TEST(AccuracyTool, CountsAndRefuses) {
  if (flame_test::run("python3 -c 0").status != 0) GTEST_SKIP() << "no python3";
  const Scratch dir;
  const std::string header = "index,label,predicted,probability\n", good = header + "0,3,3,0.9\n1,1,2,0.5\n2,0,0,0.7\n";
  write_plain(dir / "labels", std::string("\0\0\10\1\0\0\0\3\3\1\0", 11));
  const struct {
    std::string text, expected;
    bool fine;
  } cases[] = {
      {good, "accuracy 66.67 % (2 of 3)", true},
      {header + "2,0,0,1\n0,3,3,1\n1,1,1,1\n", "accuracy 100.00 % (3 of 3)", true},
      {header + "0,3,3,0.9\n1,2,2,0.5\n2,0,0,0.7\n", "index 1 has label 2, but", false},
      {header + "0,3,3,0.9\n1,1,2,0.5\n", "2 predictions for the 3 labels", false},
      {header + "0,3,3,0.9\n0,3,3,0.5\n2,0,0,0.7\n", "index 0 occurs twice", false},
      {header + "0,3,3,0.9\n1,1,2,0.5\n3,0,0,0.7\n", "indices are not 0 to 2", false},
      {header + "0,3,3\n", "line 2 has 3 fields, expected 4", false},
      {"a,b\n", "expected index,label,predicted", false},
      {"", "expected index,label,predicted", false},
      {header + "0,x,3,0.9\n", "invalid literal", false},
  };
  const std::string tool = FLAME_SOURCE_DIR "/tools/accuracy.py";
  for (const auto& c : cases) {
    write_plain(dir / "predictions.csv", c.text);
    const auto out = flame_test::run("PYTHONDONTWRITEBYTECODE=1 python3 " + tool + " " + dir.path() + " --labels " +
                                     (dir / "labels"));
    EXPECT_EQ(out.status == 0, c.fine) << out.text;
    EXPECT_NE(out.text.find(c.expected), std::string::npos) << "expected: " << c.expected << "\ngot: " << out.text;
    EXPECT_EQ(out.text.find("Traceback"), std::string::npos);
  }
}
