"""gdb printers for FLAME: in gdb, `source tools/gdb_printers.py`; then `print x` shows a tensor's dtype, shape, device
and first numbers, a Shape or Strides its sizes, and a Parameter or State the tensor it holds. The library describes its
own objects, without running anything that is pending, so the process must be alive: a core dump shows addresses alone."""
import gdb


def describe(function, address):
    call = f"((const char* (*)(unsigned long)){function})({address}ul)"
    try:
        return gdb.parse_and_eval(call).string()
    except gdb.error as e:
        return f"at {address:#x} ({e})"


class TensorPrinter:
    def __init__(self, tensor):
        self.tensor = tensor

    def to_string(self):
        value = int(self.tensor["value_"]["p_"])
        if value == 0:
            return "undefined Tensor"
        grad = ", requires grad" if int(self.tensor["edge_"]["node_"]) else ""
        return f"Tensor {describe('flame_describe_value', value)}{grad}"


class StatePrinter:
    def __init__(self, state):
        self.state = state

    def to_string(self):
        cell = int(self.state["cell_"]["p_"])
        name = self.state.type.strip_typedefs().name.rsplit("::", 1)[-1]
        return f"{name} {describe('flame_describe_state', cell)}" if cell else f"undefined {name}"


class DimsPrinter:
    def __init__(self, dims):
        self.dims = dims

    def to_string(self):
        return str([int(self.dims["v_"]["_M_elems"][i]) for i in range(int(self.dims["rank_"]))])


PRINTERS = {"flame::Tensor": TensorPrinter, "flame::Dims": DimsPrinter}
PRINTERS |= dict.fromkeys(("flame::State", "flame::Parameter", "flame::nn::Param", "flame::nn::Buffer"), StatePrinter)


def flame(value):
    printer = PRINTERS.get(value.type.strip_typedefs().unqualified().name)
    return printer(value) if printer else None


gdb.pretty_printers.append(flame)
