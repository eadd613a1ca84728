"""What the chart's pods would start, started here from what they would find, and ended as a kubelet does.

tests/security does the same on a broker that asks who comes; images are rehearsed in test_images.py.
"""

import uuid
from pathlib import Path

import pytest

from deploy.brokers import Broker
from tests.support.pods import quick_release, rehearse


@pytest.mark.any_broker
def test_the_pods_of_a_release_answer_and_end_in_time(broker: Broker, tmp_path: Path) -> None:
    rehearse(quick_release("minimal", broker, f"t{uuid.uuid4().hex[:12]}."), tmp_path)
