# Everything the library links, gathered in flame_private (never seen by users of the installed library).
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(ZLIB REQUIRED)
find_package(fmt 9 REQUIRED)
pkg_check_modules(hwy REQUIRED IMPORTED_TARGET libhwy)
pkg_check_modules(spng REQUIRED IMPORTED_TARGET spng)
pkg_check_modules(turbojpeg REQUIRED IMPORTED_TARGET libturbojpeg)

add_library(flame_private INTERFACE)
target_link_libraries(flame_private INTERFACE Threads::Threads ZLIB::ZLIB fmt::fmt PkgConfig::hwy PkgConfig::spng
                                              PkgConfig::turbojpeg)

if(FLAME_WITH_OPENMP)
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  target_link_libraries(flame_private INTERFACE OpenMP::OpenMP_CXX)
  target_compile_definitions(flame_private INTERFACE FLAME_WITH_OPENMP=1)
endif()

# The wheel's own CMake files name paths of the machine that packed it, so the target is made here.
if(FLAME_WITH_ONEDNN)
  set(FLAME_ONEDNN_LIBRARY "${FLAME_ONEDNN_ROOT}/lib/libdnnl.so.3")
  if(NOT EXISTS "${FLAME_ONEDNN_LIBRARY}")
    message(FATAL_ERROR "oneDNN is not at ${FLAME_ONEDNN_ROOT}: run tools/install-deps, or set FLAME_ONEDNN_ROOT, "
                        "or configure with -DFLAME_WITH_ONEDNN=OFF")
  endif()
  add_library(flame_onednn SHARED IMPORTED)
  set_target_properties(flame_onednn PROPERTIES
    IMPORTED_LOCATION "${FLAME_ONEDNN_LIBRARY}"
    IMPORTED_SONAME libdnnl.so.3
    INTERFACE_INCLUDE_DIRECTORIES "${FLAME_ONEDNN_ROOT}/include")
  target_link_libraries(flame_private INTERFACE flame_onednn)
  target_compile_definitions(flame_private INTERFACE FLAME_WITH_ONEDNN=1)
endif()
