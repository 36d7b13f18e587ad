"""What colcon installs: the package, its launch files and configuration, and the nodes as executables."""

from glob import glob
from os.path import isfile

from setuptools import setup

NAME = "inspection_ros"
CONFIG = ("config", "config/devices", "config/security", "config/systemd")

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", glob("launch/*.launch.py")),
        *((f"share/{NAME}/{folder}", [path for path in glob(f"{folder}/*") if isfile(path)]) for folder in CONFIG),
    ],
    description="A lifecycle node that turns camera frames into inspection reports, and a camera player",
    license="Apache-2.0",
    maintainer="edge-runtime maintainers",
    maintainer_email="edge-runtime@example.org",
    entry_points={"console_scripts": [f"{name} = {NAME}.{name}:main" for name in ("node", "player", "recorder")]},
)
