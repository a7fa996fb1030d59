// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78): checkpoints and TFRecord framing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace flame::io {

// Of `size` bytes that follow those of which `crc` is the checksum (0 for none): crc32c(b, crc32c(a)) = crc32c(a + b).
uint32_t crc32c(const void* data, size_t size, uint32_t crc = 0);
inline uint32_t crc32c(std::string_view s, uint32_t crc = 0) { return crc32c(s.data(), s.size(), crc); }

// TFRecord's form of it, safe to store beside the data that it covers.
constexpr uint32_t masked_crc(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

}  // namespace flame::io
