from __future__ import annotations

import torch.distributed as dist

from monai_infoaug.engines import join_processes, leave_processes


def test_alone_there_is_nothing_to_join():  # several: tests/test_processes.py
    join_processes()
    assert not dist.is_initialized()
    leave_processes()
