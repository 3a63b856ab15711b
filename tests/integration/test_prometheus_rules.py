"""The rules and alerts in deploy/prometheus, judged by Prometheus' own tool."""

import subprocess

from tests.prometheus import DEPLOY, program

RULES = DEPLOY / "prometheus"


def promtool(*arguments: str) -> str:
    ended = subprocess.run(
        [program("promtool"), *arguments], check=False, cwd=RULES, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_configuration_and_its_rules_are_valid() -> None:
    assert "20 rules found" in promtool("check", "config", "prometheus.yml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", "alerts_test.yml")
