"""What a campaign found: figures, and promises that were kept or broken."""

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a campaign's table.

    Attributes:
        seen: a figure, or a sentence.
        promise: what it should be, in words; "" where nothing is promised.
        kept: whether it is; None without a promise.
    """

    what: str
    seen: str
    promise: str = ""
    kept: bool | None = None


class Campaign(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign, as it went."""

    name: str
    took_s: float
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """Promises that were not kept."""
        return tuple(finding for finding in self.findings if finding.kept is False)


def figure(what: str, seen: object) -> Finding:
    """A figure without a promise."""
    return Finding(what=what, seen=f"{seen:,.3g}" if isinstance(seen, float) else str(seen))


def promise(what: str, seen: object, words: str, kept: bool) -> Finding:
    """A figure, and what it should be."""
    return Finding(what=what, seen=f"{seen:,.4g}" if isinstance(seen, float) else str(seen), promise=words, kept=kept)


def table(campaign: Campaign) -> str:
    """A campaign for people."""
    width = max(len(finding.what) for finding in campaign.findings)
    lines = [f"{campaign.name}, {campaign.took_s:.0f} s"]
    for found in campaign.findings:
        verdict = {True: f"  kept    ({found.promise})", False: f"  BROKEN  ({found.promise})", None: ""}[found.kept]
        lines.append(f"  {found.what:<{width}}  {found.seen}{verdict}")
    return "\n".join(lines)
