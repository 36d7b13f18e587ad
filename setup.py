"""Package metadata; tool settings live in pyproject.toml."""

import hashlib
import platform
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

TORCH = ["torch==2.13.0", "transformers>=5,<6", "safetensors>=0.5,<1"]  # the pair that the golden arrays come from

AMX = Path("edge_runtime/backends/native")
AMX_SOURCES = sorted([*AMX.glob("*.cpp"), *AMX.glob("*.hpp")])
AVX512 = ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512bf16", "fma", "f16c"]
FEATURES = [*AVX512, "amx-tile", "amx-int8", "amx-bf16"]
AMX_OPERATORS = Extension(
    "edge_runtime.backends.native.operators",
    [str(path) for path in AMX_SOURCES if path.suffix == ".cpp"],
    depends=[str(path) for path in AMX_SOURCES],
    language="c++",
    define_macros=[("SOURCES", f'"{hashlib.sha256(b"".join(path.read_bytes() for path in AMX_SOURCES)).hexdigest()}"')],
    extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", *(f"-m{name}" for name in FEATURES)],
    optional=True,  # what it is for needs it, and says so; the rest does not
)


class BuildOperators(build_ext):
    """As setuptools', but for a library that knows no Python, and does not stay where its sources don't compile."""

    def run(self):
        """Remove what was compiled in place before, and compile."""
        if self.inplace or self.editable_mode:
            for stale in AMX.glob("*.so"):
                stale.unlink()
        self.force = True  # a switch of branches leaves sources that are older than what was compiled of others
        super().run()

    def get_ext_filename(self, fullname):
        """The same for every Python that uses this checkout."""
        return fullname.replace(".", "/") + ".so"


setup(
    name="edge-runtime",
    version="0.1.0",
    description="Vision-language inspection on a Jetson: quantized engines, a byte budget, and ROS 2 reports",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["edge_runtime", "edge_runtime.*", "engines", "engines.*"]),
    cmdclass={"build_ext": BuildOperators},
    ext_modules=[AMX_OPERATORS] if sys.platform == "linux" and platform.machine() == "x86_64" else [],
    package_data={
        "edge_runtime": ["py.typed", "flight/page/page.html", "reports/schemas/*.yaml"],
        "engines": [
            "py.typed",
            "recipes/*.yaml",
            "planning/device_profiles/*.yaml",
            "reference/checkpoint/*",
            "reference/classifier.onnx",
        ],
    },
    install_requires=[
        "numpy>=1.24,<3",
        "opencv-python-headless>=4.8,<6",  # headless: a robot has no display, nor the libraries that draw on one
        "simplejpeg>=1.8,<2",  # OpenCV keeps to itself what libjpeg warns of; wheels for x86-64 and aarch64
        "av>=14,<19",  # OpenCV does not tell which frames of a video FFmpeg could not decode; wheels for both
        "onnxruntime>=1.22,<2",
        "llguidance>=1.8,<2",  # 1.6 takes one end token alone, 1.7 fails in the midst of some schemas' answers
        "tokenizers>=0.20,<1",
        "psutil>=5.9,<8",
        "PyYAML>=6,<7",
    ],
    extras_require={
        "build": [
            "onnx>=1.17,<2",
            "ml_dtypes>=0.4,<1",
            "scipy>=1.10,<2",
            "tqdm>=4.66,<5",
            "jinja2>=3.1,<4",  # chat templates
        ],
        "tensorrt-rtx": ["tensorrt-rtx-cu13-libs==1.7.1.116", "tensorrt-rtx-cu13-bindings==1.7.1.116"],  # x86-64 only
        "jetson": ["pycuda>=2024.1"],
        "ray": ["ray>=2.40,<3"],  # sensitivity on several machines; wheels for x86-64 and aarch64, CPython 3.10 to 3.14
        "bags": ["mcap>=1.2,<2", "rosbags>=0.10.5,<0.12"],
        "ros": ["ros-rclpy[fastrtps]==7.1.6", "ros-sensor-msgs==5.3.6", "ros-diagnostic-msgs==5.3.6"],
        "parity": [*TORCH, "pillow>=10"],
        "peers": [
            *TORCH,
            "gguf>=0.17,<0.20",
            "llama-cpp-python>=0.3.16,<0.4",  # compiled for a quarter of an hour
            "onnxruntime-genai>=0.10,<0.19",
        ],
        "train": [*TORCH, "matplotlib>=3.8,<4"],
        "dev": [
            "pytest>=8,<10",
            "pytest-timeout>=2.3",
            "hypothesis>=6.100,<7",
            "cyclonedds>=11,<12; platform_machine == 'x86_64' and sys_platform == 'linux' and python_version < '3.14'",
            "mcap>=1.2,<2",
            "rosbags>=0.10.5,<0.12",
            "ray>=2.40,<3; python_version < '3.15'",
            "aio-rtsp-toolkit[server]>=0.1.4,<0.2",  # an RTSP camera
            "pillow>=10",  # what the image processors of Hugging Face resize with: preprocessing is held against it
            "ruff>=0.9,<1",
            "mypy>=1.14,<3",
            "types-PyYAML",
            "types-psutil",
            "types-tqdm",
        ],
    },
    entry_points={
        "console_scripts": [
            "edge-runtime = edge_runtime.cli:main",
            "edge-engines = engines.cli:main",
        ],
    },
)
