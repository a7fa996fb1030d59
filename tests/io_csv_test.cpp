// CSV: types, quotes, line ends, and where a mistake is.
#include <gtest/gtest.h>

#include <cmath>

#include "flame/io/csv.h"
#include "support/error.h"
#include "support/file_formats.h"

using namespace flame;
using namespace flame::io;
using flame_test::Scratch;
using flame_test::write_plain;

namespace {

CsvTable table(const std::string& text, const CsvOptions& o = {}) {
  const Scratch dir;
  write_plain(dir / "t.csv", text);
  return read_csv(dir / "t.csv", o);
}

std::vector<flame_test::BadFile> bad_files() {
  return {
      {"", "line 1, column 1: the file is empty"},
      {"\n\n", "line 1, column 1: the file is empty"},
      {"a,b\n1,x\n", "line 2, column 3: 'x' is no number (field 'b')"},
      {"a,b\n1,2\n1,0x10\n", "line 3, column 3: '0x10' is no number"},
      {"a,b\n1,2.5.1\n", "line 2, column 3: '2.5.1' is no number"},
      {"a,b\n1,+-2\n", "'+-2' is no number"},
      {"a,b\n1,\"2\"\"\"\n", "is no number"},
      {"a,b\n1\n", "line 2, column 1: the line ends after 1 fields, expected 2"},
      {"a,b\n1,2,3\n", "line 2, column 5: the line has more than 2 fields"},
      {"a,b\n1,2,\n", "line 2, column 5: the line has more than 2 fields"},
      {"a,b\n1,\"2\n", "line 2, column 3: a quote that does not end"},
      {"a,b\n1,\"2\"3\n", "line 2, column 3: text after the closing quote"},
      {"a,\"b\nc\"\n1,x\n", "line 3, column 3: 'x' is no number"},
      {"a,a\n", "line 1, column 3: two columns are named 'a'"},
      {std::string("a\n\0\n", 4), "'\\x00' is no number"},
  };
}
const flame_test::AddFileFormat format{
    {.name = "csv",
     .load = [](const std::string& path) { return std::vector{read_csv(path).matrix()}; },
     .good =
         [] {
           return std::vector<std::string>{"a,b,\"c\"\n1,2.5,\"3\"\n-4,,6\n7,inf,1e5\n", "x\n1\n2\n3\n"};
         },
     .bad = bad_files,
     .hot = 30,
     .refused = 0.2,
     .truncated = false}};

}  // namespace

TEST(Csv, TypedColumns) {
  const CsvTable t = table("a,b,\"c \"\"quoted\"\", d\"\n1,2,x\n", {.columns = {"b", "a"}});
  EXPECT_EQ(t.rows, 1);
  ASSERT_EQ(t.columns.size(), 2u);
  EXPECT_EQ(t.columns[0].name, "b");
  const CsvTable u =
      table("\xef\xbb\xbfi,f,\"c \"\"q\"\", d\"\r\n 1 ,2.5,\"3\"\r\n\r\n-4,,+6\n9223372036854775807,-inf,7");
  EXPECT_EQ(u.rows, 3);
  EXPECT_EQ(u.column("i").to_vector<int64_t>(), (std::vector<int64_t>{1, -4, INT64_MAX}));
  EXPECT_EQ(u.column("c \"q\", d").to_vector<int64_t>(), (std::vector<int64_t>{3, 6, 7}));
  const auto f = u.column("f").to_vector<double>();
  EXPECT_EQ(f[0], 2.5);
  EXPECT_TRUE(std::isnan(f[1]));
  EXPECT_EQ(f[2], -HUGE_VAL);
  EXPECT_EQ(u.matrix().shape(), (Shape{3, 3}));
  EXPECT_EQ(u.matrix().to_vector<double>()[3], -4.0);
  EXPECT_THROW(u.column("none"), FormatError);
  const CsvTable v = table("1;2\n3;9223372036854775808\n", {.delimiter = ';', .header = false});
  EXPECT_EQ(v.column("0").to_vector<int64_t>(), (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(v.column("1").to_vector<double>(), (std::vector<double>{2, 0x1p63}));
  EXPECT_EQ(table("a,b\n").rows, 0);
  EXPECT_EQ(table("x\n1e-400\n1e400\n").column("x").to_vector<double>(), (std::vector<double>{0, HUGE_VAL}));
  EXPECT_EQ(table("0.1,2\n", {.header = false, .columns = {"1"}}).column("1").to_vector<int64_t>(),
            std::vector<int64_t>{2});
}

TEST(Csv, Mistakes) {
  EXPECT_THROW(table("a\n1\n", {.columns = {"b"}}), ValueError);
  EXPECT_THROW(table("a\n1\n", {.delimiter = '"'}), ValueError);
  EXPECT_THROW(read_csv("/nowhere/t.csv"), IoError);
}
