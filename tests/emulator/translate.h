// A preprocessed device text, made one that a C++ compiler takes: inline PTX becomes calls, dynamic shared memory a pointer,
// and every kernel is told to the emulator.
#pragma once
#include <string>
#include <string_view>

namespace flame::emulated {

std::string translate(std::string_view text);

}  // namespace flame::emulated
