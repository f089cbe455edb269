"""The optional native extension; everything else about the package stands in pyproject.toml.

Where it cannot be compiled, installing goes on without it. No machine's own flags (-march=native): each vector width is an
instance of its own in the sources, chosen at run time.
"""

from glob import glob

from setuptools import Extension, setup

FOLDER = "src/affuse/ops/native"
FLAGS = [
    "-O3",
    "-std=c++17",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-g0",
]

setup(
    ext_modules=[
        Extension(
            "affuse.ops.native._native",
            sources=sorted(glob(f"{FOLDER}/*.cpp")),
            depends=sorted(glob(f"{FOLDER}/*.h")),
            extra_compile_args=[*FLAGS, "-pthread"],
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        )
    ]
)
