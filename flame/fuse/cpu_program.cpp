// The CPU's plan of a program: a copy if it only moves elements, else steps for the block interpreter.
#include "flame/core/format.h"
#include "flame/device/cpu/strided_copy.h"
#include "flame/fuse/interpreter.h"

namespace flame {

namespace {

// One leaf written in another order and nothing else.
bool only_moves(const Program& p) {
  return p.nodes.size() == 1 && p.nodes[0].kind == NodeDesc::Kind::copy && p.leaves.size() == 1 &&
         p.outputs.size() == 1 && p.nodes[0].in[0].kind == Src::Kind::leaf && p.leaves[0].dtype == p.outputs[0].dtype &&
         !p.leaves[0].row && !p.outputs[0].row && !row_major(p.dims, p.leaves[0].strides, p.dims.rank());
}

}  // namespace

Ref<Plan> prepare_cpu_program(Program p) {
  if (only_moves(p))
    return make_ref<Plan>(
        fmt::format("island({} ops)", p.ops),
        [copy = StridedCopy(p.dims, p.outputs[0].strides, p.leaves[0].strides, size_of(p.leaves[0].dtype))](
            const Run& r) { copy(r.buffers[1], r.buffers[0]); });
  Compiled c = compile_program(std::move(p));
  const size_t workspace = partial_bytes(c);
  std::string name = fmt::format("island({} ops)", c.p.ops);
  return make_ref<Plan>(
      std::move(name), [c = std::move(c)](const Run& r) { run_program(c, r); }, workspace);
}

}  // namespace flame
