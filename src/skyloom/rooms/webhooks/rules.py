"""Pure decisions of webhooks: what of an event is news to whom, how it is signed, when it is tried again."""

import hmac

import msgspec

from skyloom.core.events import BudgetReached, Event, JobEnded, Moved
from skyloom.ports.store import changed
from skyloom.rooms.webhooks.model import News, NewsKind, Webhook

KEEP_S = 86_400.0
"""News older than that are dropped by an address that does not take them."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 3_600.0
_ALERT = "alert_"
_MAX_ERROR = 300


def news_of(number: int, event: Event) -> News | None:
    """What there is to tell of an event; None for what nobody can ask to hear of."""
    match event.body:
        case JobEnded(state=state, reason=reason, message=message):
            told = (NewsKind.JOB_ENDED, state, reason, message)
        case BudgetReached(threshold=threshold, over=over, message=message):
            told = (NewsKind.BUDGET, f"{threshold * 100:.0f}", "over" if over else "reached", message)
        case Moved(after=after, reason=reason, message=message) if event.subject.startswith(_ALERT):
            told = (NewsKind.ALERT, after, reason, message)
        case _:
            return None
    kind, what, reason, message = told
    return News(
        id=f"news_{number}",
        kind=kind,
        project=event.project,
        at=event.at,
        subject=event.subject,
        what=what,
        reason=reason,
        message=message,
    )


def signed(body: bytes, secret: str, now: float) -> dict[str, str]:
    """The headers that a request carries beside its body (HMAC, RFC 2104). The time is signed too, so that it cannot be repeated later."""
    moment = str(int(now))
    mac = hmac.new(secret.encode(), moment.encode() + b"." + body, "sha256").hexdigest()
    return {"Content-Type": "application/json", "Skyloom-Signature": f"t={moment},v1={mac}"}


def secret_of(key: bytes, webhook_id: str) -> str:
    """The secret of a webhook: a MAC of its id, so that none has to be stored."""
    return "whsec_" + hmac.new(key, b"webhook:" + webhook_id.encode(), "sha256").hexdigest()


def taken(webhook: Webhook, number: int) -> Webhook:
    """A webhook whose address took the news of an event."""
    fine = {"cursor": number, "num_sent": webhook.num_sent + 1, "failures": 0, "next_try_at": 0.0, "last_error": ""}
    return changed(webhook, fine)


def failed(webhook: Webhook, number: int, news: News, why: str, now: float) -> Webhook:
    """A webhook whose address did not take the news: it is tried again after a pause that doubles, or dropped when it is too old."""
    pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(webhook.failures, 20))
    trouble = {"failures": webhook.failures + 1, "next_try_at": now + pause_s, "last_error": why[:_MAX_ERROR]}
    if now - news.at > KEEP_S:
        trouble |= {"cursor": number, "num_dropped": webhook.num_dropped + 1}
    return changed(webhook, trouble)


def body_of(news: News) -> bytes:
    """The bytes that are sent and signed."""
    return msgspec.json.encode(news)
