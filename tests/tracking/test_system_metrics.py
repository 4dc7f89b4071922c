"""The machine's readings: of a GPU only where one computes, and of that one."""

import threading

import torch

from recsys.tracking.system_metrics import SystemSampler

GPU_MEMORY = "system/gpu_memory_usage_megabytes"


def test_the_gpu_that_is_read_is_the_one_that_computes_also_from_another_thread(monkeypatch):
    main = threading.current_thread()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2 if threading.current_thread() is main else 0)
    megabyte = 2**20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: ((100 - gpu) * megabyte, 100 * megabyte))
    sampler, readings = SystemSampler(), []

    thread = threading.Thread(target=lambda: readings.append(sampler.sample()))
    thread.start()
    thread.join()

    assert readings[0][GPU_MEMORY] == 2.0


def test_a_gpu_that_is_not_used_is_not_asked():
    assert torch.cuda.is_initialized() or GPU_MEMORY not in SystemSampler().sample()
