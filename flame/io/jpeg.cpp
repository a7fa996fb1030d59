// Decoding by TurboJPEG, which keeps libjpeg's longjmp to itself. Warnings, such as of a cut file, count as errors:
// what they leave would be grey.
#include <turbojpeg.h>

#include <memory>
#include <type_traits>

#include "flame/core/format.h"
#include "flame/io/image_internal.h"

namespace flame::io {
namespace {

struct Destroy {
  void operator()(void* handle) const { tjDestroy(handle); }
};

// A block of 8 x 8 samples takes at least a bit, and the sampling of components spreads one over at most 16 times that.
constexpr uint64_t max_pixels_a_byte = 8 * 64 * 16;

}  // namespace

Tensor decode_jpeg(std::string_view bytes, const std::string& where, Loc loc) {
  const std::unique_ptr<std::remove_pointer_t<tjhandle>, Destroy> handle(tjInitDecompress());
  if (!handle) fail<OutOfMemory>(loc, "{}: no memory to decode the JPEG file", where);
  const auto checked = [&](int error) {
    if (error) fail<FormatError>(loc, "{}: damaged JPEG file: {}", where, tjGetErrorStr2(handle.get()));
  };
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  int width = 0, height = 0, sampling = 0, space = 0;
  checked(tjDecompressHeader3(handle.get(), data, bytes.size(), &width, &height, &sampling, &space));
  if (space == TJCS_CMYK || space == TJCS_YCCK)
    fail<FormatError>(loc, "{}: a JPEG file in CMYK, expected grey or RGB", where);
  if (static_cast<uint64_t>(width) * static_cast<uint64_t>(height) / max_pixels_a_byte > bytes.size())
    fail<FormatError>(loc, "{}: {} x {} pixels are more than a file of {} bytes can hold", where, width, height,
                      bytes.size());
  const bool grey = space == TJCS_GRAY;
  Tensor out = empty_pixels(static_cast<uint64_t>(height), static_cast<uint64_t>(width), grey ? 1 : 3, loc);
  checked(tjDecompress2(handle.get(), data, bytes.size(), static_cast<unsigned char*>(out.data()), width, 0, height,
                        grey ? TJPF_GRAY : TJPF_RGB, TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS | TJFLAG_ACCURATEDCT));
  return out;
}

}  // namespace flame::io
