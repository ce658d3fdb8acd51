"""A hook of the build: compiles the library for each level of the processor that it may meet."""

import os
import platform
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# By the number that `memjax_level` of the library gives: AVX-512, AVX2 with FMA, or what every processor has.
LEVELS = {2: ("-march=x86-64-v4",), 1: ("-march=x86-64-v3",), 0: ()}


class NativeHook(BuildHookInterface):
    """Puts the compiled libraries into the wheel, which is then one of this platform, for any Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles; raises where there is no compiler."""
        del version
        self._made = tempfile.TemporaryDirectory()
        root, out = Path(self.root), Path(self._made.name)
        intel = platform.machine() in ("x86_64", "AMD64")
        levels = [level for level in LEVELS if intel or level == 0]
        with ThreadPoolExecutor() as pool:
            for path in pool.map(lambda level: compile_level(root, out, level), levels):
                build_data["force_include"][str(path)] = f"memjax_native/{path.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes what was compiled, which is in the wheel now."""
        del version, build_data, artifact_path
        self._made.cleanup()


def compile_level(root: Path, out: Path, level: int) -> Path:
    """The library for one of LEVELS, from the sources below `root`, in the folder `out`."""
    import jax

    path = out / f"nearest_{level}.so"
    compiler = os.environ.get("CXX", "c++")
    flags = ["-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-shared", "-fvisibility=hidden", *LEVELS[level]]
    source = root / "src" / "nearest.cc"
    try:
        subprocess.run(
            [compiler, *flags, "-isystem", jax.ffi.include_dir(), str(source), "-o", str(path)], check=True
        )
    except FileNotFoundError as error:
        raise RuntimeError(f"memjax-native needs a C++ compiler; there is no '{compiler}'") from error
    return path
