# Writes a C++ file that holds device code as text, and what such text may include. Run as a script with -D
# SOURCE=<project> OUTPUT=<file> KERNELS=<paths below flame/, with commas> HEADERS=<likewise>; without HEADERS the file is the
# CUDA plugin's, with its own texts.
cmake_policy(VERSION 3.25)
string(REPLACE "," ";" KERNELS "${KERNELS}")
string(REPLACE "," ";" HEADERS "${HEADERS}")
set(out "// Device code as text, made by cmake/device_texts.cmake.\n#include \"flame/core/error.h\"\n#include \"flame/core/format.h\"\n#include \"flame/device/kernel.h\"\n\nnamespace flame {\nnamespace {\n")
macro(table name prefix files)
  string(APPEND out "const DeviceHeader ${name}[] = {\n")
  foreach(file IN LISTS ${files})
    file(READ "${SOURCE}/flame/${file}" text)
    string(REGEX REPLACE "\n +" "\n" text "\n${text}")  # the library carries no indentation and no lines of comment
    string(REGEX REPLACE "\n//[^\n]*" "" text "${text}")
    string(APPEND out "{\"${prefix}${file}\", R\"FLAMETEXT(${text})FLAMETEXT\"},\n")
  endforeach()
endmacro()
table(kernels "" KERNELS)
string(APPEND out "};\n")
if(NOT HEADERS)
  string(APPEND out "}  // namespace\n
std::string_view cuda::own_text(std::string_view path) {
  for (const DeviceHeader& k : kernels)
    if (path == k.name) return k.text;
  fail<NotImplemented>(Loc::current(), \"cuda: no text named '{}'\", path);
}
}  // namespace flame\n")
  string(PREPEND out "#include \"flame/device/cuda/libraries.h\"\n")
  file(WRITE "${OUTPUT}" "${out}")
  return()
endif()
table(headers "flame/" HEADERS)
# What host headers include of the standard library; flame/fuse/device.cuh has the little that is used.
foreach(name array bit cmath cstdint limits numbers type_traits utility)
  string(APPEND out "{\"${name}\", \"#include \\\"flame/fuse/device.cuh\\\"\\n\"},\n")
endforeach()
string(APPEND out "};\n}  // namespace\n
std::string_view device_text(std::string_view path) {
  for (const DeviceHeader& k : kernels)
    if (path == k.name) return k.text;
  fail<NotImplemented>(Loc::current(), \"device code: no text named '{}'\", path);
}
std::span<const DeviceHeader> device_headers() { return headers; }
}  // namespace flame\n")
file(WRITE "${OUTPUT}" "${out}")
