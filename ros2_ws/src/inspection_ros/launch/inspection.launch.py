"""Starts the inspection node, which brings itself up, and starts it again where it dies.

ros2 launch inspection_ros inspection.launch.py bundle:=/data/bundle image:=/front/image_raw device:=orin-nx-16gb
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(__file__).parents[1] / "config"  # the same place in the source and installed
PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"  # read by the Fast DDS of Humble and of Jazzy; other middleware ignores it
ARGUMENTS = (
    DeclareLaunchArgument("bundle", description="Folder of the engine bundle."),
    DeclareLaunchArgument("namespace", default_value="", description="Prefix of every topic and of the node."),
    DeclareLaunchArgument("image", default_value="image", description="The camera's topic."),
    DeclareLaunchArgument("device", default_value="desktop", description="Parameters in config/devices/DEVICE.yaml."),
    DeclareLaunchArgument(
        "params_file", default_value="", description="Parameters of the node, on top of the device's; a YAML file."
    ),
    DeclareLaunchArgument("autostart", default_value="true", description="Configure and activate without being asked."),
    DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock."),
)


def check_device(context: LaunchContext) -> None:
    """Refuse to launch a node without the parameters that were asked for: without a budget it takes all memory."""
    device, params_file = (LaunchConfiguration(name).perform(context) for name in ("device", "params_file"))
    devices = sorted(path.stem for path in (CONFIG / "devices").glob("*.yaml"))
    if device not in devices:
        raise ValueError(f"there is no device {device!r}; name one of {', '.join(devices)}")
    if params_file and not Path(params_file).is_file():
        raise ValueError(f"params_file {params_file!r} is no file; correct its path")


def with_params_file(context: LaunchContext) -> list[LifecycleNode]:
    """The node, with the file of parameters where one was given."""
    params_file = LaunchConfiguration("params_file").perform(context)
    return [inspection_node([params_file] if params_file else [])]


def inspection_node(params_files: list[str]) -> LifecycleNode:
    """The node; of a parameter in several files, the last one holds."""
    return LifecycleNode(
        package="inspection_ros",
        executable="node",
        name="inspection",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            str(CONFIG / "inspection.yaml"),
            [f"{CONFIG}/devices/", LaunchConfiguration("device"), ".yaml"],
            *params_files,
            {
                "bundle": ParameterValue(LaunchConfiguration("bundle"), value_type=str),
                "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
            },
        ],
        remappings=[
            ("image", LaunchConfiguration("image")),
            ("image/compressed", [LaunchConfiguration("image"), "/compressed"]),
        ],
        ros_arguments=["--enclave", "/inspection"],  # means something where security is on; see docs/ros.md
        additional_env={PROFILES: EnvironmentVariable(PROFILES, default_value=str(CONFIG / "fastdds.xml"))},
        output="screen",
        respawn=True,
        respawn_delay=1.0,
    )


def generate_launch_description() -> LaunchDescription:
    checked = OpaqueFunction(function=check_device)
    return LaunchDescription([*ARGUMENTS, checked, OpaqueFunction(function=with_params_file)])
