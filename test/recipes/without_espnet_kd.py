"""``python3 without_espnet_kd.py -m MODULE ...``: stock ESPnet, in a process that cannot import espnet_kd."""

import runpy
import sys

if __name__ == "__main__":
    sys.modules["espnet_kd"] = None  # type: ignore[assignment]  # makes every import of it fail
    assert sys.argv[1] == "-m", sys.argv
    del sys.argv[:2]
    sys.path[0] = ""  # as of `python3 -m`
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
