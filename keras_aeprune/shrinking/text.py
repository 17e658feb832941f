"""Plans as tables that fit a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["plan_table", "table"]

_WIDTH = 100


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Lines of a table: the first `left` columns to the left, the others to the right.

    Example:
        >>> table(["layer", "units"], [["a", "8"], ["code", "12"]])
        ['layer  units', 'a          8', 'code      12']
    """
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [c.ljust(w) if n < left else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def arrow(before: int, after: int) -> str:
    """Two numbers, or one where nothing changes.

    Example:
        >>> arrow(1000, 50), arrow(8, 8)
        ('1,000 -> 50', '8')
    """
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def plan_table(plan: Any) -> str:
    """A `ShrinkPlan` like model.summary()."""
    rows = [
        [
            layer.path,
            layer.kind,
            arrow(*layer.units) if layer.units[0] else "",
            arrow(*layer.params),
            arrow(*layer.macs),
        ]
        for layer in plan.layers
    ]
    params, macs = plan.params, plan.macs
    rows.append(["all", "", "", arrow(*params), arrow(*macs)])
    lines = [f"Plan for {plan.model!r}: {plan.removed} of {sum(g.units for g in plan.groups)} units go"]
    lines += table(["layer", "kind", "units", "parameters", "MACs"], rows, left=2)
    lines.append(
        f"parameters x{_share(params)}, MACs x{_share(macs)}, float32 weights {4 * params[0] / 1000:,.1f} -> "
        f"{4 * params[1] / 1000:,.1f} kB"
    )
    whole = [(name, reason) for name, reason in plan.skipped if not reason.endswith("of the model")]
    if whole:
        lines.append("left whole:")
        lines += [f"  {name}: {reason}" for name, reason in whole]
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(lines)


def _share(pair: tuple[int, int]) -> str:
    return f"{pair[1] / pair[0]:.2f}" if pair[0] else "1.00"
