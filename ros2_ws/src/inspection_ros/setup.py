"""What colcon installs: the package, its launch files and configuration, and the nodes as executables."""

from glob import glob
from os.path import isfile

from setuptools import find_packages, setup

NAME = "inspection_ros"
EXECUTABLES = ("node", "replay.player", "recording.recorder")
CONFIG = ("config", "config/devices", "config/security", "config/systemd")

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", glob("launch/*.launch.py")),
        *((f"share/{NAME}/{folder}", [path for path in glob(f"{folder}/*") if isfile(path)]) for folder in CONFIG),
    ],
    description="A lifecycle node that turns camera frames into inspection reports, and a camera player",
    license="Apache-2.0",
    tests_require=["pytest"],  # tells colcon which tests there are
    maintainer="edge-runtime maintainers",
    maintainer_email="edge-runtime@example.org",
    entry_points={"console_scripts": [f"{module.split('.')[-1]} = {NAME}.{module}:main" for module in EXECUTABLES]},
)
