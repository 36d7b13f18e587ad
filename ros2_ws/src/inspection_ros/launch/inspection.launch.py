"""Starts the inspection node and brings it up: unconfigured, inactive, active.

ros2 launch inspection_ros inspection.launch.py bundle:=/data/bundle image:=/front/image_raw
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

PARAMETERS = Path(__file__).parents[1] / "config" / "inspection.yaml"  # the same place in the source and installed


def generate_launch_description() -> LaunchDescription:
    node = LifecycleNode(
        package="inspection_ros",
        executable="node",
        name="inspection",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {"bundle": ParameterValue(LaunchConfiguration("bundle"), value_type=str)},
        ],
        remappings=[
            ("image", LaunchConfiguration("image")),
            ("image/compressed", [LaunchConfiguration("image"), "/compressed"]),
        ],
        output="screen",
    )
    configure = EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=Transition.TRANSITION_CONFIGURE)
    )
    activate = EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=Transition.TRANSITION_ACTIVATE)
    )
    configured = OnStateTransition(
        target_lifecycle_node=node, start_state="configuring", goal_state="inactive", entities=[activate]
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="Folder of the engine bundle."),
            DeclareLaunchArgument("namespace", default_value="", description="Prefix of every topic and of the node."),
            DeclareLaunchArgument("image", default_value="image", description="The camera's topic."),
            DeclareLaunchArgument("params_file", default_value=str(PARAMETERS), description="Parameters of the node."),
            RegisterEventHandler(configured),
            node,
            configure,
        ]
    )
