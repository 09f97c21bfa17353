"""The health of a server whose model failed names it and says why, and nothing that is secret."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from realtime_serve import InferenceServer, ModelConfig, ServerConfig, create_app
from realtime_serve.errors import ConfigError, ModelLoadError
from realtime_serve.health import Health
from realtime_serve.model import Model, ModelState
from serve_model import Alphabet
from support.scripted_servers import GREEDY, TEXT, alphabet_server

CONFIG = ModelConfig(name="broken")


def refuse() -> Alphabet:
    raise ModelLoadError("/srv/secret/model.gguf holds values that are not finite numbers.")


def explode() -> Alphabet:
    raise OSError("/srv/secret/path")


def register_broken(server: InferenceServer, network: Any) -> None:
    with pytest.raises(ModelLoadError):
        server.register_model(CONFIG, network=network, text=TEXT)


def get(server: InferenceServer, path: str) -> tuple[int, Any]:
    answer = create_app(server=server).test_client().get(path)
    assert "secret" not in answer.text
    return answer.status_code, answer.json


@pytest.mark.parametrize("path", ["/health/ready", "/health"])
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (refuse, "model.gguf holds values that are not finite numbers."),
        (explode, "OSError. The server's log says more."),
    ],
)
def test_a_model_that_failed_to_load_is_named_with_the_reason(
    network: Any, reason: str, path: str
) -> None:
    with InferenceServer() as server:
        register_broken(server, network)
        status, report = get(server, path)
    assert status == 503
    assert report["status"] == "not ready"
    assert report["models"] == {"broken": "failed"}
    assert report["failures"] == {"broken": f"The model could not be loaded: {reason}"}


def test_a_model_whose_files_cannot_be_opened_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "secret" / "absent.gguf"
    with InferenceServer(ServerConfig(model=str(path))) as server:
        with pytest.raises(ModelLoadError, match="secret"):
            server.register_model()
        status, report = get(server, "/health/ready")
    assert status == 503
    assert report["models"] == {"absent": "failed"}
    (reason,) = report["failures"].values()
    assert reason.startswith("absent.gguf does not exist")


def test_a_model_whose_files_cannot_be_opened_is_missed_beside_one_that_serves(
    tmp_path: Path,
) -> None:
    with alphabet_server() as server:
        with pytest.raises(ModelLoadError):
            server.register_model(ModelConfig(path=str(tmp_path / "absent.gguf")))
        status, report = get(server, "/health/ready")
    assert status == 503
    assert set(report["models"].values()) == {"ready", "failed"}


def test_a_model_that_failed_to_open_goes_by_the_name_it_would_have(
    gguf_path: str, tmp_path: Path
) -> None:
    path = tmp_path / Path(gguf_path).name
    config = ModelConfig(path=str(path), dtype="q4", cache_dir=str(tmp_path))
    with InferenceServer() as server:
        with pytest.raises(ModelLoadError):
            server.register_model(config)
        (name,) = server.health().failures
        path.symlink_to(gguf_path)
        assert server.register_model(config).name == name
        health = server.health()
    assert health.ready
    assert health.failures == {}


def test_a_mistake_of_the_caller_is_no_model_that_failed() -> None:
    with alphabet_server() as server:
        with pytest.raises(ConfigError):
            server.register_model(ModelConfig(name="x"), text=TEXT)
        assert get(server, "/health/ready")[0] == 200


def test_a_failure_is_told_no_longer_once_the_model_is_there(tmp_path: Path) -> None:
    with InferenceServer() as server:
        with pytest.raises(ModelLoadError):
            server.register_model(ModelConfig(name="broken", path=str(tmp_path / "absent")))
        assert server.health().failures
        server.register_model(CONFIG, network=lambda: Alphabet(TEXT), text=TEXT)
        ready = {"status": "ready", "models": {"broken": "ready"}, "failures": {}}
        assert get(server, "/health/ready") == (200, ready)


def test_another_model_that_failed_leaves_no_doubt_which_one_serves() -> None:
    with alphabet_server() as server:
        register_broken(server, refuse)
        status, report = get(server, "/health/ready")
    assert status == 503
    assert report["models"] == {"alphabet": "ready", "broken": "failed"}
    assert set(report["failures"]) == {"broken"}


def test_a_model_that_fails_while_its_health_is_read_is_not_both_ready_and_failed() -> None:
    health = health_of(failure="failed since")
    assert health.ready
    assert health.failures == {}


def health_of(*, dead_after_s: float | None = None, **fields: Any) -> Health:
    """The health of a model that is ready, but for what is said."""
    ready = {"name": "m", "state": ModelState.READY, "failure": None, "step_s": 0.0}
    model = SimpleNamespace(**ready | {"num_running": 0, "num_waiting": 0} | fields)
    return Health.of(
        [cast(Model, model)],
        {},
        serving=True,
        draining=False,
        open_streams=0,
        stuck_after_s=1.0,
        dead_after_s=dead_after_s,
    )


@pytest.mark.parametrize(
    ("step_s", "dead_after_s", "ready", "live"),
    [
        (0.9, 2.0, True, True),
        (1.1, 2.0, False, True),
        (2.1, 2.0, False, False),
        (2.1, None, False, True),
    ],
)
def test_a_step_that_does_not_end_costs_readiness_first_and_then_liveness(
    step_s: float, dead_after_s: float | None, ready: bool, live: bool
) -> None:
    health = health_of(step_s=step_s, dead_after_s=dead_after_s)
    assert (health.ready, health.live, health.stuck) == (ready, live, not ready)


def test_an_engine_that_has_nothing_to_do_is_at_no_step() -> None:
    with alphabet_server() as server:
        assert list(server.generate("x", sampling=GREEDY))
        assert server.registry.resolve(None).step_s == 0.0
