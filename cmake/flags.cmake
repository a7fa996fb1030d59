# Compiler and linker settings of this build. None of them reach users of the installed library.
include(CheckLinkerFlag)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(FLAME_CCACHE ccache)
if(FLAME_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${FLAME_CCACHE}")
endif()

check_linker_flag(CXX -fuse-ld=mold FLAME_HAS_MOLD)
if(FLAME_HAS_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# Multiply and add never contract on their own: fused and unfused islands must give the same bits.
add_compile_options(-ffp-contract=off -Wall -Wextra -Wno-missing-field-initializers $<$<BOOL:${FLAME_WERROR}>:-Werror>)

# GCC 12 sees overlapping copies in std::string::insert where there are none (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  add_compile_options(-Wno-restrict)
endif()

if(FLAME_SANITIZE)
  # g++ loses track of what is initialised once a sanitizer's checks stand in between.
  add_compile_options(-fsanitize=${FLAME_SANITIZE} -fno-omit-frame-pointer -Wno-maybe-uninitialized)
  add_link_options(-fsanitize=${FLAME_SANITIZE})
  if(FLAME_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
  if(FLAME_SANITIZE MATCHES "thread")
    add_compile_definitions(FLAME_TSAN=1)
  endif()
endif()

# Coverage for libFuzzer in all of the library; its main() comes with each target.
if(FLAME_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "FLAME_FUZZ needs Clang, the compiler is ${CMAKE_CXX_COMPILER_ID}: use the preset 'fuzz'")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()
