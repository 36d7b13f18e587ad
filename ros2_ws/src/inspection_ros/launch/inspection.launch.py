"""Starts the inspection node, which brings itself up, and starts it again where it dies.

ros2 launch inspection_ros inspection.launch.py bundle:=/data/bundle image:=/front/image_raw device:=orin-nx-16gb
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
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
        "params_file",
        default_value=[f"{CONFIG}/devices/", LaunchConfiguration("device"), ".yaml"],
        description="Parameters of the node, in place of the device's.",
    ),
    DeclareLaunchArgument("autostart", default_value="true", description="Configure and activate without being asked."),
    DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock."),
)


def generate_launch_description() -> LaunchDescription:
    node = LifecycleNode(
        package="inspection_ros",
        executable="node",
        name="inspection",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            str(CONFIG / "inspection.yaml"),
            LaunchConfiguration("params_file"),
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
    return LaunchDescription([*ARGUMENTS, node])
