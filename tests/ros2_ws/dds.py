"""A camera and an audience made of raw DDS, with no ROS code in them: what any other middleware sees of the node.

    python -m tests.ros2_ws.dds DOMAIN

Publishes pictures until it has read a report of one, prints that as JSON, and ends; exit code 1 after a minute in vain.
The types follow the .msg files; names are those that ROS 2 gives to topics (``rt/``) and types (``::dds_::``, ``_``).
"""

import json
import sys
import time
from dataclasses import asdict, dataclass

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import array, float64, int8, int32, sequence, uint8, uint16, uint32, uint64
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

TIMEOUT_S = 60.0
HEIGHT, WIDTH = 48, 64


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


@dataclass
class Region(IdlStruct, typename="inspection_msgs::msg::dds_::Region_"):
    x_min: float64
    y_min: float64
    x_max: float64
    y_max: float64


@dataclass
class Timings(IdlStruct, typename="inspection_msgs::msg::dds_::Timings_"):
    preprocess_ms: float64
    vision_ms: float64
    prefill_ms: float64
    decode_ms: float64
    total_ms: float64


@dataclass
class FieldValue(IdlStruct, typename="inspection_msgs::msg::dds_::FieldValue_"):
    name: str
    text: str
    number: float64
    unit: str


@dataclass
class Finding(IdlStruct, typename="inspection_msgs::msg::dds_::Finding_"):
    defect_class: str
    severity: str
    severity_level: uint8
    region: Region
    boxes: sequence[Region]
    fields: sequence[FieldValue]
    confidence: float64
    description: str
    action: str
    track_id: uint32


@dataclass
class Vector(IdlStruct, typename="geometry_msgs::msg::dds_::Point_"):
    x: float64
    y: float64
    z: float64


@dataclass
class Quaternion(IdlStruct, typename="geometry_msgs::msg::dds_::Quaternion_"):
    x: float64
    y: float64
    z: float64
    w: float64


@dataclass
class Pose(IdlStruct, typename="geometry_msgs::msg::dds_::Pose_"):
    position: Vector
    orientation: Quaternion


@dataclass
class PoseStamped(IdlStruct, typename="geometry_msgs::msg::dds_::PoseStamped_"):
    header: Header
    pose: Pose


@dataclass
class NavSatStatus(IdlStruct, typename="sensor_msgs::msg::dds_::NavSatStatus_"):
    status: int8
    service: uint16


@dataclass
class NavSatFix(IdlStruct, typename="sensor_msgs::msg::dds_::NavSatFix_"):
    header: Header
    status: NavSatStatus
    latitude: float64
    longitude: float64
    altitude: float64
    position_covariance: array[float64, 9]
    position_covariance_type: uint8


@dataclass
class RegionOfInterest(IdlStruct, typename="sensor_msgs::msg::dds_::RegionOfInterest_"):
    x_offset: uint32
    y_offset: uint32
    height: uint32
    width: uint32
    do_rectify: bool


@dataclass
class CameraInfo(IdlStruct, typename="sensor_msgs::msg::dds_::CameraInfo_"):
    header: Header
    height: uint32
    width: uint32
    distortion_model: str
    d: sequence[float64]
    k: array[float64, 9]
    r: array[float64, 9]
    p: array[float64, 12]
    binning_x: uint32
    binning_y: uint32
    roi: RegionOfInterest


@dataclass
class InspectionReport(IdlStruct, typename="inspection_msgs::msg::dds_::InspectionReport_"):
    header: Header
    activated: Time
    camera: str
    question: str
    findings: sequence[Finding]
    truncated: bool
    tokens: uint32
    timings: Timings
    seen: sequence[Region]
    image_tokens: uint32
    grid: sequence[uint32, 2]
    frame_age_s: float64
    frame_index: uint64
    frames_received: uint64
    frames_skipped: uint64
    frames_dropped: uint64
    frames_failed: uint64
    pose: sequence[PoseStamped, 1]
    position: sequence[NavSatFix, 1]
    camera_info: sequence[CameraInfo, 1]


def main(domain: int) -> int:
    participant = DomainParticipant(domain)
    reliable = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepLast(10))
    fixes = DataWriter(participant, Topic(participant, "rt/fix", NavSatFix), qos=reliable)
    camera = DataWriter(participant, Topic(participant, "rt/image", Image), qos=reliable)
    reports = DataReader(participant, Topic(participant, "rt/inspection/reports", InspectionReport), qos=reliable)
    deadline_s = time.monotonic() + TIMEOUT_S
    second = 0
    while time.monotonic() < deadline_s:
        second += 1
        header = Header(Time(second, 5), "raw_dds")
        fixes.write(NavSatFix(header, NavSatStatus(0, 1), 47.5, 8.5, 400.0, [0.0] * 9, 0))
        camera.write(Image(header, HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, [second % 256] * (3 * HEIGHT * WIDTH)))
        time.sleep(0.1)
        for report in reports.take():
            if report.position:  # the fix had come before the frame
                print(json.dumps(asdict(report)))
                return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
