// Writes the tests' good files into FOLDER/TARGET/, where each fuzz target starts from.
#include <cstdio>
#include <filesystem>

#include "flame/io/file.h"
#include "flame/io/npy.h"
#include "flame/io/safetensors_shards.h"
#include "flame/io/zip.h"

using namespace flame;
using namespace flame::io;
namespace fs = std::filesystem;

namespace {

std::vector<NamedTensor> samples() {
  std::vector<NamedTensor> out;
  for (const DType t : all_dtypes) {
    if (t == DType::bf16) continue;  // NumPy has none
    const std::string bytes(6 * size_of(t), '\1');
    out.emplace_back(std::string(name_of(t)), Tensor::from_host(bytes.data(), 6, t, {2, 3}));
  }
  return out;
}

void write(const std::string& root) {
  for (const char* target : {"safetensors", "safetensors_index", "npy", "npz", "pt", "pickle", "idx", "image", "csv"})
    ensure_directory(root + "/" + target);
  const auto all = samples();
  save_safetensors(root + "/safetensors/all", all, {{"k", "v"}});
  save_safetensors_shards(root + "/safetensors_index/m.safetensors.index.json", all, {.max_bytes = 30});
  for (const auto& [name, t] : all) write_npy(root + "/npy/" + name, t);
  save_npz(root + "/npz/stored", all);
  save_npz(root + "/npz/deflated", all, {.compress = true});
  write_file_atomic(root + "/idx/bytes", std::string("\0\0\10\2\0\0\0\2\0\0\0\3abcdef", 18));
  write_file_atomic(root + "/idx/floats", std::string("\0\0\15\1\0\0\0\1\x3f\x80\0\0", 12));
  write_file_atomic(root + "/csv/table", "a,\"b \"\"c\"\"\",d\n1,2.5,-3\n4,,nan\r\n");
  for (const auto& file : fs::directory_iterator(FLAME_SOURCE_DIR "/tests/files/images"))
    if (file.path().extension() != ".json")
      fs::copy_file(file, root + "/image/" + file.path().filename().string(), fs::copy_options::overwrite_existing);
  for (const auto& file : fs::directory_iterator(FLAME_SOURCE_DIR "/tests/files/pt")) {
    if (file.path().extension() != ".pt" || file.path().stem() == "refused_old") continue;
    const std::string name = file.path().filename().string();
    fs::copy_file(file, root + "/pt/" + name, fs::copy_options::overwrite_existing);
    const ZipFile zip(file.path().string());
    for (const ZipEntry& e : zip.entries())
      if (e.name.ends_with("/data.pkl")) write_file_atomic(root + "/pickle/" + name, zip.read(e).bytes());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_corpus FOLDER\n");
    return 2;
  }
  try {
    write(argv[1]);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "make_corpus: %s\n", e.what());
    return 1;
  }
}
