"""What a result file must say besides the times: versions, threads, instruction set."""

import torch

import fastconv


def pytest_benchmark_update_machine_info(machine_info: dict) -> None:
    machine_info["torch"] = torch.__version__
    machine_info["fastconv"] = f"{fastconv.__version__} ({fastconv._C.isa()})"
    machine_info["threads"] = torch.get_num_threads()
