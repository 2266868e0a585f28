"""Every checkpoint times every executor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import transformers

from quire.config import DType
from quire.executors.native import available_isas
from quire.models.checkpoint import load_checkpoint
from support.checkpoints import CASES, Case, make_model, save_model
from support.driver import Driver, make_driver
from support.pair import Pair


@pytest.fixture(scope="session", autouse=True)
def _quiet_libraries() -> Iterator[None]:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session", params=CASES, ids=lambda case: case.name)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A checkpoint of every family, in both worlds."""
    case: Case = request.param
    directory = tmp_path_factory.mktemp(case.name)
    model = make_model(case)
    save_model(case, model, directory)
    return Pair(case=case, model=model, checkpoint=load_checkpoint(directory, max_context=case.max_context))


@pytest.fixture(params=["reference", "native", "torch"])
def executor_name(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and not available_isas():
        pytest.skip("the native core is not compiled here")
    return str(request.param)


@pytest.fixture
def float32_driver(pair: Pair, executor_name: str) -> Driver:
    return make_driver(executor_name, pair.checkpoint, DType.FLOAT32)


@pytest.fixture
def bfloat16_driver(pair: Pair, executor_name: str) -> Driver:
    return make_driver(executor_name, pair.checkpoint, DType.BFLOAT16)
