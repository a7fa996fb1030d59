// npy and npz: round trips, NumPy as the other side, hand-made bad files, mutants.
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstring>

#include "flame/io/npy.h"
#include "support/file_formats.h"
#include "support/error.h"
#include "support/named_tensors.h"

using namespace flame;
using namespace flame::io;
using flame::test::message_of;
using flame_test::Scratch;
using flame_test::write_plain;

namespace {

// Without bfloat16, which NumPy lacks.
std::vector<NamedTensor> numpy_samples() {
  auto all = flame_test::samples();
  std::erase_if(all, [](const NamedTensor& t) { return t.second.dtype() == DType::bf16; });
  all.back().first = "folder/a b \xc3\xa4";
  return all;
}

std::string npy(const std::string& header, const std::string& data, int version = 1) {
  const auto size = static_cast<uint32_t>(header.size());
  return "\x93NUMPY" + std::string(1, static_cast<char>(version)) + std::string(1, '\0') +
         std::string(reinterpret_cast<const char*>(&size), version == 1 ? 2 : 4) + header + data;
}
std::string dict(const std::string& descr, const std::string& shape, const std::string& fortran = "False") {
  return "{'descr': " + descr + ", 'fortran_order': " + fortran + ", 'shape': " + shape + ", }\n";
}

struct Part {
  std::string name, packed;
  uint32_t size = 0, crc = 0;
  uint16_t method = 0, flags = 0;
  std::string local_name = {}, extra = {};
  uint32_t claimed = 0;  // packed size, if not 0
};
Part stored(const std::string& name, const std::string& content) {
  const auto crc = crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size());
  return {name, content, static_cast<uint32_t>(content.size()), static_cast<uint32_t>(crc)};
}
template <class T>
void put(std::string& s, T v) {
  s.append(reinterpret_cast<const char*>(&v), sizeof v);
}
// An archive with the parts' own idea of sizes.
std::string zip(const std::vector<Part>& parts, int count_change = 0) {
  std::string out, directory;
  for (const Part& p : parts) {
    const uint32_t packed = p.claimed ? p.claimed : static_cast<uint32_t>(p.packed.size());
    const auto common = [&](std::string& s, const std::string& name) {
      put(s, uint16_t{20}), put(s, p.flags), put(s, p.method), put(s, uint32_t{0}), put(s, p.crc), put(s, packed);
      put(s, p.size), put(s, static_cast<uint16_t>(name.size())), put(s, static_cast<uint16_t>(p.extra.size()));
    };
    const auto at = static_cast<uint32_t>(out.size());
    put(out, 0x04034b50u);
    common(out, p.local_name.empty() ? p.name : p.local_name);
    out += (p.local_name.empty() ? p.name : p.local_name) + p.extra + p.packed;
    put(directory, 0x02014b50u), put(directory, uint16_t{20});
    common(directory, p.name);
    put(directory, uint16_t{0}), put(directory, uint32_t{0}), put(directory, uint32_t{0}), put(directory, at);
    directory += p.name + p.extra;
  }
  const auto at = static_cast<uint32_t>(out.size());
  const auto count = static_cast<uint16_t>(static_cast<int>(parts.size()) + count_change);
  out += directory;
  put(out, 0x06054b50u), put(out, uint32_t{0}), put(out, count), put(out, count);
  put(out, static_cast<uint32_t>(directory.size())), put(out, at), put(out, uint16_t{0});
  return out;
}
Part with(Part p, void (*change)(Part&)) {
  change(p);
  return p;
}

const std::string array = npy(dict("'<f4'", "(2,)"), "abcdefgh");

std::vector<flame_test::BadFile> bad_arrays() {
  const auto f4 = [](const std::string& shape) { return npy(dict("'<f4'", shape), "abcdefgh"); };
  const auto of = [](const std::string& descr) { return npy(dict(descr, "(2,)"), "abcdefgh"); };
  std::string long_header = array;
  long_header[8] = '\xff';
  return {
      {"", "no npy file"},
      {"\x93NUMPX\1\0", "no npy file"},
      {"\x93NUMPY\1", "no npy file"},
      {npy("{}", "", 4), "version 4.0"},
      {npy("{}", "", 0), "version 0.0"},
      {std::string("\x93NUMPY\2\0\1\0", 10), "byte 10: the file ends here"},
      {long_header, "byte 8: the header has"},
      {npy("", ""), "expected '{' in the header"},
      {npy("[]", ""), "expected '{' in the header"},
      {npy("{}", ""), "no field 'descr'"},
      {npy("{'descr': '<f4', 'shape': (2,)}", "abcdefgh"), "no field 'fortran_order'"},
      {npy("{'descr': '<f4', 'descr': '<f4'}", ""), "'descr' occurs twice"},
      {npy("{'colour': 1}", ""), "unknown field 'colour'"},
      {npy("{'descr: 1}", ""), "a string without end"},
      {npy(dict("'<f4'", "(2,)") + "x", "abcdefgh"), "goes on after its dict"},
      {npy(dict("'<f4'", "(2,)", "Maybe"), "abcdefgh"), "expected True or False"},
      {of("'|O'"), "objects (a pickle, which is not read)"},
      {of("[('x', '<f4')]"), "the elements are structures"},
      {of("'|V4'"), "structures or raw bytes"},
      {of("'<U1'"), "strings"},
      {of("'|S4'"), "strings"},
      {of("'<c8'"), "complex numbers"},
      {of("'<M8[ns]'"), "dates or times"},
      {of("'<u8'"), "unsigned integers that fit no dtype here"},
      {of("'<f16'"), "floating-point numbers of another size"},
      {of("'|f4'"), "floating-point"},
      {of("'__import__(\"os\")'"), "of an unknown type"},
      {of("os.system('x')"), "expected a string in the header"},
      {f4("(3,)"), "shape [3] needs 12 bytes of data, but 8 follow"},
      {f4("(1,)"), "shape [1] needs 4 bytes of data, but 8 follow"},
      {f4("(2)"), "a shape of one axis ends in a comma"},
      {f4("(-2,)"), "expected a size from 0"},
      {f4("(2.0,)"), "a shape of one axis ends in a comma"},
      {f4("(99999999999999999999,)"), "expected a size from 0"},
      {f4("(4294967296, 4294967296)"), "is too large"},
      {f4("(0, 4294967296, 4294967296)"), "is too large"},
      {f4("(1, 1, 1, 1, 1, 1, 1, 1, 2)"), "more than 8 axes"},
      {f4("2"), "expected '(' in the header"},
      {npy(dict("'|b1'", "(2,)"), "\1\2"), "a boolean is 2"},
  };
}

std::vector<flame_test::BadFile> bad_archives() {
  const Part good = stored("a.npy", array);
  const std::string whole = zip({good});
  std::string bad_crc = whole, no_local = whole, far_directory = whole, disks = whole;
  bad_crc[30 + 5 + array.size() - 1] ^= 1;
  no_local[0] = 'X';
  far_directory[whole.size() - 6] = 1;
  disks[whole.size() - 18] = 1;
  return {
      {"", "no zip file"},
      {whole.substr(0, whole.size() - 1), "no zip file, or a cut one"},
      {whole.substr(1), "does not end at its end record"},
      {whole + "x", "no zip file"},
      {bad_crc, "is damaged: its CRC-32"},
      {no_local, "has no local header"},
      {far_directory, "does not end at its end record"},
      {disks, "over several disks"},
      {zip({good}, 1), "do not fit in a directory"},
      {zip({good}, -1), "goes on after its 0 entries"},
      {zip({good, good}), "two entries are named 'a.npy'"},
      {zip({stored("../a.npy", array)}), "is empty, absolute or climbs"},
      {zip({stored("/a.npy", array)}), "is empty, absolute or climbs"},
      {zip({stored("a\\b.npy", array)}), "is empty, absolute or climbs"},
      {zip({stored(std::string("a\0.npy", 6), array)}), "is empty, absolute or climbs"},
      {zip({stored("", array)}), "is empty, absolute or climbs"},
      {zip({stored("a/./b.npy", array)}), "is empty, absolute or climbs"},
      {zip({stored("a", array)}), "entry 'a' is no .npy array"},
      {zip({stored("folder/", "")}), "entry 'folder/' is no .npy array"},
      {zip({stored("a.npy", "nothing")}), "entry 'a.npy': byte 0: no npy file"},
      {zip({with(good, [](Part& p) { p.flags = 1; })}), "is encrypted"},
      {zip({with(good, [](Part& p) { p.method = 12; })}), "compression method 12"},
      {zip({with(good, [](Part& p) { p.size += 4; })}), "cannot make"},
      {zip({with(good, [](Part& p) { p.local_name = "b.npy"; })}), "calls this entry 'a.npy', its header does not"},
      {zip({with(good, [](Part& p) { p.claimed = p.size = 1 << 30; })}), "reach beyond the file"},
      {zip({with(good, [](Part& p) { p.claimed = p.size = 0xffffffff; })}), "lacks its zip64 sizes"},
      {zip({with(good, [](Part& p) { p.method = 8; })}), "is no deflated data of"},
      {zip({with(good, [](Part& p) { p.method = 8, p.size = 0xfffffffe; })}), "cannot make 4294967294 bytes of"},
      {zip({with(good, [](Part& p) { p.claimed = p.size = 300; }), stored("b.npy", std::string(400, 'x'))}),
       "entries 'a.npy' and 'b.npy' overlap"},
  };
}

std::vector<std::string> good_arrays() {
  const Scratch dir;
  std::vector<std::string> out{npy(dict("'>i2'", "(2, 2)", "True"), "abcdefgh"), array};
  for (const auto& [name, t] : flame_test::without_zeros(false)) {
    write_npy(dir / "a", t);
    out.push_back(read_file(dir / "a"));
  }
  return out;
}
std::vector<std::string> good_archives() {
  const Scratch dir;
  std::vector<std::string> out;
  for (const bool compress : {false, true}) {
    save_npz(dir / "a", flame_test::without_zeros(false), {.compress = compress});
    out.push_back(read_file(dir / "a"));
  }
  return out;
}
std::vector<Tensor> load_archive(const std::string& path) {
  std::vector<Tensor> out;
  for (const auto& [name, t] : load_npz(path)) out.push_back(t);
  return out;
}
const flame_test::AddFileFormat arrays{{.name = "npy",
                                        .load = [](const std::string& path) { return std::vector{read_npy(path)}; },
                                        .good = good_arrays,
                                        .bad = bad_arrays}};
const flame_test::AddFileFormat archives{{.name = "npz",
                                          .load = load_archive,
                                          .good = good_archives,
                                          .bad = bad_archives,
                                          .hot = 200,
                                          .refused = 0.7,
                                          .checksums = true}};

}  // namespace

TEST(Npy, RoundTrip) {
  const Scratch dir;
  for (const auto& [name, t] : numpy_samples()) {
    write_npy(dir / "a.npy", t);
    flame_test::expect_equal({{name, t}}, {{name, read_npy(dir / "a.npy")}});
    EXPECT_EQ((read_file(dir / "a.npy").size() - static_cast<size_t>(t.numel()) * size_of(t.dtype())) % 64, 0u);
  }
  const std::string m = message_of<DTypeError>(
      [&] { write_npy(dir / "a.npy", Tensor::from(std::vector<bfloat16>{bfloat16(1.f)}, {1})); });
  EXPECT_NE(m.find("NumPy has no bfloat16"), m.npos) << m;
  const Tensor strided = Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3}).t();
  write_npy(dir / "a.npy", strided);
  EXPECT_EQ(read_npy(dir / "a.npy").to_vector<float>(), (std::vector<float>{1, 4, 2, 5, 3, 6}));
}

TEST(Npy, OrdersAndWidenedTypes) {
  const Scratch dir;
  const auto read = [&](const std::string& bytes) {
    write_plain(dir / "a", bytes);
    return read_npy(dir / "a");
  };
  const Tensor f = read(
      npy(dict("'>i4'", "(2, 3)", "True"), std::string("\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0\5\0\0\0\6", 24), 2));
  EXPECT_EQ(f.to_vector<int32_t>(), (std::vector<int32_t>{1, 3, 5, 2, 4, 6}));
  EXPECT_EQ(f.strides(), (Strides{1, 2}));
  const Tensor u2 = read(npy(dict("'<u2'", "(2,)"), std::string("\xff\xff\1\0", 4)));
  EXPECT_EQ(u2.to_vector<int32_t>(), (std::vector<int32_t>{65535, 1}));
  EXPECT_EQ(read(npy(dict("'>i2'", "(1,)"), "\xff\xfe")).to_vector<int32_t>(), (std::vector<int32_t>{-2}));
  EXPECT_EQ(read(npy(dict("'<u4'", "()"), "\xff\xff\xff\xff", 3)).to_vector<int64_t>(),
            (std::vector<int64_t>{4294967295}));
  EXPECT_EQ(read(npy("{\"shape\":(1L,),'fortran_order':False,'descr':'|b1'}", "\1")).dtype(), DType::boolean);
}

TEST(Npz, RoundTrip) {
  const Scratch dir;
  for (const bool compress : {false, true}) {
    save_npz(dir / "a.npz", numpy_samples(), {.compress = compress});
    flame_test::expect_equal(numpy_samples(), load_npz(dir / "a.npz"));
    save_npz(dir / "b.npz", numpy_samples(), {.compress = compress});
    EXPECT_EQ(read_file(dir / "a.npz"), read_file(dir / "b.npz"));
  }
  const std::vector<NamedTensor> zeros{{"z", Tensor::from(std::vector<float>(1'000'000), {1000, 1000})}};
  save_npz(dir / "z.npz", zeros, {.compress = true});
  EXPECT_LT(read_file(dir / "z.npz").size(), 10'000u);
  flame_test::expect_equal(zeros, load_npz(dir / "z.npz"));
  save_npz(dir / "e.npz", {});
  EXPECT_TRUE(load_npz(dir / "e.npz").empty());
  const Tensor t = Tensor::from<float>({1}, {1});
  for (const char* name : {"", "/a", "../a", "a//b", "a\\b", "a/"})
    EXPECT_THROW(save_npz(dir / "n.npz", std::vector<NamedTensor>{{name, t}}), ValueError) << name;
  EXPECT_THROW(save_npz(dir / "n.npz", std::vector<NamedTensor>{{"a", t}, {"a", t}}), ValueError);
  EXPECT_FALSE(file_exists(dir / "n.npz"));
}

TEST(Npz, NumpyReadsAndWritesTheSame) {
  const std::string python = flame_test::python_with("numpy");
  if (python.empty()) GTEST_SKIP() << "no Python with numpy";
  for (const std::string back : {"back", "back.c"}) {
    const Scratch dir;
    save_npz(dir / "a.npz", numpy_samples(), {.compress = back != "back"});
    const auto out = flame_test::run(python + " " + flame_test::reader("read_npy.py") + " " + (dir / "a.npz") + " " +
                                     (dir / back) + " " + dir.path());
    ASSERT_EQ(out.status, 0) << out.text;
    EXPECT_NE(out.text.find("layer.float16[5, 7] float16 (5, 7)"), std::string::npos) << out.text;
    const auto got = load_npz(dir / back);
    flame_test::expect_equal(numpy_samples(), got);
    for (size_t i = 0; i < got.size(); ++i)
      flame_test::expect_equal({got[i]}, {{got[i].first, read_npy(dir / (std::to_string(i) + ".npy"))}});
  }
}

TEST(Npz, Zip64SizesAreRead) {
  const Scratch dir;
  Part p = stored("a.npy", array);
  const auto size = static_cast<uint64_t>(array.size());
  put(p.extra, uint16_t{0x7777}), put(p.extra, uint16_t{2}), put(p.extra, uint16_t{0});  // something else first
  put(p.extra, uint16_t{1}), put(p.extra, uint16_t{16}), put(p.extra, size), put(p.extra, size);
  p.size = p.claimed = 0xffffffff;
  std::string whole = zip({p});
  // The same numbers again in a zip64 end record, those of the old one out of range.
  std::string end = whole.substr(whole.size() - 22), end64, locator;
  uint32_t directory_size, directory_at;
  std::memcpy(&directory_size, end.data() + 12, 4);
  std::memcpy(&directory_at, end.data() + 16, 4);
  put(end64, 0x06064b50u), put(end64, uint64_t{44}), put(end64, uint32_t{0}), put(end64, uint64_t{0});
  put(end64, uint64_t{1}), put(end64, uint64_t{1}), put(end64, uint64_t{directory_size}),
      put(end64, uint64_t{directory_at});
  put(locator, 0x07064b50u), put(locator, uint32_t{0}), put(locator, uint64_t{whole.size() - 22}),
      put(locator, uint32_t{1});
  std::string end_far = end;
  end_far.replace(8, 12, std::string(12, '\xff'));
  for (const std::string& bytes : {whole, whole.substr(0, whole.size() - 22) + end64 + locator + end_far}) {
    write_plain(dir / "a.npz", bytes);
    EXPECT_EQ(load_npz(dir / "a.npz")[0].second.shape(), (Shape{2}));
  }
  locator[8] = '\x7f';
  const auto load = [](const std::string& path) { load_npz(path); };
  const std::string m = flame_test::refusal(dir / "bad", whole + end64 + locator + end_far, load);
  EXPECT_NE(m.find("the zip64 end record is not where its locator says"), m.npos) << m;
}
