// What CUPTI, NVIDIA's tracing library, saw this process ask of the driver: the answer of flame_cupti_read.
#pragma once
#include <cstdint>

struct flame_cupti_counts {
  // Calls of the driver's functions, by the program and by NVIDIA's libraries.
  uint64_t allocations, modules, synchronisations, launches, graphs;
  // What the device then did. Waits are for a stream, an event or the context.
  uint64_t host_to_device, device_to_host, other_copies, fills, kernels, waits;
};
