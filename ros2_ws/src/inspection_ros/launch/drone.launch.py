"""Starts a whole drone: its camera, the inspection node and the flight recorder, each again where it dies.

ros2 launch inspection_ros drone.launch.py bundle:=/data/bundle namespace:=drone1 device:=orin-nx-16gb \\
    camera_package:=v4l2_camera camera_executable:=v4l2_camera_node camera_params:=/data/camera.yaml image:=image_raw

The camera has no default: a drone that was not told its camera must not report what another one sees.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage

INSPECTION = Path(__file__).with_name("inspection.launch.py")
CONFIG = Path(__file__).parents[1] / "config"
PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"  # read by the Fast DDS of Humble and of Jazzy; other middleware ignores it


def check_camera(context: LaunchContext) -> None:
    """Refuse to launch anything where the camera cannot be: launch would leave the other nodes running."""
    package, executable = (LaunchConfiguration(f"camera_{name}") for name in ("package", "executable"))
    ExecutableInPackage(package=package, executable=executable).perform(context)
    camera_params = LaunchConfiguration("camera_params").perform(context)
    if not Path(camera_params).is_file():
        raise ValueError(f"camera_params {camera_params!r} is no file; correct its path")


def generate_launch_description() -> LaunchDescription:
    namespace = LaunchConfiguration("namespace")
    camera = Node(
        package=LaunchConfiguration("camera_package"),
        executable=LaunchConfiguration("camera_executable"),
        name="camera",
        namespace=namespace,
        parameters=[LaunchConfiguration("camera_params")],
        ros_arguments=["--enclave", "/camera"],
        additional_env={PROFILES: EnvironmentVariable(PROFILES, default_value=str(CONFIG / "fastdds.xml"))},
        output="screen",
        respawn=True,
        respawn_delay=1.0,
    )
    recorder = Node(
        package="inspection_ros",
        executable="recorder",
        name="flight_recorder",
        namespace=namespace,
        parameters=[{"folder": ParameterValue(LaunchConfiguration("recordings"), value_type=str)}],
        ros_arguments=["--enclave", "/flight_recorder"],
        output="screen",
        respawn=True,
        respawn_delay=5.0,  # a full disk is not freed sooner
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("camera_package", description="Package of the camera's node."),
            DeclareLaunchArgument("camera_executable", description="The camera's node."),
            DeclareLaunchArgument("camera_params", description="YAML file of the camera's parameters."),
            DeclareLaunchArgument("recordings", default_value="flights", description="Folder for recordings."),
            DeclareLaunchArgument("bundle", description="Folder of the engine bundle."),
            OpaqueFunction(function=check_camera),
            IncludeLaunchDescription(  # declares the other arguments
                PythonLaunchDescriptionSource(str(INSPECTION)),
                launch_arguments=[("bundle", LaunchConfiguration("bundle"))],
            ),
            camera,
            recorder,
        ]
    )
