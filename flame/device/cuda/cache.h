// Internal: the folder in which compiled kernels and tuned choices stay from one process to the next.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace flame::cuda {

std::filesystem::path cache_folder();  // $FLAME_CACHE, else ~/.cache/flame; a user without a home keeps nothing
// To a name of its own, then renamed, so that nobody reads half a file. A full or read-only disk is no error.
void write_by_renaming(const std::filesystem::path& file, std::string_view bytes);
// All of a file; empty if it is not there.
std::string read_file(const std::filesystem::path& file);
uint64_t cache_hash(std::string_view bytes, uint64_t seed);

}  // namespace flame::cuda
