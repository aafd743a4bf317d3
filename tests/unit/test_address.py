"""Addresses of a cluster, and why one could not be joined."""

from __future__ import annotations

import pytest

from lvm.core.config.run import ScheduleConfig
from lvm.core.errors import ClusterError, UsageError
from lvm.triage.address import check_address, check_growth, not_joined


@pytest.mark.parametrize(
    "address", [None, "auto", "local", "head:6379", "10.0.0.1:6379", "[::1]:6379"]
)
def test_an_address_of_a_cluster_is_let_through(address) -> None:
    check_address(address)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://head:10001", ["Ray Client", "ray job submit", "HOST:PORT"]),
        ("http://127.0.0.1:8265", ["job server", "ray job submit"]),
        ("https://head", ["job server"]),
        ("head", ["HOST:PORT", "(got head)"]),
        ("head:", ["HOST:PORT"]),
        (":6379", ["HOST:PORT"]),
        ("head:port", ["HOST:PORT"]),
        ("head:0", ["HOST:PORT"]),
        ("head:65536", ["HOST:PORT"]),
        ("head:²", ["HOST:PORT"]),
        ("", ["HOST:PORT"]),
    ],
)
def test_another_address_is_refused_with_what_to_use(address, words) -> None:
    with pytest.raises(UsageError) as refused:
        check_address(address)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("address", [None, "local"])
def test_waiting_for_nodes_that_nobody_starts_is_refused(address) -> None:
    growing = ScheduleConfig(autoscaling=True)
    with pytest.raises(UsageError, match="give --address, or use --preset gpu"):
        check_growth(growing, address)
    check_growth(growing, "auto")
    check_growth(growing, "head:6379")
    check_growth(ScheduleConfig(autoscaling=False), address)


# --- what ray.init raises -------------------------------------------------------------------------


def raised(text: str, cause: Exception | None = None) -> Exception:
    error = Exception(text)
    error.__cause__ = cause
    return error


def test_a_bare_exception_of_rays_own_start_says_its_cause() -> None:
    """As it comes: the end of the log of a dashboard that did not start, raised from itself."""
    log = "The last 20 lines of /tmp/ray/logs/dashboard.err (it contains the error message): \n"
    error = raised(f"\n{log}python: can't open file '/ray/dashboard/dashboard.py': [Errno 2]\n")
    error.__cause__ = error
    found = not_joined(error, None)
    assert isinstance(found, ClusterError)
    assert found.exit_status == 2
    for words in ("this machine", "dashboard.err", "can't open file", "lvm doctor"):
        assert words in str(found)
    assert "\n" not in str(found)


def test_the_deepest_cause_is_said_last() -> None:
    deep = RuntimeError("Failed to connect to GCS. Last error: Traceback\n  File x\nOSError: gone")
    words = str(not_joined(raised("Failed to connect to Ray cluster at a:1", deep), "a:1"))
    assert "(Failed to connect to Ray cluster at a:1 OSError: gone)" in words
    assert "ray status --address a:1" in words


def test_an_error_without_words_is_named_by_its_type() -> None:
    assert "(TimeoutError)" in str(not_joined(TimeoutError(), "a:1"))


def test_a_refused_token_has_a_sentence_of_its_own() -> None:
    """Ray 2.60 hides it in the text of a RuntimeError behind a ConnectionError."""

    class AuthenticationError(Exception):
        pass

    text = "Last connection error: Traceback\nray.exceptions.AuthenticationError: RPC error: x"
    for error in (AuthenticationError("bad"), raised("Failed to connect", RuntimeError(text))):
        words = str(not_joined(error, "head:6379"))
        assert words.startswith("the Ray cluster at head:6379 refused this user's token")
        assert "auth_token" in words
