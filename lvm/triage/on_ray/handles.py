"""What is read of Ray, which has no types of its own: its module, its handles and its tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypedDict, TypeVar

if TYPE_CHECKING:  # it is made of references
    from lvm.triage.on_ray.shared import Task

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")


class Ref(Protocol[T_co]):
    """A reference of an object: in the store of a cluster, or what a task will return."""

    def hex(self) -> str:
        """Return the id of the object."""


class Node(TypedDict):
    """A row of the table of nodes."""

    NodeID: str
    NodeManagerAddress: str
    Alive: bool
    Resources: dict[str, float]


class Context(Protocol):
    """Where this process runs."""

    gcs_address: str

    def get_node_id(self) -> str:
        """Return the id of its node."""


class Ray(Protocol):
    """The module `ray`."""

    def init(self, **options: object) -> object:
        """Join a cluster."""

    def is_initialized(self) -> bool:
        """Whether this process is in a cluster."""

    def shutdown(self) -> None:
        """Leave the cluster."""

    def put(self, value: T) -> Ref[T]:
        """Put an object into the store."""

    def get(self, reference: Ref[T], *, timeout: float | None = None) -> T:
        """Return an object once it is there."""

    def nodes(self) -> list[Node]:
        """Return the table of nodes."""

    def cluster_resources(self) -> dict[str, float]:
        """Return what all living nodes have."""

    def get_runtime_context(self) -> Context:
        """Return where this process runs."""


# --- an actor of ours -----------------------------------------------------------------------------


class Remote(Protocol[P, T_co]):
    """A method of an actor."""

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> Ref[T_co]:
        """Call it there."""


class Mailbox(Protocol):
    """The actor between a trial and its workers (`lvm.triage.on_ray.workers`)."""

    put: Remote[[str], None]
    get: Remote[[float], str | None]
    allow: Remote[[int], None]
    wait_for: Remote[[int], None]


# --- Tune -----------------------------------------------------------------------------------------


class Experiment(Protocol):
    """An experiment of Tune."""

    def fit(self) -> object:
        """Run it to its end."""


class TrialState(Protocol):
    """What Tune keeps of a trial while it lives."""

    ray_actor: object  # None: it has no process


class Trial(Protocol):
    """A trial of Tune."""

    trial_id: str
    config: dict[str, Task]
    temporary_state: TrialState
    pickled_error_file: str


class Controller(Protocol):
    """What runs the trials."""

    _reuse_actors: bool

    def get_live_trials(self) -> Iterable[Trial]:
        """Return the trials that have not ended."""

    def _schedule_trial_train(self, trial: Trial) -> None: ...

    def pause_trial(self, trial: Trial, *, should_checkpoint: bool) -> None:
        """Take its process from a trial, which goes on later."""

    def stop_trial(self, trial: Trial) -> None:
        """End a trial."""
