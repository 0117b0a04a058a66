"""What became of a state that was carried over."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


def divided(name: str) -> tuple[str, str]:
    """The name of an array: `slots/adam/mu` and the path of the parameter; else the field and what follows."""
    parts = name.split("/")
    at = 3 if parts[0] == "slots" else 1
    return "/".join(parts[:at]), "/".join(parts[at:])


@dataclass(frozen=True)
class Migration:
    """What `migrate` did, for `print`: the arrays of the states by name, as in `to_dict`, each with a remark or "".

    What the code gave (`given`) is not listed: it goes with its hyperparameter.

    Attributes:
        kept: of the new state, those that come from the old one; a remark says what was changed of them.
        new: of the new state, those that are as `tx.init` makes them.
        dropped: of the old state, those that the new one has no place for.
    """

    kept: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """A line for each slot, and for other arrays with one remark."""
        lines = []
        for title, entries in (("kept", self.kept), ("new", self.new), ("dropped", self.dropped)):
            lines.append(f"{title}:" if entries else f"{title}: nothing")
            groups: dict[tuple[str, str], list[str]] = defaultdict(list)
            for name, remark in entries.items():
                above, below = divided(name)
                groups[above, remark].append(below)
            for (above, remark), names in groups.items():
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                listed = ", ".join(filter(None, names[:5])) + more
                lines.append(f"  {above}{f': {listed}' if listed else ''}{f' ({remark})' if remark else ''}")
        return "\n".join(lines)
