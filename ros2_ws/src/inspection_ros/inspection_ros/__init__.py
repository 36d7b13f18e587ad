"""ROS 2 around the edge runtime: a lifecycle node that inspects camera frames, a camera player and a demo."""
