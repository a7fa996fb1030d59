// Internal: launches that wait, because a device still compiles their kernels, and the places that need them made.
#pragma once

namespace flame {

// Whatever was launched on any device has reached it, or the reason why it cannot is thrown. A State that is written after
// this changes only if all that its new value needs can run. Costs nothing where nothing waits; does not wait for the device.
void settle_launches();
void set_settle_hook(void (*hook)());  // by a device that lets launches wait

}  // namespace flame
