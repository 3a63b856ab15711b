"""MLflow's credentials in the server's environment are for one server, whatever URL a webhook names."""

import pytest

from control.notifications.trackers.mlflow import credentials


@pytest.mark.parametrize(
    "url", ["https://mlflow.internal", "https://mlflow.internal:443/", "https://MLFLOW.internal/x"]
)
def test_the_server_of_the_environment_gets_them(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.internal/")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    assert credentials(url) == {"authorization": "Bearer secret"}


@pytest.mark.parametrize("named", ["https://mlflow.internal", "https://other.example:8443", "databricks", ""])
@pytest.mark.parametrize("url", ["http://mlflow.internal", "https://mlflow.internal:5000", "https://other.example"])
def test_nobody_else_does(monkeypatch: pytest.MonkeyPatch, named: str, url: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert credentials(url) == {}
