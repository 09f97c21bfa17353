"""ModelRegistry: which model is served under which name."""

from __future__ import annotations

from collections.abc import Sequence

from realtime_serve.errors import InvalidRequestError, ModelNotFoundError
from realtime_serve.model import Model, ModelState
from realtime_serve.native import Lock

LONGEST_ECHO = 100
"""A name from a request is repeated in an error no longer than this."""


ENDED = frozenset({ModelState.FAILED, ModelState.UNLOADED})
"""A model in one of these states serves nobody any more."""


class ModelRegistry:
    """The served models by name. Any thread may call."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        """Registered models."""
        return len(self._models)

    def add(self, model: Model) -> None:
        """Serve a model under its name, which may be that of one that failed or is unloaded.

        Raises:
            InvalidRequestError: The name is taken.
        """
        with self._lock:
            known = self._models.get(model.name)
            if known is not None and known.state not in ENDED:
                raise InvalidRequestError(f"A model named {model.name!r} is served already.")
            self._models[model.name] = model

    def resolve(self, name: str | None) -> Model:
        """The model of that name; None is the first one registered.

        Raises:
            ModelNotFoundError: There is none.
        """
        with self._lock:
            if name is None:
                model = next(iter(self._models.values()), None)
            else:
                model = self._models.get(name)
            known = ", ".join(self._models) or "none"
        if model is None:
            shown = "" if name is None else f" {name[:LONGEST_ECHO]!r}"
            raise ModelNotFoundError(
                f"The model{shown} does not exist. Served: {known}.", param="model"
            )
        return model

    def all(self) -> Sequence[Model]:
        """All models, in the order of their registration."""
        with self._lock:
            return list(self._models.values())
