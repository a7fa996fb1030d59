# `cmake --install`: the library, oneDNN beside it, the public headers with whatever they include, and the two ways to
# find them (find_package and pkg-config).
include(CMakePackageConfigHelpers)

install(TARGETS flame EXPORT flame LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
if(FLAME_WITH_CUDA)
  install(TARGETS flame_cuda LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
if(FLAME_WITH_ONEDNN)
  install(PROGRAMS "${FLAME_ONEDNN_LIBRARY}" DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()

install(CODE "
  set(FLAME_SOURCE \"${PROJECT_SOURCE_DIR}\")
  set(FLAME_UMBRELLA \"${CMAKE_BINARY_DIR}/generated/flame/flame.h\")
  set(FLAME_INCLUDE_DESTINATION \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_INCLUDEDIR}\")
  include(\"${PROJECT_SOURCE_DIR}/cmake/install_headers.cmake\")")

set(config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/flame")
install(EXPORT flame NAMESPACE flame:: FILE flame-config.cmake DESTINATION "${config_dir}")
write_basic_package_version_file("${CMAKE_BINARY_DIR}/flame-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/flame-config-version.cmake" DESTINATION "${config_dir}")

configure_file("${PROJECT_SOURCE_DIR}/cmake/flame.pc.in" "${CMAKE_BINARY_DIR}/flame.pc" @ONLY)
install(FILES "${CMAKE_BINARY_DIR}/flame.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/doc/flame")
