"""Code integer arrays with nncodec, the library of ISO/IEC 15938-17; needs that package, numpy and torch only.

python _nncodec_worker.py ARRAYS.npz prints {"bytes": ...} after the arrays came back equal.
"""

import json
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

for _name in ("torchvision", "torchvision.models", "torchvision.transforms", "torchvision.datasets"):
    sys.modules.setdefault(_name, MagicMock())  # for its examples of training, not for coding
from nncodec import nnc  # noqa: E402


def main(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name].astype(np.int32) for name in file.files}
    with tempfile.TemporaryDirectory() as folder:
        stream = Path(folder) / "weights.nnc"
        options = {"use_dq": False, "param_opt": True, "row_skipping": True, "verbose": False}
        nnc.compress(dict(arrays), bitstream_path=str(stream), **options)
        back = nnc.decompress(str(stream), verbose=False)
        size = stream.stat().st_size
    for name, array in arrays.items():
        if not np.array_equal(np.asarray(back[name]).reshape(array.shape), array):
            raise SystemExit(f"{name} did not come back as it was")
    print(json.dumps({"bytes": size}))


if __name__ == "__main__":
    main(sys.argv[1])
