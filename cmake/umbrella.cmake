# Writes flame/flame.h: an include of every public header, gathered by globbing so that a new op edits no list.
# Internal headers of the ops and later rooms end in _internal.h or _inl.h.
function(flame_write_umbrella path)
  set(headers flame/device/device_scope.h flame/tensor/tensor.h flame/fuse/fusion.h flame/autograd/autograd.h flame/autograd/autocast.h
              flame/autograd/checkpoint.h flame/autograd/saved.h)
  foreach(room ops nn optim data io train)
    file(GLOB found RELATIVE "${PROJECT_SOURCE_DIR}" CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/flame/${room}/*.h")
    list(FILTER found EXCLUDE REGEX "[/_](internal|inl)\\.h$")
    list(SORT found)
    list(APPEND headers ${found})
  endforeach()
  list(TRANSFORM headers REPLACE "(.+)" "#include \"\\1\"")
  list(JOIN headers "\n" includes)
  file(CONFIGURE OUTPUT "${path}" @ONLY CONTENT
"// The whole public interface of FLAME, gathered by the build from the headers of each room.
#pragma once
@includes@
")
endfunction()
