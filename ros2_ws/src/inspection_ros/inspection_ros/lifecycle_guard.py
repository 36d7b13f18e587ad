"""What rclpy's lifecycle leaves undone: an answer to a transition that cannot be made; knows nothing of inspections."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode


def answer_impossible_transitions(node: LifecycleNode) -> None:
    """Have the node say no to a transition that its state does not allow.

    rclpy raises instead and sends no answer, so that whoever asked, of two at once say, would wait for ever.
    """
    service = node._service_change_state
    change_state = service.callback

    def answer(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except Exception as error:
            node.get_logger().error(f"no such transition now: {error}")
            response.success = False
            return response

    service.callback = answer
