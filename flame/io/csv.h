// Tables of numbers in text, as spreadsheets write them (RFC 4180).
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "flame/tensor/tensor.h"

namespace flame::io {

struct CsvOptions {
  char delimiter = ',';
  bool header = true;  // the first line names the columns
  // Which columns to read, by name or, without a header, by number from 0 ("2"); all if empty.
  std::vector<std::string> columns = {};
};

struct CsvColumn {
  std::string name;  // of the header; without one, the number
  Tensor values;     // [rows]: int64 where every field is a whole number, else float64
};
struct CsvTable {
  std::vector<CsvColumn> columns;
  int64_t rows = 0;
  const Tensor& column(std::string_view name, Loc loc = Loc::current()) const;  // FormatError if there is none
  // float64 [rows, columns].
  Tensor matrix(Loc loc = Loc::current()) const;
};

// Fields may stand in quotes, "" in them is a quote; lines end in \n or \r\n; empty lines are passed over. Numbers are
// decimal; an empty field, "nan" and "inf" are float64. FormatError, with line and column, for a field that is no
// number, a line with more or fewer fields, an open quote; ValueError for a column that is asked for and missing.
CsvTable read_csv(const std::string& path, const CsvOptions& options = {}, Loc loc = Loc::current());

}  // namespace flame::io
