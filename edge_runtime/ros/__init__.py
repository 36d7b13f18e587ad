"""What ROS 2 messages hold, read and written without rclpy."""
