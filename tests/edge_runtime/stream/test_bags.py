"""Bags of ROS 1 and ROS 2 are cameras: their frames in order, with their times, without a ROS installation."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from edge_runtime.cli import main
from edge_runtime.errors import FrameError, SourceError
from edge_runtime.stream.sources import open_source
from edge_runtime.vision.image_decoding import STANDARD
from tests.edge_runtime.vision.test_image_decoding import harmed

LEVELS = (10, 20, 30)
STORE1, STORE2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)


def picture(level):
    return np.full((24, 32, 3), level, np.uint8)


def header(types, number):
    stamp = types["builtin_interfaces/msg/Time"](sec=100 + number, nanosec=0)
    extra = {"seq": number} if types is STORE1.types else {}
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera", **extra)


def raw(types, number, level, **broken):
    fields = {"height": 24, "width": 32, "encoding": "bgr8", "is_bigendian": 0, "step": 96, **broken}
    return types["sensor_msgs/msg/Image"](header=header(types, number), data=picture(level).reshape(-1), **fields)


def compressed(types, number, level):
    jpeg = cv2.imencode(".jpg", picture(level))[1].reshape(-1)
    return types["sensor_msgs/msg/CompressedImage"](header=header(types, number), format="jpeg", data=jpeg)


def record1(path, messages, topic="/image"):
    with Writer1(path) as writer:
        connection = writer.add_connection(topic, messages[0].__msgtype__, typestore=STORE1)
        for number, message in enumerate(messages):
            data = STORE1.serialize_ros1(message, message.__msgtype__)
            writer.write(connection, number * 500_000_000, data)
    return str(path)


def record2(path, by_topic, storage=StoragePlugin.MCAP):
    with Writer2(path, version=9, storage_plugin=storage) as writer:
        for topic, messages in by_topic.items():
            connection = writer.add_connection(topic, messages[0].__msgtype__, typestore=STORE2)
            for number, message in enumerate(messages):
                data = STORE2.serialize_cdr(message, message.__msgtype__)
                writer.write(connection, number * 500_000_000, data)
    return str(path)


def frames(source):
    with open_source(source) as opened:
        return [(round(float(frame.image.mean())), frame.stamp_s) for frame in opened]


EXPECTED = [(level, number * 1.0) for number, level in enumerate(LEVELS)]


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("make", [raw, compressed])
def test_a_ros2_bag_is_read_in_order_as_a_folder_and_as_a_file(tmp_path, storage, make):
    messages = [make(STORE2.types, number, level) for number, level in enumerate(LEVELS)]
    folder = record2(tmp_path / "flight", {"/image": messages}, storage)
    assert frames(folder) == EXPECTED
    (file,) = (path for path in Path(folder).iterdir() if path.name != "metadata.yaml")
    assert frames(str(file)) == EXPECTED


@pytest.mark.parametrize("make", [raw, compressed])
def test_a_ros1_bag_is_read_in_order(tmp_path, make):
    messages = [make(STORE1.types, number, level) for number, level in enumerate(LEVELS)]
    assert frames(record1(tmp_path / "flight.bag", messages)) == EXPECTED


def test_a_message_without_a_stamp_is_a_frame_without_a_time(tmp_path):
    messages = [raw(STORE2.types, number, level) for number, level in enumerate(LEVELS)]
    stamp = replace(messages[1].header.stamp, sec=0)
    messages[1] = replace(messages[1], header=replace(messages[1].header, stamp=stamp))
    assert frames(record2(tmp_path / "flight", {"/image": messages})) == [(10, 0.0), (20, None), (30, 2.0)]


def test_a_recording_that_was_cut_short_is_refused_with_how_to_recover_it(tmp_path):
    whole = next(Path(record2(tmp_path / "flight", {"/image": [raw(STORE2.types, 0, 10)]})).glob("*.mcap"))
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole.read_bytes()[:-60])
    with pytest.raises(SourceError, match=r"its end is missing, .*: mcap recover .*cut\.mcap -o recovered\.mcap"):
        open_source(str(cut))


def test_a_folder_of_images_beside_somebody_elses_metadata_is_no_bag(tmp_path):
    (tmp_path / "metadata.yaml").write_text("title: bridge 7\n")
    cv2.imwrite(str(tmp_path / "1.png"), picture(30))
    assert frames(str(tmp_path)) == [(30, None)]


def test_of_several_topics_one_must_be_named(tmp_path):
    left, right = (raw(STORE2.types, 0, level) for level in (40, 50))
    bag = record2(tmp_path / "flight", {"/left": [left], "/right": [right]})
    with pytest.raises(SourceError, match=r"2 topics of images; name one of them: .*#/left \(/left, /right\)"):
        open_source(bag)
    assert frames(f"{bag}#/right") == [(50, 0.0)]
    with pytest.raises(SourceError, match="no images on /rear"):
        open_source(f"{bag}#/rear")


def test_a_message_that_is_no_picture_is_a_frame_without_one(tmp_path):
    messages = [raw(STORE2.types, 0, 10), raw(STORE2.types, 1, 20, encoding="nonsense"), raw(STORE2.types, 2, 30)]
    with open_source(record2(tmp_path / "flight", {"/image": messages})) as source:
        found = list(source)
    assert [frame.name for frame in found] == ["/image#0", "/image#1", "/image#2"]
    assert [isinstance(frame.content, FrameError) for frame in found] == [False, True, False]


def test_a_bag_is_streamed_as_a_camera_is(tmp_path, tiny_bundle, capsys):
    bag = record2(tmp_path / "flight", {"/image": [raw(STORE2.types, number, 10 * number) for number in range(2)]})
    assert main(["stream", str(tiny_bundle), bag, "--skip-below", "0", "--json"]) == 0
    assert [json.loads(line)["source"] for line in capsys.readouterr().out.splitlines()] == ["/image#0", "/image#1"]


def test_a_bag_without_images_and_a_damaged_one_are_refused(tmp_path):
    text = STORE2.types["std_msgs/msg/String"](data="hello")
    with pytest.raises(SourceError, match="0 topics of images"):
        open_source(record2(tmp_path / "flight", {"/chatter": [text]}))
    for suffix in (".mcap", ".bag", ".db3"):
        damaged = tmp_path / f"damaged{suffix}"
        damaged.write_bytes(b"not a bag at all" * 100)
        with pytest.raises(SourceError, match="cannot be read"):
            open_source(str(damaged))


@pytest.mark.parametrize("ros", [1, 2])
def test_a_chunk_that_would_fill_the_memory_is_refused_before_it_is_decompressed(tmp_path, ros):
    store, sides = (STORE1, STORE2)[ros - 1], {"height": 5000, "width": 5000, "step": 15000}
    zeros = np.zeros(5000 * 15000, np.uint8)
    large = replace(raw(store.types, 0, 0, **sides), data=zeros)
    bag = tmp_path / ("flight.bag" if ros == 1 else "flight")
    if ros == 1:
        recorder = Writer1(bag)
        recorder.set_compression(Writer1.CompressionFormat.LZ4)
        with recorder as writer:
            connection = writer.add_connection("/image", large.__msgtype__, typestore=store)
            writer.write(connection, 0, store.serialize_ros1(large, large.__msgtype__))
    else:
        write_compressed_mcap(bag.with_suffix(".mcap"), bytes(store.serialize_cdr(large, large.__msgtype__)))
        bag = bag.with_suffix(".mcap")
    assert bag.stat().st_size < 2_000_000
    with open_source(str(bag)) as source:
        assert next(iter(source)).image.shape == (5000, 5000, 3)
    with open_source(str(bag)) as source:
        source.rules = STANDARD.within(50_000_000)
        with pytest.raises(SourceError, match="a chunk of 75 MB, and 67 MB fit"):
            next(iter(source))


def write_compressed_mcap(path, *messages):
    """Messages of `sensor_msgs/msg/Image` in one chunk, as `ros2 bag record --storage-preset-profile zstd_small`."""
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=1 << 30, compression=CompressionType.ZSTD)
        writer.start("ros2", "")
        definition = STORE2.generate_msgdef("sensor_msgs/msg/Image", ros_version=2)[0]
        schema = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", definition.encode())
        channel = writer.register_channel("/image", "cdr", schema)
        for number, message in enumerate(messages):
            writer.add_message(channel, number, message, number)
        writer.finish()


def picture_of(number):
    """A picture of its own for each message, so that a mixed-up one would be seen."""
    return np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)


def as_png(types, number):
    png = cv2.imencode(".png", picture_of(number))[1].reshape(-1)
    return types["sensor_msgs/msg/CompressedImage"](header=header(types, number), format="png", data=png)


@pytest.fixture(scope="module")
def whole_bags(tmp_path_factory):
    """Four PNG messages in each kind of file; PNG has checksums, so that whatever is read can be judged."""
    folder = tmp_path_factory.mktemp("bags")
    record1(folder / "flight.bag", [as_png(STORE1.types, number) for number in range(4)])
    found = {".bag": (folder / "flight.bag").read_bytes()}
    for storage in StoragePlugin:
        recorded = record2(folder / storage.name, {"/image": [as_png(STORE2.types, n) for n in range(4)]}, storage)
        (file,) = (path for path in Path(recorded).iterdir() if path.name != "metadata.yaml")
        found[file.suffix] = file.read_bytes()
    return found


share = st.floats(0, 1, exclude_max=True)
HARM = st.tuples(st.sampled_from(["cut", "zero", "swap", "flip"]), share, share)
KINDS = st.sampled_from([".bag", ".mcap", ".db3"])


def check_harmed_bag(path, data, harm):
    path.write_bytes(harmed(data, *harm))
    try:
        with open_source(str(path)) as source:
            found = list(source)
    except SourceError:
        return
    originals = [picture_of(number) for number in range(4)]
    for frame in found:
        if not isinstance(frame.content, FrameError):
            assert any(np.array_equal(frame.content, original) for original in originals)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(KINDS, HARM)
def test_a_harmed_bag_is_refused_or_gives_the_pictures_that_were_in_it(whole_bags, tmp_path, kind, harm):
    check_harmed_bag(tmp_path / f"harmed{kind}", whole_bags[kind], harm)


@pytest.mark.slow
@settings(max_examples=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(KINDS, HARM)
def test_of_2000_harmed_bags_none_gives_a_wrong_picture_in_silence(whole_bags, tmp_path, kind, harm):
    check_harmed_bag(tmp_path / f"harmed{kind}", whole_bags[kind], harm)
