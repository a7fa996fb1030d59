// What the emulator and a device text that it compiled tell each other. Both include it, the text without any header of the
// standard library, so this one includes nothing.
#pragma once

namespace flame_emulated {

struct Index {
  unsigned x, y, z;
};

// Where threads meet, what each brings becomes what each takes away. One record a thread; null: it has ended, or never was, or is not called.
using Meeting = void (*)(void* const* records, int count);

// The one variable of a module that both sides use: the emulator sets it before a thread runs on.
struct Context {
  Index thread, block, block_size, grid;
  void (*meet_warp)(unsigned lanes, void* record, Meeting meeting);
  void (*meet_block)(void* record, Meeting meeting);
  unsigned char *shared, *shared_end;  // all shared memory of a block
  unsigned char* dynamic;              // of it, what launches size
};

// A kernel of a module; `arguments` lie as KernelArguments packs them.
struct Entry {
  void (*call)(const unsigned char* arguments);
  unsigned long argument_bytes;
  unsigned most_threads;  // of a block; 0: not said
};

constexpr unsigned most_dynamic =
    224u << 10;  // bytes of shared memory, as an H100 gives a block beside 3 KB of named ones

}  // namespace flame_emulated
