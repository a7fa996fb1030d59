// Internal: a test's way to make an allocation fail, on whichever device it is asked for.
#pragma once
#include <cstdint>

namespace flame {

// The n-th allocation from now throws OutOfMemory (1 = the next); 0 turns it off. Counts down.
void fail_allocation(int64_t n);
int64_t allocations_until_failure();
// Asked by a device once an allocation: whether it is the one.
bool allocation_fails();

// What the memory is for that this thread is allocating or giving back.
enum class MemoryKind : uint8_t;
MemoryKind allocation_kind();

}  // namespace flame
