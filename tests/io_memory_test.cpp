// What files may take: bombs that pack much into little are refused within twice their size and 64 MiB, and a file that
// loads takes no more than its tensors and itself.
#include <gtest/gtest.h>
#include <turbojpeg.h>
#include <zlib.h>

#include <chrono>
#include <cstdio>

#include "flame/io/checkpoint.h"
#include "flame/io/csv.h"
#include "flame/io/file.h"
#include "flame/io/idx.h"
#include "flame/io/image.h"
#include "flame/io/npy.h"
#include "flame/io/pt.h"
#include "flame/io/safetensors_shards.h"
#include "flame/io/zip.h"
#include "support/bad_files.h"

using namespace flame;
using namespace flame::io;
using flame_test::Scratch;

namespace {

#ifdef FLAME_TEST_SANITIZED
constexpr size_t mib = size_t{1} << 17;  // sanitizers measure nothing: the paths are run, in an eighth of the time
#else
constexpr size_t mib = size_t{1} << 20;
#endif
constexpr size_t much = 160 * mib;

template <class T>
void put(std::string& s, T v) {
  s.append(reinterpret_cast<const char*>(&v), sizeof v);
}
std::string big_endian(uint32_t v) {
  return {static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8), static_cast<char>(v)};
}

// `head`, `zeros` times 0 and `tail`, never held at once.
struct Content {
  std::string head;
  size_t zeros = 0;
  std::string tail = {};
  size_t size() const { return head.size() + zeros + tail.size(); }

  template <class F>
  void each(F&& piece) const {
    const std::string block(1 << 16, '\0');
    piece(head);
    for (size_t at = 0; at < zeros; at += block.size())
      piece(std::string_view(block).substr(0, std::min(block.size(), zeros - at)));
    piece(tail);
  }
  uint32_t crc() const {
    uLong c = 0;
    each([&](std::string_view s) { c = crc32_z(c, reinterpret_cast<const Bytef*>(s.data()), s.size()); });
    return static_cast<uint32_t>(c);
  }
  // As zlib's deflateInit2 has it: window -15 raw, 15 zlib, 31 gzip.
  std::string packed(int window) const {
    z_stream z{};
    deflateInit2(&z, 6, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY);
    std::string out, chunk(1 << 16, '\0');
    const auto run = [&](std::string_view s, int flush) {
      z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(s.data()));
      z.avail_in = static_cast<uInt>(s.size());
      do {
        z.next_out = reinterpret_cast<Bytef*>(chunk.data());
        z.avail_out = static_cast<uInt>(chunk.size());
        deflate(&z, flush);
        out.append(chunk, 0, chunk.size() - z.avail_out);
      } while (z.avail_out == 0);
    };
    each([&](std::string_view s) { run(s, Z_NO_FLUSH); });
    run({}, Z_FINISH);
    deflateEnd(&z);
    return out;
  }
};

struct Part {
  std::string name, packed;
  uint32_t size, crc;
  uint16_t method = 8;
};
Part deflated(const std::string& name, const Content& c) {
  return {name, c.packed(-15), static_cast<uint32_t>(c.size()), c.crc()};
}
Part stored(const std::string& name, const std::string& bytes) {
  return {name, bytes, static_cast<uint32_t>(bytes.size()), Content{bytes}.crc(), 0};
}
std::string zip(const std::vector<Part>& parts) {
  std::string out, directory;
  for (const Part& p : parts) {
    std::string common;
    put(common, uint16_t{20}), put(common, uint16_t{0}), put(common, p.method), put(common, uint32_t{0});
    put(common, p.crc), put(common, static_cast<uint32_t>(p.packed.size())), put(common, p.size);
    put(common, static_cast<uint16_t>(p.name.size())), put(common, uint16_t{0});
    put(directory, 0x02014b50u), put(directory, uint16_t{20});
    directory += common;
    put(directory, uint16_t{0}), put(directory, uint64_t{0}), put(directory, static_cast<uint32_t>(out.size()));
    directory += p.name;
    put(out, 0x04034b50u);
    out += common + p.name + p.packed;
  }
  const auto count = static_cast<uint16_t>(parts.size());
  const auto at = static_cast<uint32_t>(out.size());
  out += directory;
  put(out, 0x06054b50u), put(out, uint32_t{0}), put(out, count), put(out, count);
  put(out, static_cast<uint32_t>(directory.size())), put(out, at), put(out, uint16_t{0});
  return out;
}

std::string npy_header(const std::string& descr, size_t count, const std::string& spaces = {}) {
  const std::string dict =
      "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + std::to_string(count) + ",), }" + spaces;
  std::string out("\x93NUMPY\2\0", 8);
  put(out, static_cast<uint32_t>(dict.size()));
  return out + dict;
}

void expect_refused(const std::string& what, const std::string& bytes, const std::string& expected,
                    void (*load)(const std::string&)) {
  const Scratch dir;
  const auto start = std::chrono::steady_clock::now();
  size_t grown = 0;
  const std::string m = flame_test::refusal(dir / "bomb", bytes, load, &grown);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_NE(m.find(expected), m.npos) << what << ": " << m.substr(0, 400);
  std::printf("  %-44s %9zu bytes, refused in %.2f s and %3zu MiB\n", what.c_str(), bytes.size(), seconds, grown >> 20);
  EXPECT_LT(seconds, 60) << what;
}

void npz(const std::string& path) { load_npz(path); }
void npy(const std::string& path) { read_npy(path); }
void pt(const std::string& path) { load_pt(path); }
void idx(const std::string& path) { read_idx(path); }
void image(const std::string& path) { read_image(path); }
void csv(const std::string& path) { read_csv(path); }
void safetensors(const std::string& path) { load_safetensors(path); }
void index_file(const std::string& path) { load_safetensors_shards(path); }

std::string pickle_text(const std::string& s) {
  std::string out = "X";
  put(out, static_cast<uint32_t>(s.size()));
  return out + s;
}
std::string with_header(const std::string& json) {
  std::string out;
  put(out, uint64_t{json.size()});
  return out + json;
}
std::string png_chunk(const std::string& type, const std::string& data) {
  return big_endian(static_cast<uint32_t>(data.size())) + type + data + big_endian(Content{type + data}.crc());
}
std::string jpeg(int side, int flags) {
  const std::vector<unsigned char> grey(static_cast<size_t>(side) * static_cast<size_t>(side), 128);
  unsigned char* out = nullptr;
  unsigned long size = 0;
  const tjhandle handle = tjInitCompress();
  tjCompress2(handle, grey.data(), side, 0, side, TJPF_GRAY, &out, &size, TJSAMP_GRAY, 50, flags);
  const std::string bytes(reinterpret_cast<char*>(out), size);
  tjFree(out);
  tjDestroy(handle);
  return bytes;
}

}  // namespace

TEST(FileMemory, ArchivesThatSwell) {
  const std::string header = npy_header("<f4", much / 4), bools = npy_header("|b1", much);
  expect_refused("npz whose array claims more", zip({deflated("a.npy", {npy_header("<f4", 1'000'000'000'000), much})}),
                 "needs 4000000000000 bytes of data", npz);
  Part wrong = deflated("a.npy", {header, much});
  wrong.crc ^= 1;
  expect_refused("npz with a wrong checksum", zip({wrong}), "is damaged: its CRC-32", npz);
  Part shorter = deflated("a.npy", {header, much - 4});
  shorter.size += 4;
  expect_refused("npz whose stream ends early", zip({shorter}), "is no deflated data of", npz);
  Part longer = deflated("a.npy", {header, much + 4});
  longer.size -= 4;
  expect_refused("npz whose stream goes on", zip({longer}), "is no deflated data of", npz);
  expect_refused("npz with a boolean 2 at the end", zip({deflated("a.npy", {bools, much - 1, "\2"})}),
                 "a boolean is 2, expected 0 or 1", npz);
  std::vector<Part> many;
  for (int i = 0; i < 400; ++i) many.push_back(deflated(std::to_string(i) + ".npy", {npy_header("|u1", mib), mib}));
  many.back().crc ^= 1;
  expect_refused("npz of 400 arrays, the last damaged", zip(many), "is damaged: its CRC-32", npz);
  std::vector<Part> tiny;
  for (int i = 0; i < 60'000; ++i) tiny.push_back(stored(std::to_string(i) + ".npy", npy_header("|u1", 0)));
  tiny.push_back(stored("x", ""));
  expect_refused("npz of 60,000 arrays, then none", zip(tiny), "is no .npy array", npz);
  expect_refused("npy with a header of 40 MiB", npy_header("|u1", 0, std::string(40 * mib, ' ')), "above the limit",
                 npy);
}

TEST(FileMemory, TorchFilesThatSwell) {
  const std::string start = "\x80\x02";
  expect_refused("pt with a pickle of 160 MiB", zip({deflated("m/data.pkl", {start, much})}), "far more than the file",
                 pt);
  const auto storage = [](const std::string& type, size_t count, const std::string& key = "0") {
    return "ctorch._utils\n_rebuild_tensor_v2\n((" + pickle_text("storage") + "ctorch\n" + type + "\n" +
           pickle_text(key) + pickle_text("cpu") + "J" + std::string(reinterpret_cast<const char*>(&count), 4) + "tQK" +
           std::string(1, '\0') + "(K\1t(K\1t\x89" + "ccollections\nOrderedDict\n)RtR.";
  };
  Part wrong = deflated("m/data/0", {"", much});
  wrong.crc ^= 1;
  expect_refused("pt with a wrong checksum",
                 zip({stored("m/data.pkl", start + storage("FloatStorage", much / 4)), wrong}),
                 "is damaged: its CRC-32", pt);
  expect_refused(
      "pt with a boolean 2 at the end",
      zip({stored("m/data.pkl", start + storage("BoolStorage", much)), deflated("m/data/0", {"", much - 1, "\2"})}),
      "a boolean is 2, expected 0 or 1", pt);
  std::string first = storage("FloatStorage", much / 4), second = storage("FloatStorage", 1, "1");
  first.pop_back();  // the end of the pickle
  second.pop_back();
  expect_refused("pt with a large storage, then none",
                 zip({stored("m/data.pkl", start + "](" + first + second + "e."), deflated("m/data/0", {"", much})}),
                 "is missing", pt);
  std::string twice = "](K\1K\2K\3e";  // a list in a list, twice, 40 times
  for (char i = 1; i <= 40; ++i) twice = "]" + twice + "q" + i + "ah" + i + "a";
  expect_refused("pt with shared lists", zip({stored("m/data.pkl", start + twice + ".")}),
                 "more values than its pickle has bytes", pt);
  expect_refused("pt with a long name for many values",
                 zip({stored("m/data.pkl", start + "}(" + pickle_text(std::string(100'000, 'n')) + "](" +
                                               std::string(200'000, 'N') + "eu.")}),
                 "take more than its size allows", pt);
  std::string lists = "](";
  for (int i = 0; i < 131'000; ++i) lists += "]Na";  // each a list of its own
  expect_refused("pt of 131,000 lists, then a class",
                 zip({stored("m/data.pkl", start + lists + "ctorch\nFloatStorage\ne.")}), "is the class", pt);
  expect_refused("pt of 500,000 numbers",
                 zip({stored("m/data.pkl", start + "](" + std::string(500'000 * 9, 'G') + "e.")}), "more than", pt);
}

TEST(FileMemory, GzipAndPicturesThatSwell) {
  const auto count = static_cast<uint32_t>(much);
  std::string gz = Content{std::string("\0\0\10\1", 4) + big_endian(count), much}.packed(31), damaged = gz;
  damaged[gz.size() - 6] ^= 1;
  expect_refused("idx with a wrong checksum", damaged, "damaged gzip data", idx);
  expect_refused("idx cut off", gz.substr(0, gz.size() - 20), "cut off", idx);
  expect_refused("idx that goes on", Content{std::string("\0\0\10\1", 4) + big_endian(count), 2 * much}.packed(31),
                 "data goes on", idx);
  constexpr uint32_t side = 20'000;
  const std::string size = big_endian(side) + big_endian(static_cast<uint32_t>(much / side));
  for (const char depth : {'\10', '\20'})
    for (const char interlaced : {'\0', '\1'}) {
      const size_t rows = much / side;
      std::string pixels = Content{"", (side * (depth == 8 ? 1u : 2u) + 1) * rows}.packed(15);
      const std::string png = "\x89PNG\r\n\x1a\n" +
                              png_chunk("IHDR", size + depth + std::string(3, '\0') + interlaced) +
                              png_chunk("IDAT", pixels.substr(0, pixels.size() - 100)) + png_chunk("IEND", "");
      expect_refused("png of depth " + std::to_string(depth) + (interlaced ? ", interlaced" : "") + ", cut off", png,
                     "damaged PNG file", image);
    }
  const std::string scans = jpeg(6000, TJFLAG_PROGRESSIVE);
  expect_refused("jpeg in scans, of one colour", scans, "6000 x 6000 pixels are more than a file of", image);
  const std::string solid = jpeg(mib == size_t{1} << 20 ? 16'000 : 4000, 0);
  expect_refused("jpeg cut off at its end", solid.substr(0, solid.size() - 2), "damaged JPEG file", image);
}

TEST(FileMemory, TextsThatSwell) {
  const auto entries = [](int n, const std::string& entry) {
    std::string out = "{";
    for (int i = 0; i < n; ++i) out += (i ? ",\"" : "\"") + std::to_string(i) + entry;
    return out;
  };
  const std::string empty = "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
  expect_refused("safetensors of a million names", with_header(entries(1'000'000, empty) + "}"),
                 "more than 262144 entries", safetensors);
  expect_refused("safetensors of 262,143 names, then none", with_header(entries(262'143, empty) + ",\"x\":1}"),
                 "'x' is a number", safetensors);
  expect_refused("safetensors of a million metadata",
                 with_header("{\"__metadata__\":" + entries(1'000'000, "\":\"\"") + "}}"), "more than 262144 entries",
                 safetensors);
  expect_refused("safetensors with a name of 60 MiB", with_header("{\"" + std::string(60 * mib, 'n') + "\":1}"),
                 "a name or value of more than", safetensors);
  expect_refused("safetensors with a number of 60 MiB",
                 with_header("{\"a\":{\"shape\":[" + std::string(60 * mib, '9') + "]}}"),
                 "a name or value of more than", safetensors);
  expect_refused("index of a million names", "{\"weight_map\":" + entries(1'000'000, "\":\"s\"") + "}}",
                 "more than 262144 entries", index_file);
  expect_refused("index with a name of 60 MiB", "{\"weight_map\":{\"" + std::string(60 * mib, 'n') + "\":\"s\"}}",
                 "a name or value of more than", index_file);
  std::string names = "0";
  for (int i = 1; i < 99'999; ++i) names += "," + std::to_string(i);
  expect_refused("csv of 99,999 columns", names + "\n1\n", "the line ends after 1 fields", csv);
  expect_refused("csv of a million columns", std::string(1'000'000, ',') + "\n", "more than 100000 fields", csv);
  expect_refused("csv with a name of 60 MiB", std::string(60 * mib, 'n') + "\n1\n", "the names of the columns", csv);
  expect_refused("csv with a number of 60 MiB", "a\n" + std::string(60 * mib, '9') + "x\n", "is no number", csv);
}

TEST(FileMemory, WhatLoadsTakesItsTensorsAndItself) {
  const Scratch dir;
  constexpr size_t size = 96 * mib;
  const auto bytes = [&] { return std::string(size, '\1'); };
  const std::vector<NamedTensor> tensors{{"a", Tensor::from_host(bytes().data(), size / 4, DType::f32, {size / 4})}};
  save_npz(dir / "npz", tensors);
  save_safetensors(dir / "safetensors", tensors);
  save_checkpoint(dir / "checkpoint", tensors, {});
  write_npy(dir / "f4.npy", tensors[0].second);
  flame_test::write_plain(dir / "u2.npy", npy_header("<u2", size / 2) + bytes());
  flame_test::write_plain(dir / "i2.idx",
                          std::string("\0\0\13\1", 4) + big_endian(static_cast<uint32_t>(size / 2)) + bytes());
  const auto expect = [&](const std::string& name, auto load) {
    const flame_test::PeakMemory memory;
    load(dir / name);
    std::printf("  %-12s of %zu MiB: %zu MiB\n", name.c_str(), size >> 20, memory.growth() >> 20);
    EXPECT_LE(memory.growth(), 2 * size + (size_t{16} << 20)) << name;
#ifndef FLAME_TEST_SANITIZED
    EXPECT_GE(memory.growth(), size) << name << ": nothing is measured";
#endif
  };
  expect("npz", npz);
  expect("safetensors", safetensors);
  expect("checkpoint", [](const std::string& path) { load_checkpoint(path); });
  expect("f4.npy", npy);
  expect("u2.npy", npy);
  expect("i2.idx", idx);
}
