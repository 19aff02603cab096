"""The service of webhooks: keeps them, and in a loop sends what happened since.

The log of events is the queue, and each webhook's cursor is its place in it. A request is sent outside of any transaction and the cursor
moves after it was taken: a crash in between sends it again, with the same id. Nothing waits for this loop.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from skyloom.core.errors import SkyloomError, Unavailable
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Done, Page
from skyloom.ports.clock import Clock
from skyloom.ports.door import EVENTS, Change, Handlers, Query
from skyloom.ports.lookup import owned
from skyloom.ports.outbound import Outbound
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.webhooks import model, rules
from skyloom.rooms.webhooks.model import News, Webhook
from skyloom.rooms.webhooks.ports import WEBHOOKS

log = logging.getLogger("skyloom.webhooks")
_TICK_S = 1.0
_TIMEOUT_S = 5.0
_AT_ONCE, _TURN_S = 20, 5.0  # news, or seconds, that one webhook may take before the next has its turn
_CHUNK = 1_000
_MAX_DOUBTS = 200


class Webhooks:
    """The webhooks of all projects.

    Args:
        secret_of: the secret of a webhook, by its id.
    """

    def __init__(
        self, store: Store, clock: Clock, ids: Ids, outbound: Outbound, secret_of: Callable[[str], str]
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbound = outbound
        self._secret_of = secret_of
        # By project and address, from the check to the write of a new webhook.
        self._doubts: OrderedDict[tuple[str, str], str] = OrderedDict()

    def handlers(self) -> Handlers:
        return {
            model.CreateWebhook: Change(
                self.create,
                before=self.check,
                kept=lambda made: model.IssuedWebhook(webhook=made.webhook, secret=""),
                shown=self._with_secret,
            ),
            model.ListWebhooks: Query(self.list),
            model.DeleteWebhook: Change(self.delete),
        }

    # Operations

    def check(self, ask: model.CreateWebhook, by: Caller) -> None:
        """Refuse an address that nothing may be sent to. A name that is not known now may be known when there are news; what is
        doubtful about it stands in the webhook."""
        self._doubts.pop((by.project, ask.url), None)
        try:
            self._outbound.check(ask.url)
        except Unavailable as error:
            self._doubts[by.project, ask.url] = error.message
            while (
                len(self._doubts) > _MAX_DOUBTS
            ):  # of requests that were repeated or refused, whose webhook nobody wrote
                self._doubts.popitem(last=False)

    def create(self, tx: Transaction, ask: model.CreateWebhook, by: Caller) -> model.IssuedWebhook:
        doubt = self._doubts.pop((by.project, ask.url), "")
        if tx.count(WEBHOOKS, {"project": by.project}) >= model.MAX_WEBHOOKS:
            raise model.TooManyWebhooks(
                f"A project has {model.MAX_WEBHOOKS} webhooks at most.", next_action="Delete one: skyloom webhook list."
            )
        newest = tx.entries(EVENTS, limit=1, newest_first=True)
        made = Webhook(
            id=self._ids.new("hook"),
            project=by.project,
            url=ask.url,
            kinds=tuple(dict.fromkeys(ask.kinds)),
            created_by=by.principal,
            created_at=self._clock.now(),
            cursor=newest[0][0] if newest else 0,
            last_error=doubt,
        )
        return self._with_secret(model.IssuedWebhook(webhook=tx.insert(WEBHOOKS, made), secret=""))

    def delete(self, tx: Transaction, ask: model.DeleteWebhook, by: Caller) -> Done:
        found = owned(tx, WEBHOOKS, ask.webhook_id, by.project)
        if found is None:
            raise model.WebhookMissing(
                f"There is no webhook {ask.webhook_id}.", next_action="List them: skyloom webhook list."
            )
        tx.delete(WEBHOOKS, found.id)
        return Done()

    # The loop

    def tick(self) -> float:
        """Send what there is to send. Returns the seconds until there may be more."""
        now = self._clock.now()
        waits = [_TICK_S]
        for webhook in self._store.read(lambda view: view.select(WEBHOOKS)):
            if webhook.next_try_at <= now:
                waits.append(self._send_some(webhook.id))
        return min(waits)

    def _send_some(self, webhook_id: str) -> float:
        ends_at = self._clock.monotonic() + _TURN_S
        for _ in range(_AT_ONCE):
            found = self._store.read(partial(_next, webhook_id=webhook_id))
            if found is None:
                return _TICK_S
            webhook, number, news = found
            if news is None:
                if number > webhook.cursor:
                    self._keep(changed(webhook, {"cursor": number}))
                return _TICK_S
            after = self._sent(webhook, number, news)
            self._keep(after)
            if after.failures:
                return _TICK_S
            if self._clock.monotonic() >= ends_at:
                break
        return 0.0

    def _sent(self, webhook: Webhook, number: int, news: News) -> Webhook:
        """Send one; returns the webhook as it is then."""
        body, now = rules.body_of(news), self._clock.now()
        headers = rules.signed(body, self._secret_of(webhook.id), now)
        try:
            status = self._outbound.post(webhook.url, body, headers, _TIMEOUT_S)
        except SkyloomError as error:
            return rules.failed(webhook, number, news, error.message, now)
        except Exception:
            log.exception("webhook %s cannot be sent to; the others go on", webhook.id)
            return rules.failed(webhook, number, news, "Sending failed; the log of the control plane says why.", now)
        if 200 <= status < 300:
            return rules.taken(webhook, number)
        return rules.failed(webhook, number, news, f"It answered {status}.", now)

    def _keep(self, webhook: Webhook) -> None:
        """Write down how it went, unless the webhook was deleted meanwhile. Nobody but this loop changes one."""

        def work(tx: Transaction) -> None:
            if tx.get(WEBHOOKS, webhook.id) is not None:
                tx.update(WEBHOOKS, webhook)

        self._store.write(work)

    def _with_secret(self, issued: model.IssuedWebhook) -> model.IssuedWebhook:
        return model.IssuedWebhook(webhook=issued.webhook, secret=self._secret_of(issued.webhook.id))

    def list(self, ask: model.ListWebhooks, by: Caller) -> Page[Webhook]:
        found = self._store.read(lambda view: view.select(WEBHOOKS, {"project": by.project}, limit=ask.limit))
        return Page(items=tuple(found))


def _next(view: Snapshot, webhook_id: str) -> tuple[Webhook, int, News | None] | None:
    """A webhook, its next news and the number of their event (without any: up to which there are none). None once it is deleted."""
    webhook = view.get(WEBHOOKS, webhook_id)
    if webhook is None:
        return None
    after = webhook.cursor
    while chunk := view.entries(EVENTS, {"project": webhook.project}, after=after, limit=_CHUNK):
        for number, event in chunk:
            news = rules.news_of(number, event)
            if news is not None and news.kind in webhook.kinds:
                return webhook, number, news
        after = chunk[-1][0]
    return webhook, after, None
