// PyTorch files: what torch.save wrote (tools/pt_fixtures.py), pickles that are more than tensor records, mutants.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "flame/io/pt.h"
#include "flame/io/zip.h"
#include "support/compare.h"
#include "support/file_formats.h"

using namespace flame;
using namespace flame::io;
using namespace std::string_literals;
using flame_test::Scratch;

namespace {

const std::string folder = FLAME_SOURCE_DIR "/tests/files/pt/";

std::string archive(const std::string& pickle, const std::vector<std::pair<std::string, std::string>>& others = {}) {
  const Scratch dir;
  const std::string path = dir / "a";
  write_file_atomic(path, [&](FileSink& sink) {
    ZipWriter zip(sink, path, Loc::current());
    zip.add("m/data.pkl", pickle, false);
    for (const auto& [name, content] : others) zip.add(name, content, false);
    zip.finish();
  });
  return read_file(path);
}

std::string text(const std::string& s) {
  return "X" + std::string(1, static_cast<char>(s.size())) + std::string(3, '\0') + s;
}
std::string int4(uint32_t v) { return "J" + std::string(reinterpret_cast<const char*>(&v), 4); }
std::string int8(int64_t v) { return "\x8a\x08" + std::string(reinterpret_cast<const char*>(&v), 8); }

// A pickled tensor of float32 over storage "0" of `count` elements.
std::string tensor(const std::string& offset, const std::string& sizes, const std::string& strides,
                   const std::string& count = int4(4), const std::string& type = "FloatStorage") {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" + type + "\n" + text("0") +
         text("cpu") + count + "tQ" + offset + "(" + sizes + "t(" + strides + "t\x89" +
         "ccollections\nOrderedDict\n)RtR";
}
std::string pickle(const std::string& body) { return "\x80\x02" + body + "."; }
std::string one(const std::string& tensor_ops, const std::string& storage = std::string(16, '\0')) {
  return archive(pickle(tensor_ops), {{"m/data/0", storage}});
}

std::vector<Tensor> load(const std::string& path) {
  std::vector<Tensor> out;
  for (const auto& [name, t] : load_pt(path).tensors) out.push_back(t);
  return out;
}
std::vector<flame_test::BadFile> bad_files() {
  const std::string ones = "K\4", step = "K\1";
  const std::string huge = int8(int64_t{1} << 62), negative = int4(0xffffffff);
  std::string laughs = "]";
  for (int i = 0; i < 60; ++i) laughs = "]" + laughs + "q\1ah\1a";
  return {
      {"", "no zip file"},
      {"\x80\2}.", "a bare pickle"},
      {archive(""), "does not begin with a protocol"},
      {archive("\x80"), "does not begin with a protocol"},
      {archive("\x80\2"), "pickle byte 2: the pickle is cut off"},
      {archive("\x80\1}."), "protocol 1, expected 2 to 5"},
      {archive("\x80\6}."), "protocol 6"},
      {archive("\x80\2}.x"), "1 stray bytes after the end"},
      {archive(pickle("")), "ends with 0 values on the stack"},
      {archive(pickle("}}")), "ends with 2 values on the stack"},
      {archive(pickle("}a")), "the stack is empty"},
      {archive(pickle("}K\1a")), "items for something that is no list"},
      {archive(pickle("]K\1K\2s")), "items for something that is no dict"},
      {archive(pickle("}(K\1u")), "a dict key without its value"},
      {archive(pickle("}]Ns")), "a key in '' is neither a string nor an integer"},
      {archive(pickle("t")), "there is no mark"},
      {archive(pickle("h\1")), "value 1 was not remembered"},
      {archive(pickle("}r\xff\xff\xff\xff")), "above the limit"},
      {archive(pickle("X\xff\xff\xff\xff")), "the pickle is cut off"},
      {archive(pickle("\x8a\x09" + std::string(9, '\1'))), "an integer of 9 bytes"},
      {archive(pickle("cos\nsystem\n(" + text("true") + "tR")), "global 'os.system' is not among"},
      {archive(pickle("cbuiltins\neval\n")), "global 'builtins.eval' is not among"},
      {archive(pickle("\x8c\2os\x8c\6system\x93")), "global 'os.system' is not among"},
      {archive(pickle("ctorch\nFloatStorage\n)R")), "'torch FloatStorage' is called"},
      {archive(pickle("ctorch\nFloatStorage\n")), "is the class 'torch FloatStorage'"},
      {archive(pickle("})R")), "a call of something that is no global"},
      {archive(pickle("ccollections\nOrderedDict\n)\x81")), "opcode NEWOBJ (0x81)"},
      {archive(pickle("ios\nsystem\n")), "opcode INST (0x69)"},
      {archive(pickle("\x96")), "opcode BYTEARRAY8"},
      {archive(pickle("\xfe")), "opcode unknown (0xfe)"},
      {archive(pickle("K\1}b")), "attributes of something that is no dict"},
      {archive(pickle("K\1Q")), "a persistent value that is no storage"},
      {archive(pickle("((" + text("storage") + "tQ")), "a persistent value that is no storage"},
      {archive(pickle("ctorch._utils\n_rebuild_tensor_v2\n)R")), "_rebuild_tensor_v2 expects"},
      {archive(pickle("ctorch._utils\n_rebuild_parameter\n)R")), "_rebuild_parameter expects"},
      {archive(pickle("]q\1h\1a")), "values nest more than 64 deep"},
      {archive(pickle(std::string(100, ']') + std::string(99, 'a'))), "values nest more than 64 deep"},
      {archive(pickle(laughs)), "more values than its pickle has bytes"},
      {archive(pickle(std::string(600'000, ']'))), "more than 266832 values"},
      {archive(pickle(std::string(600'000, '('))), "more than 65536 marks"},
      {archive(pickle("}(" + text("a.b") + "K\1" + text("a") + "}" + text("b") + "K\2su")),
       "two values have the name 'a.b'"},
      {archive(pickle("}"), {{"n/data.pkl", "}"}}), "2 entries are named FOLDER/data.pkl"},
      {archive(pickle("}"), {{"m/byteorder", "middle"}}), "byteorder is 'middle'"},
      {archive(pickle("}"), {{"m/constants.pkl", ""}}), "a TorchScript program"},
      {archive(pickle(tensor("K\0"s, ones, step))), "its storage 'm/data/0' is missing"},
      {one(tensor("K\0"s, ones, step), std::string(15, '\0')), "has 15 bytes, expected 4 elements of 4"},
      {one(tensor("K\0"s, ones, step), std::string(20, '\0')), "has 20 bytes, expected 4 elements of 4"},
      {one(tensor("K\1", ones, step)), "reaches beyond its storage of 4 elements"},
      {one(tensor("K\0"s, "K\5", step)), "reaches beyond its storage"},
      {one(tensor("K\0"s, ones, "K\2")), "reaches beyond its storage"},
      {one(tensor("K\0"s, "K\2" + huge, step + step)), "is out of range"},
      {one(tensor("K\0"s, "K\2K\2", huge + huge)), "reaches beyond its storage"},
      {one(tensor("K\0"s, negative, step)), "has a size or stride -1"},
      {one(tensor("K\0"s, ones, negative)), "has a size or stride -1"},
      {one(tensor(negative, ones, step)), "is out of range"},
      {one(tensor("K\0"s, ones, step, negative)), "is out of range"},
      {one(tensor("K\0"s, ones, step, huge)), "expected 4611686018427387904 elements"},
      {one(tensor("K\0"s, ones, step + step)), "has 1 sizes but 2 strides"},
      {one(tensor("K\0"s, ones + ones + ones + ones + ones + ones + ones + ones + ones, step)), "has 9 axes"},
      {one(tensor("K\0"s, ones, step, int4(4), "BoolStorage"), "\1\0\2\0"s), "byte 2: a boolean is 2"},
      {one("(" + tensor("K\0"s, ones, step) + tensor("K\0"s, ones, step, int4(4), "IntStorage") + "t"),
       "sees storage '0' with another type or size"},
  };
}

const flame_test::AddFileFormat format{
    {.name = "pt",
     .load = load,
     .good =
         [] {
           return std::vector<std::string>{read_file(folder + "views.pt"), read_file(folder + "checkpoint.pt"),
                                           one(tensor("K\1", "K\2", "K\1")), read_file(folder + "big_endian.pt")};
         },
     .bad = bad_files,
     .hot = 700,
     .refused = 0.7,
     .zeros = true}};

// The checksum of a zip hides most pickles from damage: here the archive is made after it.
std::vector<std::string> good_pickles() {
  const ZipFile zip(folder + "checkpoint.pt");
  for (const ZipEntry& e : zip.entries())
    if (e.name.ends_with("/data.pkl")) return {std::string(zip.read(e).bytes())};
  return {};
}
std::string with_storages(const std::string& pickle) {
  static const auto storages = [] {
    std::vector<std::pair<std::string, std::string>> out;
    const ZipFile zip(folder + "checkpoint.pt");
    for (const ZipEntry& e : zip.entries())
      if (e.name.find("/data/") != std::string::npos)
        out.emplace_back("m" + e.name.substr(e.name.find('/')), zip.read(e).bytes());
    return out;
  }();
  return archive(pickle, storages);
}
const flame_test::AddFileFormat pickles{
    {.name = "pt pickle", .load = load, .good = good_pickles, .hot = 400, .zeros = true, .wrap = with_storages}};

}  // namespace

TEST(Pt, ReadsWhatTorchSaved) {
  const auto all = nlohmann::json::parse(std::ifstream(folder + "contents.json"));
  EXPECT_EQ(all["files"].size(), 8u);
  for (const auto& [file, contents] : all["files"].items()) {
    const PtContents got = load_pt(folder + file + ".pt");
    EXPECT_EQ(got.tensors.size() + got.values.size(), contents.size()) << file;
    for (const auto& [name, value] : contents.items()) {
      if (!value.is_object()) {
        ASSERT_TRUE(got.values.contains(name)) << file << ": " << name;
        const PtValue& v = got.values.at(name);
        if (value.is_null()) EXPECT_TRUE(std::holds_alternative<std::monostate>(v)) << name;
        else if (value.is_boolean()) EXPECT_EQ(std::get<bool>(v), value.get<bool>()) << name;
        else if (value.is_number_integer()) EXPECT_EQ(std::get<int64_t>(v), value.get<int64_t>()) << name;
        else if (value.is_number()) EXPECT_EQ(std::get<double>(v), value.get<double>()) << name;
        else EXPECT_EQ(std::get<std::string>(v), value.get<std::string>()) << name;
        continue;
      }
      const Tensor& t = got.tensor(name);
      const std::string dtype = value["dtype"];
      EXPECT_EQ(name_of(t.dtype()), dtype == "int16" ? "int32" : dtype) << file << ": " << name;
      EXPECT_EQ(to_string(t.shape()),
                to_string(Dims(std::span<const int64_t>(value["shape"].get<std::vector<int64_t>>()))));
      EXPECT_EQ(to_string(t.strides()),
                to_string(Dims(std::span<const int64_t>(value["stride"].get<std::vector<int64_t>>()))));
      EXPECT_EQ(test::numbers(t), value["data"].get<std::vector<double>>()) << file << ": " << name;
    }
  }
}

TEST(Pt, TensorsOfOneStorageShareIt) {
  const PtContents got = load_pt(folder + "views.pt");
  const Value& base = got.tensor("base").value();
  for (const char* name : {"transposed", "row", "column", "gaps", "scalar", "expanded"})
    EXPECT_EQ(got.tensor(name).value().storage.get(), base.storage.get()) << name;
  EXPECT_NE(got.tensor("lone").value().storage.get(), base.storage.get());
  EXPECT_EQ(base.storage->bytes(), 96u);
  EXPECT_THROW(got.tensor("none"), FormatError);
}

TEST(Pt, MoreThanTensorRecordsIsRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {"module", "global 'torch.nn.modules.linear.Linear' is not among"},
      {"complex", "global 'torch.ComplexFloatStorage' is not among"},
      {"sparse", "global 'torch._utils._rebuild_sparse_tensor' is not among"},
      {"quantized", "global 'torch._utils._rebuild_qtensor' is not among"},
      {"device", "global 'torch.device' is not among"},
      {"dtype", "global 'torch.float32' is not among"},
      {"set", "is not among"},
      {"bytes", "global '_codecs.encode' is not among"},
      {"function", "global '__builtin__.print' is not among"},
      {"old", "a bare pickle, as PyTorch wrote it before 1.6"},
      {"script", "a TorchScript program"},
  };
  for (const auto& [file, expected] : cases) {
    const Scratch dir;
    const std::string m = flame_test::refusal(dir / "bad", read_file(folder + "refused_" + file + ".pt"), load);
    EXPECT_NE(m.find(expected), m.npos) << file << ": " << m;
  }
}
