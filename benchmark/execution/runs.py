"""The runs of a plan while it is executed: which of them this process has taken, and which are left to others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from benchmark.errors import UserError
from benchmark.execution.delivery import Delivery
from benchmark.execution.hold import Hold, claims_of, leased_elsewhere
from benchmark.execution.options import Options
from benchmark.execution.survey import Entry, State, Survey


class Runs:
    """Runs and teachers by signature; every run that is taken is held until it is over, or lost to another machine.

    Several entries may ask for a run: the first one represents it, and its state is given to all.
    """

    def __init__(
        self,
        survey: Survey,
        delivery: Delivery,
        say: Callable[[str], None],
        hold: Callable[[Options, str], Hold | None],
    ) -> None:
        self._survey, self._options, self._delivery = survey, survey.options, delivery
        self._say, self._hold = say, hold
        self.claims = claims_of(self._options)
        #: what was last said about the leases' database
        self._trouble: str | None = None
        #: by signature: the entry that represents a run which this process trains or has trained
        self.taken: dict[str, Entry] = {}
        #: by signature: all entries that ask for a run
        self.asking: defaultdict[str, list[Entry]] = defaultdict(list)

    def entries(self) -> list[Entry]:
        """Every teacher that was not stored at first, and every student."""
        return [*self._survey.teacher_entries.values(), *self._survey.entries]

    def elsewhere(self) -> list[Entry]:
        """The runs that other processes train."""
        return [entry for entry in self.entries() if entry.state == "elsewhere"]

    def ready(self) -> list[Entry]:
        """The students' entries that can be trained and are not; from now on they ask for their runs."""
        found = []
        for entry in self._survey.entries:
            if entry.state in ("new", "resume") and entry.signature not in self.taken:
                assert entry.signature is not None
                found.append(entry)
                if not any(known is entry for known in self.asking[entry.signature]):
                    self.asking[entry.signature].append(entry)
        return found

    def set_state(self, entry: Entry, state: State, reason: str = "") -> None:
        """Give a run's state to every entry that asks for it."""
        assert entry.signature is not None
        for asking in self.asking.get(entry.signature) or [entry]:
            asking.state, asking.reason, asking.figures = state, reason, entry.figures
            asking.run_id = entry.run_id
            asking.stand_at(entry.epochs_done, entry.steps_done, entry.steps_per_epoch)

    # -- taken and released ------------------------------------------------------------------------------------------

    def take(self, entries: Sequence[Entry]) -> list[Entry]:
        """Lock runs for this process, look at them again, and return those that are to be trained here.

        Whatever other processes did since the last look, a run that they train or have finished is left to them.

        Raises:
            UserError: when the tracking store or the leases fail or stay away.
        """
        locked = [entry for entry in entries if entry.signature not in self.taken and self._lock(entry)]
        if not locked:
            return []
        self._delivery.ask(partial(self._survey.look_again, locked))
        taken = []
        for entry in locked:
            assert entry.signature is not None
            self.set_state(entry, entry.state, entry.reason)
            if entry.state in ("new", "resume"):
                self.taken[entry.signature] = entry
                taken.append(entry)
            else:
                self.release(entry)
        self._survey.settle_waiting()  # another process may have stored a teacher meanwhile
        return taken

    def _lock(self, entry: Entry) -> bool:
        """Hold a run; False, and the run is elsewhere, when another process holds it."""
        assert entry.signature is not None
        entry.hold = self._delivery.ask(partial(self._hold, self._options, entry.signature))
        if entry.hold is None:
            self.set_state(entry, "elsewhere", self._owner_of(entry.signature))
            self.say_waiting(entry)
        return entry.hold is not None

    def say_waiting(self, entry: Entry) -> None:
        """Say that a run is waited for."""
        self._say(f"{entry.label}: {entry.reason or 'another process'} is training it; waiting for it")

    def release(self, entry: Entry) -> None:
        """Let other processes have a run."""
        if entry.hold is not None:
            entry.hold.release()
            entry.hold = None

    def close(self) -> None:
        """Release whatever is held."""
        for entry in self.entries():
            self.release(entry)

    def share_run_ids(self) -> None:
        """Give the id that a run got in MLflow to all entries that ask for it, once the store has answered."""
        for signature, entry in self.taken.items():
            for asking in self.asking[signature]:
                asking.run_id = entry.run_id

    # -- left and lost, by leases and locks --------------------------------------------------------------------------

    def left_by_others(self) -> list[Entry]:
        """The runs that were elsewhere and are free now; none while the leases' database is away: nobody knows."""
        try:
            return self._survey.free(self.elsewhere())
        except UserError as error:
            self._say_trouble(str(error))
            return []

    def lost(self) -> list[Entry]:
        """The runs that another machine took over while they are trained here, their lease not renewed in time.

        What keeps leases from being renewed is said, and when it is over.
        """
        self._say_trouble(None if self.claims is None else self.claims.trouble)
        taken = list(self.taken.values())  # the delivery's thread may leave one meanwhile
        return [entry for entry in taken if entry.is_lost and entry.state in ("new", "resume")]

    def leave(self, entry: Entry) -> Hold | None:
        """Leave a lost run to the process that took it over; return what held it here."""
        assert entry.signature is not None
        self.taken.pop(entry.signature, None)
        self.set_state(entry, "elsewhere", self._owner_of(entry.signature))
        self._say(f"{entry.label}: its lease ended, and {entry.reason or 'another process'} took it over")
        held, entry.hold = entry.hold, None
        return held

    def _owner_of(self, signature: str) -> str:
        """Who else holds the lease of a run; "" where that cannot be told."""
        try:
            return leased_elsewhere(self._options).get(signature, "")
        except UserError:
            return ""

    def _say_trouble(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._trouble:
            self._say(f"{trouble}. Training continues; whoever may reach it takes over what is not renewed.")
        elif trouble is None and self._trouble is not None:
            self._say("The leases are renewed again.")
        self._trouble = trouble
