"""Flask with an empty view: JSON in, JSON out. What an answer that is no stream cannot go below."""

from __future__ import annotations

from flask import Flask, request

app = Flask(__name__)


@app.post("/v1/chat/completions")
def chat() -> dict[str, str]:
    """Read the request and answer with next to nothing."""
    return {"model": request.get_json()["model"]}


@app.get("/health")
def health() -> dict[str, str]:
    """Say that the app is there."""
    return {"status": "ok"}
