// Decoding by TurboJPEG, which keeps libjpeg's longjmp to itself. Warnings, such as of a cut file, count as errors:
// what they leave would be grey. A picture far larger than its file is decoded twice, first at an eighth of its size, so
// that a damaged one takes little. One in several scans takes up to 6 bytes a pixel for its coefficients in any case.
#include <turbojpeg.h>

#include <memory>
#include <type_traits>

#include "flame/core/format.h"
#include "flame/io/image_internal.h"
#include "flame/io/source_internal.h"

namespace flame::io {
namespace {

struct Destroy {
  void operator()(void* handle) const { tjDestroy(handle); }
};

// Each block of 8 x 8 samples takes at least a bit of Huffman code. The component sampled most in a direction has all
// its samples there, so that the blocks of two components, 4 x 1 and 1 x 4, spread over at most 128 pixels each.
constexpr uint64_t max_pixels_a_byte = 8 * 128;
constexpr uint64_t max_pixels_in_scans = uint64_t{4} << 20, max_pixels_in_scans_a_byte = 64;
constexpr tjscalingfactor eighth{1, 8};

// True for a picture in several scans (ITU-T T.81, annex B), each over all of it.
bool in_scans(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
  unsigned components = 0;
  for (size_t at = 0; at + 4 <= s.size();) {
    const unsigned marker = byte(at + 1);
    if (byte(at) != 0xff || marker == 0xff) {
      ++at;
      continue;
    }
    if (marker == 0xda) return byte(at + 4) < components;
    const bool frame = marker >= 0xc0 && marker <= 0xcf && marker % 4 != 0;
    if (frame && marker % 4 == 2) return true;  // progressive
    if (frame || marker == 0xc0) components = byte(at + 9);
    const bool alone = marker <= 1 || (marker >= 0xd0 && marker <= 0xd9);
    at += alone ? 2 : 2 + (byte(at + 2) << 8 | byte(at + 3));
  }
  return true;
}

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
  const auto area = [](int w, int h) { return static_cast<uint64_t>(w) * static_cast<uint64_t>(h); };
  const bool grey = space == TJCS_GRAY;
  const uint64_t channels = grey ? 1 : 3;
  const uint64_t held = max_pixels_in_scans + bytes.size() * max_pixels_in_scans_a_byte;
  const int small_width = TJSCALED(width, eighth), small_height = TJSCALED(height, eighth);
  const uint64_t small = area(small_width, small_height) * channels;
  if (area(width, height) / max_pixels_a_byte > bytes.size() || small > bytes.size() + 2 * spare_memory ||
      (in_scans(bytes) && area(width, height) > held))
    fail<FormatError>(loc, "{}: {} x {} pixels are more than a file of {} bytes can hold", where, width, height,
                      bytes.size());
  const auto decode = [&](unsigned char* to, int w, int h) {
    checked(tjDecompress2(handle.get(), data, bytes.size(), to, w, 0, h, grey ? TJPF_GRAY : TJPF_RGB,
                          TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS | TJFLAG_ACCURATEDCT));
  };
  if (area(width, height) * channels > bytes.size() + spare_memory) {
    const auto unseen = std::make_unique_for_overwrite<unsigned char[]>(small);
    decode(unseen.get(), small_width, small_height);
  }
  Tensor out = empty_pixels(static_cast<uint64_t>(height), static_cast<uint64_t>(width), grey ? 1 : 3, loc);
  decode(static_cast<unsigned char*>(out.data()), width, height);
  return out;
}

}  // namespace flame::io
