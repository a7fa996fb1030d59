"""Prints "name dtype shape" of every array of an npz archive; writes them to a second one, turned to big-endian and
Fortran order, and each to NAME.npy in a folder, in versions 1, 2 and 3 by turns."""
import pathlib
import sys

import numpy as np

archive, back, folder = sys.argv[1:]
arrays = dict(np.load(archive))
turned = {}
for i, (name, a) in enumerate(arrays.items()):
    print(name, a.dtype, a.shape)
    a = a.byteswap().view(a.dtype.newbyteorder(">"))  # astype would change the bits of NaN
    turned[name] = np.asfortranarray(a) if a.ndim else a
    with open(pathlib.Path(folder) / f"{i}.npy", "wb") as f:
        np.lib.format.write_array(f, turned[name], version=(1 + i % 3, 0))
(np.savez_compressed if back.endswith("c") else np.savez)(open(back, "wb"), **turned)
